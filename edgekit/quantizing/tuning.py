"""Tune rounded weights end to end, so that the model answers as its float original does.

Every rounded weight keeps a float shadow. A step rounds the shadows, compares the next-token
distribution with the float model's on one row of calibration tokens, and moves shadows and block
scales down the gradient of KL(float || rounded): quantization-aware training with the base as its
own teacher (LLM-QAT, Liu et al. 2023, https://arxiv.org/abs/2305.17888). Integers and scales move;
norms and biases stay.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from edgekit.quantizing.blocks import Blocks
from edgekit.quantizing.shadows import backward_kl, make_shadow, pass_gradients, round_shadow

WARMUP_STEPS = 5


def tune_blocks(
    model: Any,
    start: Mapping[str, Blocks],
    rows: torch.Tensor,
    *,
    tied: Mapping[str, Sequence[str]],
    steps: int,
    shadow_rate: float = 0.005,
    scale_rate: float = 1e-3,
    on_step: Callable[[int, float], None] = lambda _step, _kl: None,
) -> dict[str, Blocks]:
    """Tune the blocks of a model against its float self.

    Args:
        model: The float base in transformers; it stays as it is.
        start: First guess by weight name; other weights stay float.
        rows: int64 (rows, tokens) to compare on, one row a step, again from the top at the end.
        tied: Other parameters that compute with the very same blocks, by weight name.
        steps: Steps of AdamW.
        shadow_rate: How far a step may move a shadow, as a share of the weight's mean block scale.
        scale_rate: The same for a block's scale.
        on_step: Called with the number of steps done, and the last one's KL in nats.

    Returns:
        Tuned blocks, of the same shapes and bits.
    """
    shadows = {
        name: make_shadow(model, [name, *tied.get(name, ())], blocks)
        for name, blocks in start.items()
    }
    groups = []
    for shadow in shadows.values():
        step_size = float(shadow.scales.abs().mean())
        groups.append({"params": [shadow.weight], "peak": shadow_rate * step_size})
        groups.append({"params": [shadow.scales], "peak": scale_rate * step_size})
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * _schedule(step, steps)
        for shadow in shadows.values():
            round_shadow(shadow)
        kl = backward_kl(model, shadows.values(), rows[step % len(rows)])
        for shadow in shadows.values():
            pass_gradients(shadow)
        optimizer.step()
        on_step(step + 1, kl)
    return {name: shadow.blocks() for name, shadow in shadows.items()}


def _schedule(step: int, steps: int) -> float:
    """Share of the peak rate: a short linear start, then half a cosine down to a fiftieth."""
    warm = min(1.0, (step + 1) / WARMUP_STEPS)
    return warm * max(0.02, 0.5 * (1 + math.cos(math.pi * step / steps)))
