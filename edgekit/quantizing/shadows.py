"""Rounded weights that can learn: float shadows, straight-through gradients, and what to compare.

The gradient passes through the rounding as if it were not there (straight-through estimator, Bengio
et al. 2013, https://arxiv.org/abs/1308.3432); a block's scale has the gradient of LSQ (Esser et al.
2020, https://arxiv.org/abs/1902.08153).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import log_softmax

from edgekit.quantizing.blocks import Blocks

_CHUNK_TOKENS = 128


@dataclass(frozen=True, slots=True)
class Shadow:
    """A rounded weight and the float weight that it is rounded from.

    Attributes:
        weight: float32 (out, blocks, block_size), what is rounded.
        scales: float32 (out, blocks, 1).
        limit: Stored integers go from ``-limit`` to ``limit - 1``.
        zero_points: float32 (out, blocks, 1), the integers that stand for zero, which stay as they
            are; a single 0 where there are none.
        places: Parameters of the model that compute with the rounded weight, by name.
    """

    weight: torch.Tensor
    scales: torch.Tensor
    limit: int
    zero_points: torch.Tensor
    places: Mapping[str, torch.Tensor]

    def steps(self) -> torch.Tensor:
        """How many scales the shadow rounds to: stored integers less their zero points, float32."""
        return self.rounded(self.weight / self.scales)

    def rounded(self, steps: torch.Tensor) -> torch.Tensor:
        """Steps (out, blocks, block_size) as they can be stored, changed in place."""
        low = -self.limit - self.zero_points
        return steps.round_().clamp_(low, low + (2 * self.limit - 1))

    def blocks(self) -> Blocks:
        """The shadow as it is rounded now."""
        zeros = self.zero_points
        return Blocks(
            codes=self.steps().add_(zeros).to(torch.int8).numpy(),
            scales=np.ascontiguousarray(self.scales[..., 0].numpy()),
            bits=self.limit.bit_length(),
            zero_points=zeros[..., 0].to(torch.int8).numpy() if zeros.ndim else None,
        )


def has_fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware; elsewhere float32 is faster."""
    supported: bool = torch.cpu._is_avx512_bf16_supported()
    return supported


def make_shadow(model: Any, places: Sequence[str], blocks: Blocks) -> Shadow:
    """A shadow of a model's float weight, to be rounded as ``blocks`` are.

    Args:
        model: The float base.
        places: The weight's name, then those of other parameters that follow it.
        blocks: Give scales, zero points and bits.
    """
    floats = dict(model.named_parameters(remove_duplicate=False))
    weight = floats[places[0]].detach().float()
    fast = torch.bfloat16 if has_fast_bfloat16() else torch.float32
    zeros = np.float32(0) if blocks.zero_points is None else blocks.zero_points[..., None]
    return Shadow(
        weight=weight.reshape(blocks.codes.shape).clone(),
        scales=torch.from_numpy(blocks.scales[..., None].copy()),
        limit=1 << (blocks.bits - 1),
        zero_points=torch.tensor(zeros, dtype=torch.float32),
        # An embedding of bfloat16 would make the whole residual stream bfloat16.
        places={
            place: torch.empty_like(
                weight, dtype=torch.float32 if "embed" in place else fast
            ).requires_grad_()
            for place in places
        },
    )


@torch.no_grad()
def round_shadow(shadow: Shadow) -> None:
    """Write the rounded weight to the shadow's places."""
    values = shadow.steps().mul_(shadow.scales)
    for place in shadow.places.values():
        place.copy_(values.view_as(place))


@torch.no_grad()
def pass_gradients(shadow: Shadow) -> None:
    """From the rounded weight's gradient to the shadow's and the scales'; then forget it."""
    total = rounded_gradient(shadow)
    steps = shadow.weight / shadow.scales
    rounded = shadow.rounded(steps.clone())
    off = steps.sub_(rounded)
    outside = off.abs() > 0.5
    # Inside the range d(rounded)/d(scale) is the rounding error, outside it is the integer.
    shadow.scales.grad = torch.where(outside, rounded, off.neg_()).mul_(total).sum(-1, keepdim=True)
    shadow.weight.grad = total.masked_fill_(outside, 0)


@torch.no_grad()
def rounded_gradient(shadow: Shadow) -> torch.Tensor:
    """The gradient of the rounded weight, summed over its places, whose own is set to zero."""
    grad = shadow.weight.grad
    total = torch.zeros_like(shadow.weight) if grad is None else grad.zero_()
    for place in shadow.places.values():
        assert place.grad is not None
        total.add_(place.grad.view_as(total))
        place.grad.zero_()
    return total


def backward_kl(model: Any, shadows: Iterable[Shadow], row: torch.Tensor) -> float:
    """Compare a rounded model with its float self on a row, and add up gradients.

    Args:
        model: The float base.
        shadows: Rounded weights; their places receive the gradients.
        row: int64 (tokens,).

    Returns:
        KL(float || rounded), nats a token.
    """
    rounded = {name: value for shadow in shadows for name, value in shadow.places.items()}
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=has_fast_bfloat16()):
        with torch.no_grad():
            expected = model(row[None], use_cache=False).logits[0]
        answer = torch.func.functional_call(
            model, rounded, (row[None],), {"use_cache": False}, tie_weights=False
        )
    loss: torch.Tensor = _MeanKl.apply(  # type: ignore[no-untyped-call]
        answer.logits[0], expected
    )
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.detach())


class _MeanKl(torch.autograd.Function):
    """KL(expected || actual) of logits (tokens, vocabulary), in chunks: vocabularies are large."""

    @staticmethod
    def forward(ctx: Any, actual: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(())
        gradient = torch.empty_like(actual)
        for start in range(0, len(actual), _CHUNK_TOKENS):
            part = slice(start, start + _CHUNK_TOKENS)
            log_p = log_softmax(expected[part].float(), -1)
            log_q = log_softmax(actual[part].float(), -1)
            p = log_p.exp()
            total += (p * (log_p - log_q)).sum()
            gradient[part] = (log_q.exp() - p) / len(actual)
        ctx.save_for_backward(gradient)
        return total / len(actual)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (by_logits,) = ctx.saved_tensors
        return by_logits * gradient, None
