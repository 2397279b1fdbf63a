"""Which weights suffer most from 4 bits: the ones that are worth 8."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from edgekit.quantizing.blocks import Blocks
from edgekit.quantizing.shadows import backward_kl, make_shadow, round_shadow, rounded_gradient
from edgekit.quantizing.weights import site_of

_ROWS = 8


def kl_by_site(
    model: Any,
    blocks: Mapping[str, Blocks],
    rows: torch.Tensor,
    *,
    tied: Mapping[str, Sequence[str]],
) -> dict[str, float]:
    """Each site's part in the KL that rounding all of them costs.

    Near the float weights KL is quadratic in the rounding errors d, so its gradient g at the
    rounded weights is H d, and the sites' ``d . g / 2`` add up to the KL: one pass forward and one
    back measure all sites at a time.

    Args:
        model: The float base in transformers; it stays as it is.
        blocks: Rounded weights, by name.
        rows: int64 (rows, tokens); the first few are used.
        tied: Other parameters that compute with the very same blocks, by weight name.

    Returns:
        Nats a token by site, see ``site_of``.
    """
    shadows = {
        name: make_shadow(model, [name, *tied.get(name, ())], rounded)
        for name, rounded in blocks.items()
    }
    for shadow in shadows.values():
        round_shadow(shadow)
    used = rows[:_ROWS]
    for row in used:
        backward_kl(model, shadows.values(), row)
    parts: dict[str, float] = defaultdict(float)
    for name, shadow in shadows.items():
        error = shadow.steps().mul_(shadow.scales).sub_(shadow.weight)
        parts[site_of(name)] += float((error * rounded_gradient(shadow)).sum()) / 2 / len(used)
    return dict(parts)


def worth_eight_bits(
    parts: Mapping[str, float], costs: Mapping[str, float], budget_bytes: float
) -> tuple[str, ...]:
    """Sites that cost the most nats a byte, as many as a budget of bytes widens.

    Args:
        parts: Nats by site, from :func:`kl_by_site`.
        costs: Bytes by site that 8 bits add.
        budget_bytes: What they may add together.
    """
    left = budget_bytes
    chosen = []
    for site in sorted(parts, key=lambda site: (-parts[site] / costs[site], site)):
        if costs[site] <= left:
            chosen.append(site)
            left -= costs[site]
    return tuple(sorted(chosen))
