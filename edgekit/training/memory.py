"""How much memory a run will take, before it starts, and what would make it fit.

Activations are counted by what PyTorch keeps for the backward pass of one decoder layer: bytes
per token, as ``torch.autograd.graph.saved_tensors_hooks`` counted them on Llama layers.
"""

import ctypes
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from edgekit.building.base_shape import BaseShape
from edgekit.recipes import TrainRecipe
from edgekit.training.tokens import TokenizedExample

# Values of a packed weight that are dequantized at once: 64 MB of float32.
CHUNK_VALUES = 1 << 24
# Bytes kept per token and layer: times the hidden size, times the MLP's width; then bytes kept per
# weight of a linear, whatever the batch (autocast's copies, DoRA's norms).
_KEPT = {
    ("lora", "float32"): (33.3, 16.0, 0.0),
    ("lora", "half"): (28.7, 8.0, 2.1),
    ("dora", "float32"): (62.6, 32.0, 5.0),
    ("dora", "half"): (43.4, 16.0, 4.6),
    ("full", "float32"): (40.5, 16.0, 0.0),
    ("full", "half"): (34.3, 8.0, 2.0),
}
# A learnt position's logits: as computed, as float32, their log-softmax, and two gradients.
_LOGIT_BYTES = {"float32": 20, "half": 18}
# Of a value of a packed weight: float32, its codes, and a copy in autocast's type.
_DEQUANTIZED_BYTES = 7
_LOSS_COPIES = 2  # of a user's loss, which takes logits of all positions, learnt or not
# What the allocator keeps beside what is asked for: a share of what comes and goes.
_SLACK = 1.15
_M_MMAP_THRESHOLD = -3
_RETURNED_BYTES = 1024**2
TOO_MUCH = 1.5  # an estimate is off by a quarter at most, so this is no matter of doubt


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSize:
    """What decides how much memory a run takes.

    Attributes:
        method: Of the recipe.
        n_trainable: Parameters that are trained.
        tokens: Of the largest batch, padding included.
        learnt: Positions of it that the loss takes logits of.
        is_half: Whether matrices are multiplied in bfloat16 or float16.
        is_checkpointed: Whether activations are computed twice instead of kept.
        weight_bytes: Of one weight of the base.
        process_bytes: What the process holds without a model.
        packed_bytes: Of a base that is held in few bits and dequantized when it is multiplied with;
            0 where it is held in floats.
        loading_bytes: What loading holds beside the weights, and training no longer.
    """

    shape: BaseShape
    method: str
    n_trainable: int
    tokens: int
    learnt: int
    is_half: bool
    is_checkpointed: bool
    weight_bytes: int
    process_bytes: int
    packed_bytes: int = 0
    loading_bytes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryEstimate:
    """Bytes of a run at its peak, by what they are for.

    Attributes:
        process_bytes: Python and its libraries.
        loading_bytes: What loading holds beside the weights, and training no longer.
        dequantized_bytes: The part of a packed weight that is multiplied with.
    """

    process_bytes: int
    weights_bytes: int
    loading_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    logits_bytes: int
    dequantized_bytes: int

    @property
    def total_bytes(self) -> int:
        """The peak: in the backward pass, or while loading where that takes more."""
        training = (
            self.gradients_bytes
            + self.optimizer_bytes
            + self.activations_bytes
            + self.logits_bytes
            + self.dequantized_bytes
        )
        return self.process_bytes + self.weights_bytes + max(training, self.loading_bytes)

    @property
    def sentence(self) -> str:
        """One line to show."""
        parts = {
            "process": self.process_bytes,
            "weights": self.weights_bytes,
            "gradients": self.gradients_bytes,
            "optimizer": self.optimizer_bytes,
            "activations": self.activations_bytes,
            "logits": self.logits_bytes,
            "dequantized": self.dequantized_bytes,
        }
        listed = ", ".join(f"{name} {show_gb(value)}" for name, value in parts.items() if value)
        return f"about {show_gb(self.total_bytes)} ({listed})"

    def to_dict(self) -> dict[str, int]:
        """Plain values for JSON."""
        return {**asdict(self), "total_bytes": self.total_bytes}


def return_freed_memory() -> None:
    """Let glibc give tensors of 1 MB and more back as soon as they are freed.

    By default it raises that bound to 32 MB as a run goes on, and keeps the holes that activations
    leave between each other: a step took up to three times its memory. Elsewhere nothing is done.

    Source: mallopt(3), M_MMAP_THRESHOLD.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, _RETURNED_BYTES)


def estimate(size: RunSize) -> MemoryEstimate:
    """Add up a run's memory at its peak, the backward pass of its largest batch."""
    kind = size.method if size.method in {"full", "dora"} else "lora"
    precision = "half" if size.is_half else "float32"
    per_hidden, per_mlp, per_weight = _KEPT[kind, precision]
    shape = size.shape
    layer = (per_hidden * shape.hidden_size + per_mlp * shape.mlp_size) * size.tokens
    if not size.packed_bytes:  # no copy of a dequantized weight is kept
        layer += per_weight * shape.n_linear_weights / shape.n_layers
    kept = shape.n_layers * layer
    if size.is_checkpointed:
        kept = layer + 4 * shape.hidden_size * size.tokens * shape.n_layers
    return MemoryEstimate(
        process_bytes=size.process_bytes,
        weights_bytes=size.packed_bytes or shape.n_weights * size.weight_bytes,
        loading_bytes=size.loading_bytes,
        gradients_bytes=4 * size.n_trainable,
        optimizer_bytes=8 * size.n_trainable,  # AdamW's two moments
        activations_bytes=round(_SLACK * kept),
        logits_bytes=round(_SLACK * _LOGIT_BYTES[precision] * size.learnt * shape.vocab_size),
        dequantized_bytes=_DEQUANTIZED_BYTES * _largest_chunk(shape) if size.packed_bytes else 0,
    )


def _largest_chunk(shape: BaseShape) -> int:
    """Values of a packed weight that are floats at once."""
    largest = max(shape.n_table_weights, *(out * into for out, into in shape.linears.values()))
    return min(CHUNK_VALUES, largest)


def run_size(
    recipe: TrainRecipe,
    shape: BaseShape,
    rows: Sequence[TokenizedExample],
    arguments: Any,
    *,
    weight_bytes: int,
    process_bytes: int,
    packed_bytes: int = 0,
    loading_bytes: int = 0,
) -> RunSize:
    """The size of a run on tokenized rows.

    Args:
        recipe: Its method and ranks.
        shape: Of the base.
        rows: Training rows; the longest ones of a batch decide.
        arguments: transformers' TrainingArguments.
        weight_bytes: Of one frozen weight.
        process_bytes: What the process holds without a model.
        packed_bytes: Of a base that is held in few bits.
        loading_bytes: What loading holds beside the weights.
    """
    batch = int(arguments.train_batch_size)
    tokens = batch * max(len(row.input_ids) for row in rows)
    learnt = sum(sorted(sum(label >= 0 for label in row.labels) for row in rows)[-batch:])
    return RunSize(
        shape=shape,
        method=recipe.method,
        n_trainable=_n_trainable(recipe, shape),
        tokens=tokens,
        learnt=_LOSS_COPIES * tokens if recipe.loss else learnt,
        is_half=bool(arguments.bf16 or arguments.fp16),
        is_checkpointed=bool(arguments.gradient_checkpointing),
        weight_bytes=weight_bytes,
        process_bytes=process_bytes,
        packed_bytes=packed_bytes,
        loading_bytes=loading_bytes,
    )


def _n_trainable(recipe: TrainRecipe, shape: BaseShape) -> int:
    """Trained parameters; a pattern of modules is counted as all of them."""
    if recipe.method == "full":
        return shape.n_weights
    if recipe.method == "bottleneck":
        width = shape.hidden_size / recipe.bottleneck.reduction_factor
        return round(2 * shape.n_layers * 2 * shape.hidden_size * width)
    lora = recipe.lora
    names = None if isinstance(lora.target_modules, str) else set(lora.target_modules)
    linears = [
        sizes
        for module, sizes in shape.linears.items()
        if names is None or module.rpartition(".")[2] in names
    ]
    whole = sum(
        shape.n_table_weights
        for name in lora.modules_to_save or ()
        if name in {"lm_head", "embed_tokens"}
    )
    return whole + sum(lora.r * (out + into) for out, into in linears)


def advice(size: RunSize, batch: int, max_length: int) -> Iterator[str]:
    """What would make a run smaller, the most painless first, each with what it would take."""
    ways: list[tuple[str, Callable[[RunSize], RunSize] | None]] = [
        (
            "training.gradient_checkpointing: true (a third slower)",
            None if size.is_checkpointed else lambda s: replace(s, is_checkpointed=True),
        ),
        (
            f"training.per_device_train_batch_size: {max(1, batch // 4)} with "
            "gradient_accumulation_steps to make up for it",
            (lambda s: replace(s, tokens=s.tokens // 4, learnt=s.learnt // 4))
            if batch >= 4
            else None,
        ),
        (
            f"data.max_length: {max_length // 2}",
            lambda s: replace(s, tokens=s.tokens // 2, learnt=s.learnt // 2),
        ),
        (
            "method: lora, which trains a small part",
            (lambda s: replace(s, method="lora", n_trainable=s.n_trainable // 50))
            if size.method in {"full", "dora"}
            else None,
        ),
        (
            "a smaller lora.r",
            (lambda s: replace(s, n_trainable=s.n_trainable // 2))
            if size.method in {"lora", "qlora", "dora"}
            else None,
        ),
    ]
    total = estimate(size).total_bytes
    for words, change in ways:
        if change is not None and (smaller := estimate(change(size)).total_bytes) < 0.97 * total:
            yield f"{words}: about {show_gb(smaller)}"


def show_gb(n_bytes: float) -> str:
    """Bytes as people read them."""
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB"
