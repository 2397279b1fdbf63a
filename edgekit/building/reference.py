"""The PyTorch original that the parity gate compares with, adapters attached through PEFT."""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.bases import Base
from edgekit.quantizing.weights import EMBEDDING, HEAD

Array = npt.NDArray[np.float32]


class TorchReference:
    """A base in float32 with every adapter attached.

    Args:
        model: A transformers model, or a PeftModel around one.
        slots: Adapter name to the name that PEFT knows it by.
    """

    def __init__(self, model: Any, slots: Mapping[str, str]) -> None:
        self._model = model
        self._slots = slots

    def logits(self, adapter: str, row: Sequence[int]) -> Any:
        """Logits (positions, vocabulary) with an adapter, or without one for ``""``."""
        import torch

        ids = torch.tensor([list(row)])
        with torch.inference_mode():
            if not self._slots:
                return self._model(ids).logits[0]
            if not adapter:
                with self._model.disable_adapter():
                    return self._model(ids).logits[0]
            self._model.set_adapter(self._slots[adapter])
            return self._model(ids).logits[0]

    def weight(self, name: str) -> Array:
        """A weight of the base, by its Hugging Face name."""
        return np.asarray(_parameters(self._model)[name].detach().numpy())

    def replace_weights(self, weights: Mapping[str, Array]) -> None:
        """Compute with these base weights from here on."""
        replace_weights(self._model, weights)

    def round_to_float16(self, *, keep: Collection[str], norms: bool = True) -> None:
        """Round what a float16 graph holds in float16: adapters, norms, biases, rope tables.

        B is rounded with its scale, as it is converted; Gemma's norms with the 1 that they add.

        Args:
            keep: Names of the base's weights that are what the graph has already.
            norms: Whether the graph holds norms in float16; Gemma 2's and 3's are float32.
        """
        import torch
        from peft.tuners.lora import LoraLayer

        with torch.no_grad():
            adds_one = self._model.config.model_type.startswith("gemma")
            for name, parameter in _parameters(self._model).items():
                if "lora_" in name or name in keep or ("norm" in name and not norms):
                    continue
                offset = 1.0 if "norm" in name and adds_one else 0.0
                parameter.copy_((parameter + offset).half().float() - offset)
            for module in self._model.modules():
                if type(module).__name__.endswith("RotaryEmbedding"):
                    module.register_forward_hook(_rounded_tables)
                scales = module.scaling if isinstance(module, LoraLayer) else {}
                for slot, scale in scales.items():
                    a, b = (getattr(module, half)[slot].weight for half in ("lora_A", "lora_B"))
                    a.copy_(a.half())
                    b.copy_((b * scale).half().float() / scale)


def _rounded_tables(_module: Any, _inputs: Any, tables: Any) -> Any:
    return tuple(table.half().to(table.dtype) for table in tables)


def replace_weights(model: Any, weights: Mapping[str, Array]) -> None:
    """Give a transformers model, or the PeftModel around one, other base weights, in place.

    Args:
        model: The model.
        weights: By Hugging Face name, ``model.layers.0.self_attn.q_proj.weight`` etc.
    """
    import torch

    both = [weights[name] for name in (HEAD, EMBEDDING) if name in weights]
    if len(both) == 1 or (len(both) == 2 and not np.array_equal(both[0], both[1])):
        # The graph rounds only one of the two, or scales what the head reads.
        head = model.get_output_embeddings()
        head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    parameters = _parameters(model)
    with torch.no_grad():
        for name, weight in weights.items():
            parameters[name].copy_(torch.from_numpy(weight))


def _parameters(model: Any) -> dict[str, Any]:
    return {
        key.removeprefix("base_model.model.").replace(".base_layer.", "."): parameter
        for key, parameter in model.named_parameters(remove_duplicate=False)
    }


@contextmanager
def torch_reference(base: Base, adapters: Mapping[str, Path]) -> Iterator[TorchReference]:
    """Load a base and attach adapters.

    Args:
        base: The float base.
        adapters: Name to PEFT directory.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32).eval()
    slots = {name: f"adapter{index}" for index, name in enumerate(adapters)}
    for name, slot in slots.items():
        path = os.fspath(adapters[name])
        if isinstance(model, PeftModel):
            model.load_adapter(path, adapter_name=slot)
        else:
            model = PeftModel.from_pretrained(model, path, adapter_name=slot)
    yield TorchReference(model.eval(), slots)
