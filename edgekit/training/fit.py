"""Does a run fit this machine? Asked before a weight is loaded."""

from dataclasses import replace
from typing import Any

from edgekit.building.base_shape import BaseShape, shape_of
from edgekit.building.export import export_path, is_intact, rounds_here
from edgekit.building.memory import disk_bytes
from edgekit.errors import RecipeError
from edgekit.method_recipes import NF4
from edgekit.training.events import Message, OnEvent
from edgekit.training.memory import (
    TOO_MUCH,
    MemoryEstimate,
    advice,
    estimate,
    run_size,
    show_gb,
)
from edgekit.training.prepare import Prepared
from edgekit.training.processes import processes

# What a run imports after this is asked: PEFT, the Trainer, scoring and drawing.
_LATER_IMPORTS_BYTES = 100 * 1024**2
# Of one weight while a base is quantized, or dequantized beside its floats: a float and a code.
_FLOAT_COPY_BYTES = 5
# Half a byte, and a scale of 8 bits for each block of 64 (double quantization).
_NF4_BYTES = 0.516


def check_memory(
    prepared: Prepared, arguments: Any, tell: OnEvent, *, force: bool
) -> tuple[MemoryEstimate, tuple[str, ...]]:
    """Estimate a run's memory, show it, and refuse a run that cannot fit.

    Args:
        prepared: The run.
        arguments: transformers' TrainingArguments.
        tell: Told of the estimate.
        force: Go on even if it is far over what is there.

    Returns:
        The estimate, and a warning where it does not fit.

    Raises:
        RecipeError: If it is more than half as much again as what is there.
    """
    on_gpu = not arguments.use_cpu
    shape = shape_of(prepared.base)
    packed, loading = _quantized_bytes(prepared, shape, on_gpu=on_gpu)
    size = run_size(
        prepared.recipe,
        shape,
        prepared.training_rows,
        arguments,
        weight_bytes=2 if on_gpu and prepared.recipe.method != "full" else 4,
        process_bytes=0 if on_gpu else _rss_bytes() + _LATER_IMPORTS_BYTES,
        packed_bytes=packed,
        loading_bytes=loading,
    )
    found = estimate(size)
    available = _available_bytes(on_gpu=on_gpu)
    text = f"memory: {found.sentence}; {show_gb(available)} are there"
    if found.total_bytes <= available:
        tell(Message(text=text))
        return found, ()
    ways = list(
        advice(size, int(arguments.train_batch_size), max_length=prepared.recipe.data.max_length)
    )
    if found.total_bytes > TOO_MUCH * available and not force:
        raise RecipeError(
            f"the run does not fit this machine: {found.sentence}; {show_gb(available)} are there",
            problems=[f"it would take less with {way}" for way in ways],
            hint="Change the recipe, or --force to try it as it is.",
        )
    warning = f"{text}; it may not fit. It takes less with " + "; ".join(ways)
    tell(Message(text=warning, is_warning=True))
    return found, (warning,)


def _quantized_bytes(prepared: Prepared, shape: BaseShape, *, on_gpu: bool) -> tuple[int, int]:
    """What a base takes in few bits, 0 where it is held in floats; and what loading adds."""
    recipe, profile = prepared.recipe, prepared.profile
    if recipe.weights == NF4:
        tables = (shape.n_weights - shape.n_linear_weights) * (2 if on_gpu else 4)
        return round(_NF4_BYTES * shape.n_linear_weights) + tables, 0
    if profile is None:
        return 0, 0
    if recipe.lora.needs_float_base:
        return 0, _FLOAT_COPY_BYTES * shape.n_weights
    stored = disk_bytes(replace(shape, max_positions=0), profile)  # without rotary tables
    loading = stored  # the file's pages, while they are copied
    is_ready = profile.builder != "static" and is_intact(export_path(prepared.base, profile))
    if rounds_here(profile) and not is_ready:
        loading = max(loading, _FLOAT_COPY_BYTES * shape.n_weights)
    return stored, loading


def _rss_bytes() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


def _available_bytes(*, on_gpu: bool) -> int:
    """What a process may take: its share of what is free, and what it holds already."""
    import psutil

    if on_gpu:
        import torch

        if torch.cuda.is_available():
            return int(torch.cuda.mem_get_info()[0])
    return int(psutil.virtual_memory().available) // processes().n_here + _rss_bytes()
