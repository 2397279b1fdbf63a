"""A base whose quantized weights are a target's own, packed in memory from the start.

The float weights are never loaded: the model is made without memory, the packed weights are put
in, and only what the graph does not quantize (norms, biases) is read from the checkpoint.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgekit.building.dequantize import PackedWeight
from edgekit.errors import RecipeError
from edgekit.training.checkpoint import HEAD, TABLE, files_of, read_tensor, stored_name
from edgekit.training.packed_linear import PackedEmbedding, PackedLinear, PackedRows


def load_packed(
    base: Path, weights: Mapping[str, Sequence[PackedWeight]], *, dtype: torch.dtype
) -> Any:
    """Load a base in evaluation mode, its quantized weights packed.

    Args:
        base: Hugging Face directory.
        weights: By Hugging Face name, see :func:`edgekit.building.dequantize.packed_weights`.
        dtype: Of everything that is not packed, and of the activations.

    Raises:
        RecipeError: If a weight is neither in the graph nor in the checkpoint.
    """
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    config = AutoConfig.from_pretrained(base)
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    if (base / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(base)
    rows = {name: [PackedRows(part) for part in parts] for name, parts in weights.items()}
    if _is_same(weights.get(HEAD, ()), weights.get(TABLE, ())):
        rows[HEAD] = rows[TABLE]
    for name, parts in rows.items():
        _put_packed(model, name.removesuffix(".weight"), parts, weights[name][0].input_scale)
    _load_the_rest(model, base, dtype)
    return model.eval()


@contextmanager
def on_float_weights(model: Any, base: Path) -> Iterator[None]:
    """Compute with the checkpoint's own weights for a while, read anew as each is needed.

    Args:
        model: Of :func:`load_packed`, or the PeftModel around one.
        base: What it was loaded from.
    """
    files = files_of(base)
    changed: list[Any] = []
    try:
        for path, module in model.named_modules():
            if not isinstance(module, PackedLinear | PackedEmbedding):
                continue
            name = path.removeprefix("base_model.model.").replace(".base_layer", "") + ".weight"
            rows = _FileRows(files, stored_name(files, name), like=module)
            module.instead = [rows] if isinstance(module, PackedLinear) else rows
            changed.append(module)
        yield
    finally:
        for module in changed:
            module.instead = None


class _FileRows:
    """Rows of a weight in a checkpoint, which the system maps and drops as it likes."""

    def __init__(self, files: Mapping[str, Path], name: str, *, like: torch.nn.Module) -> None:
        from safetensors import safe_open

        self._like = like
        with safe_open(files[name], framework="pt") as opened:
            self._slice = opened.get_slice(name)
        self.n_rows, self.columns = self._slice.get_shape()

    def floats(self, start: int, stop: int) -> torch.Tensor:
        """The weight of rows from start to stop, float32 (rows, in)."""
        device = next(self._like.buffers()).device
        found: torch.Tensor = self._slice[start:stop]
        return found.to(device, torch.float32)


def _is_same(left: Sequence[PackedWeight], right: Sequence[PackedWeight]) -> bool:
    """Whether a head and an embedding are one table."""
    if len(left) != 1 or len(right) != 1:
        return False
    one, other = left[0], right[0]
    return (one.bits, one.columns, one.codes.shape) == (
        other.bits,
        other.columns,
        other.codes.shape,
    ) and all(
        np.array_equal(getattr(one, key), getattr(other, key))
        for key in ("codes", "scales", "zero_points")
        if getattr(one, key) is not None or getattr(other, key) is not None
    )


def _put_packed(model: Any, path: str, parts: Sequence[PackedRows], input_scale: float) -> None:
    original = model.get_submodule(path)
    parent, _, name = path.rpartition(".")
    if isinstance(original, torch.nn.Embedding):
        packed: torch.nn.Module = PackedEmbedding(parts[0], original)
    else:
        packed = PackedLinear(parts, original.bias, original.weight.dtype, input_scale=input_scale)
    setattr(model.get_submodule(parent), name, packed)


def _load_the_rest(model: Any, base: Path, dtype: torch.dtype) -> None:
    """Give every parameter that is still without memory its value."""
    files = files_of(base)
    lacking = []
    for name, parameter in list(model.named_parameters(remove_duplicate=False)):
        if not parameter.is_meta:
            continue
        if stored_name(files, name) not in files:
            lacking.append(f"{name}: not in the checkpoint")
            continue
        value = read_tensor(files, name).to(dtype)
        path, _, last = name.rpartition(".")
        setattr(model.get_submodule(path), last, torch.nn.Parameter(value, requires_grad=False))
    if lacking:
        raise RecipeError(f"base '{base.name}' cannot be loaded", problems=lacking)
