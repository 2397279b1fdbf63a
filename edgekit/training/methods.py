"""From a base to the model that a recipe's method trains, and back to the untouched base."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.building.dequantize import dequantized, quantization_fingerprint
from edgekit.building.device_weights import device_weights
from edgekit.building.reference import replace_weights
from edgekit.errors import PeftAdapterError, RecipeError
from edgekit.method_recipes import NF4
from edgekit.quantizing.options import as_texts
from edgekit.targets import TargetProfile
from edgekit.training.argument_checks import has_fast_bf16
from edgekit.training.arguments import lora_config
from edgekit.training.checkpoint import files_of, read_tensor
from edgekit.training.events import Message, OnEvent
from edgekit.training.nf4 import nf4_options
from edgekit.training.prepare import Prepared
from edgekit.training.processes import processes

_INITIAL = "initial"
_EVA_BATCH = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedModel:
    """What a recipe's method trains.

    Attributes:
        model: A transformers model, or the PeftModel around one.
        quantization: Of a target's weights: its name, the weights' fingerprint, the options; None
            where the base is not a target's.
        is_packed: Whether the frozen weights are held in the target's own bits.
    """

    model: Any
    quantization: Mapping[str, Any] | None = None
    is_packed: bool = False


def trained_model(
    prepared: Prepared, checkpoints: Path, tell: OnEvent, *, on_cpu: bool
) -> TrainedModel:
    """Load the base and make of it what the recipe's method trains.

    Args:
        prepared: What is to be trained on what.
        checkpoints: Where the start of an adapter that takes from the base is kept.
        tell: Told of what takes time.
        on_cpu: Whether the run takes place on the CPU.

    Raises:
        RecipeError: If the method cannot be used with the base.
    """
    import torch
    from transformers import AutoModelForCausalLM

    recipe = prepared.recipe
    # On a GPU the frozen weights are held in bfloat16, half the memory; what is trained is float32.
    is_half = recipe.method != "full" and not on_cpu and has_fast_bf16(use_cpu=False)
    dtype = torch.bfloat16 if is_half else torch.float32
    if prepared.profile is not None:
        return _on_device_weights(prepared, prepared.profile, checkpoints, tell, dtype)
    options = nf4_options(dtype) if recipe.weights == NF4 else {}
    model = AutoModelForCausalLM.from_pretrained(prepared.base.path, dtype=dtype, **options)
    if recipe.method == "full":
        return TrainedModel(model=model)
    if recipe.method == "bottleneck":
        from edgekit.training.bottleneck import add_bottlenecks

        try:
            add_bottlenecks(model, recipe.bottleneck)
        except PeftAdapterError as err:
            raise RecipeError(f"method bottleneck cannot be used: {err}") from err
        return TrainedModel(model=model)
    return TrainedModel(model=_with_lora(prepared, model, checkpoints, tell))


def _on_device_weights(
    prepared: Prepared, profile: TargetProfile, checkpoints: Path, tell: OnEvent, dtype: Any
) -> TrainedModel:
    """A target's own weights, packed; as floats where a run changes them."""
    from edgekit.training.packed_base import load_packed

    weights = device_weights(prepared.base, profile, lambda text: tell(Message(text=text)))
    quantization = {
        "target": profile.name,
        "fingerprint": quantization_fingerprint(weights),
        "options": as_texts(profile.quantization),
    }
    is_packed = not prepared.recipe.lora.needs_float_base
    if is_packed:
        model = load_packed(prepared.base.path, weights, dtype=dtype)
    else:
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(prepared.base.path, dtype=dtype)
        replace_weights(model, {name: w.values for name, w in dequantized(weights).items()})
    return TrainedModel(
        model=_with_lora(prepared, model, checkpoints, tell),
        quantization=quantization,
        is_packed=is_packed,
    )


def initial_adapter(prepared: Prepared, checkpoints: Path) -> Path | None:
    """Where the first A and B lie that were taken out of the base; None where nothing was."""
    changes_base = prepared.recipe.method != "full" and prepared.recipe.lora.changes_base
    return checkpoints / _INITIAL if changes_base else None


def _with_lora(prepared: Prepared, model: Any, checkpoints: Path, tell: OnEvent) -> Any:
    from peft import get_peft_model

    recipe = prepared.recipe
    init = recipe.lora.init_lora_weights
    if not isinstance(init, bool):
        tell(Message(text=f"initializing the adapter: {init}"))
    try:
        adapted = get_peft_model(model, lora_config(recipe.lora, use_dora=recipe.method == "dora"))
        if init == "eva":
            _start_from_activations(adapted, prepared)
    except (ValueError, AttributeError) as err:  # PEFT's own, for modules that do not exist
        raise RecipeError(f"lora cannot be used with '{prepared.base.name}': {err}") from err
    if init == "loftq":
        _start_from_rounding(adapted, prepared.base.path)
    initial = initial_adapter(prepared, checkpoints)
    is_kept = initial is None or (initial / "adapter_config.json").is_file()
    if initial is not None and not is_kept and processes().is_first:
        _save_initial(adapted, initial)
    return adapted


def _save_initial(adapted: Any, directory: Path) -> None:
    """Keep the first A and B; PEFT wants them to say that they start as LoRA does."""
    config = adapted.peft_config["default"]
    init, config.init_lora_weights = config.init_lora_weights, True
    adapted.save_pretrained(directory, save_embedding_layers=False)
    config.init_lora_weights = init


def _start_from_activations(adapted: Any, prepared: Prepared) -> None:
    """EVA: A from the main directions of what reaches each linear, ranks where they explain most.

    Source: Paischer et al. 2024, https://arxiv.org/abs/2410.07170, as PEFT has it.
    """
    from peft import initialize_lora_eva_weights

    from edgekit.training.trainer import PaddingCollator

    collate = PaddingCollator(min(prepared.end_ids))
    rows = prepared.train.sequences
    batches = []
    for start in range(0, len(rows), _EVA_BATCH):
        batch = collate(rows[start : start + _EVA_BATCH])
        device = adapted.device
        batches.append({k: batch[k].to(device) for k in ("input_ids", "attention_mask")})
    initialize_lora_eva_weights(adapted, batches, show_progress_bar=False)


def _start_from_rounding(adapted: Any, base: Path) -> None:
    """LoftQ's start: ``B A`` is the best rank-r part of what rounding took from each weight.

    Source: Li et al. 2023, https://arxiv.org/abs/2310.08659; one step, the device's own rounding.
    """
    import torch

    files = files_of(base)
    for name, layer in _lora_layers(adapted):
        device_weight = layer.get_base_layer().weight
        lost = read_tensor(files, name).to(device_weight) - device_weight.detach()
        u, s, v = torch.linalg.svd(lost.float(), full_matrices=False)
        r, scaling = layer.r["default"], layer.scaling["default"]
        root = (s[:r] / scaling).sqrt()
        with torch.no_grad():
            layer.lora_A["default"].weight[: len(root)].copy_(root[:, None] * v[:r])
            layer.lora_B["default"].weight[:, : len(root)].copy_(u[:, :r] * root)


def _lora_layers(adapted: Any) -> Iterator[tuple[str, Any]]:
    from peft.tuners.lora import Linear

    for name, module in adapted.get_base_model().named_modules():
        if isinstance(module, Linear):
            yield f"{name}.weight", module
