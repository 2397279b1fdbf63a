"""How sure a rounded base is of its next token: one factor on what its head reads sets it right.

Rounding errors are noise in the logits, and by the luck of the calibration text a base comes out
surer or less sure than it was. A temperature mends that (Guo et al. 2017,
https://arxiv.org/abs/1706.04599), here found against the float model instead of labels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn.functional import log_softmax

from edgekit.quantizing.blocks import Blocks

# Every number of this grid near 1 is exact in float16, too.
_STEPS = 128
_MOST = 0.25
_CHUNK_TOKENS = 128


def head_factor(
    model: Any,
    blocks: Mapping[str, Blocks],
    rows: torch.Tensor,
    *,
    tied: Mapping[str, Sequence[str]],
) -> float:
    """The factor on the head's input that brings a rounded model nearest to its float self.

    One step of Newton's method from 1, on KL(float || rounded) as a function of the factor. Its
    slope is E_q[z] - E_p[z] and its curvature Var_q[z], where z is what a logit gains with the
    factor, q the rounded model's distribution and p the float one's.

    Args:
        model: The float base in transformers; it stays as it is.
        blocks: Rounded weights by name.
        rows: int64 (rows, tokens) of calibration text.
        tied: Other parameters that compute with the very same blocks, by weight name.

    Returns:
        A multiple of 1/128 from 0.75 to 1.25.
    """
    rounded: dict[str, torch.Tensor] = {}
    for name, block in blocks.items():
        values = torch.from_numpy(block.values())
        rounded |= dict.fromkeys((name, *tied.get(name, ())), values)
    cap = getattr(model.config, "final_logit_softcapping", None)
    slope = curvature = 0.0
    with torch.inference_mode():
        for row in rows:
            expected = model(row[None], use_cache=False).logits[0]
            actual = torch.func.functional_call(
                model, rounded, (row[None],), {"use_cache": False}, tie_weights=False
            ).logits[0]
            for start in range(0, len(row), _CHUNK_TOKENS):
                part = slice(start, start + _CHUNK_TOKENS)
                p = log_softmax(expected[part], -1).exp_()
                q = log_softmax(actual[part], -1).exp_()
                gains = _gains(actual[part], cap)
                mean = (q * gains).sum(-1, keepdim=True)
                slope += float((mean - (p * gains).sum(-1, keepdim=True)).sum())
                curvature += float((q * (gains - mean).square_()).sum())
    factor = 1.0 - slope / curvature if curvature else 1.0
    return round(min(1 + _MOST, max(1 - _MOST, factor)) * _STEPS) / _STEPS


def _gains(logits: torch.Tensor, cap: float | None) -> torch.Tensor:
    """What each logit gains with a factor on the head's input; Gemma 2 bends them with a cap."""
    if not cap:
        return logits
    bent = (logits / cap).clamp(-1 + 1e-6, 1 - 1e-6)
    return cap * torch.atanh(bent) * (1 - bent.square())
