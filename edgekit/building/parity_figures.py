"""What the parity gate measured for one adapter of a target, and which bounds that breaks."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgekit.building.compiled_figures import CompiledFigures, rounded
from edgekit.errors import ParityError
from edgekit.targets import ParityBounds


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterFiles:
    """An adapter in both forms: PEFT's original, and what was converted from it.

    Attributes:
        on_device_weights: It was trained on a target's weights, not on the float base.
    """

    peft: Path
    onnx: Path
    prompts: tuple[str, ...] = ()
    on_device_weights: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ParityFigures:
    """What the gate measured for one adapter (or for none).

    Attributes:
        positions: Token positions compared.
        exact_mean_kl: Step (b), nats: KL(torch || graph), mean over positions.
        exact_top1: Step (b): share of positions with the same most likely token.
        shipping_mean_kl: Step (c), nats.
        shipping_top1: Step (c).
        last_logits_mean_kl: The generating graph's last position against the scoring graph's.
        nll_torch: Mean negative log-likelihood in torch, nats: on the weights that the adapter was
            trained on, which are the float base's unless it was trained on a target's; None for
            an ONNX model that somebody else built, whose float weights are not known.
        nll_shipping: The same on the graph that ships.
        effect_kl: How far the adapter moves the base, nats; near zero, the gate sees nothing.
        placement: Execution provider to the nodes of the shipping graph that it computed.
        compiled: What the compiled graphs do, where the target has such.
    """

    positions: int
    exact_mean_kl: float
    exact_top1: float
    shipping_mean_kl: float
    shipping_top1: float
    last_logits_mean_kl: float
    nll_torch: float | None
    nll_shipping: float
    effect_kl: float | None
    placement: Mapping[str, int] = field(default_factory=dict)
    compiled: CompiledFigures | None = None

    @property
    def nll_increase(self) -> float | None:
        """Step (d): nats per token that quantization costs; None where that cannot be known."""
        return None if self.nll_torch is None else self.nll_shipping - self.nll_torch

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, rounded to four significant digits."""
        values = rounded(asdict(self) | {"nll_increase": self.nll_increase})
        del values["compiled"]
        return values if self.compiled is None else values | {"compiled": self.compiled.to_dict()}


def breaches_of(name: str, figures: ParityFigures, bounds: ParityBounds) -> list[str]:
    """Say every bound that an adapter's figures break (``""`` is the base)."""
    who = f"adapter '{name}'" if name else "base"
    found = []
    # Written as `not a <= b`, so that NaN is a breach.
    if not figures.exact_mean_kl < bounds.exact_max_mean_kl:
        found.append(
            f"{who}: conversion is not exact: mean KL {figures.exact_mean_kl:.3g}, "
            f"bound {bounds.exact_max_mean_kl:.3g}"
        )
    if not figures.exact_top1 >= bounds.exact_min_top1:
        found.append(
            f"{who}: conversion is not exact: top-1 {figures.exact_top1:.2%}, "
            f"bound {bounds.exact_min_top1:.2%}"
        )
    for what, value in (
        ("shipping compute", figures.shipping_mean_kl),
        ("generating graph against scoring graph", figures.last_logits_mean_kl),
    ):
        if not value <= bounds.shipping_max_mean_kl:
            found.append(
                f"{who}: {what}: mean KL {value:.3g}, bound {bounds.shipping_max_mean_kl:.3g}"
            )
    if (compiled := figures.compiled) is not None:
        if not compiled.top1 >= bounds.compiled_min_top1:
            found.append(
                f"{who}: compiled graphs: top-1 {compiled.top1:.2%} against the uncompiled ones, "
                f"bound {bounds.compiled_min_top1:.2%}"
            )
        if not compiled.mean_kl <= bounds.shipping_max_mean_kl:
            found.append(
                f"{who}: compiled graphs: mean KL {compiled.mean_kl:.3g} against the uncompiled "
                f"ones, bound {bounds.shipping_max_mean_kl:.3g}"
            )
    limit = bounds.max_nll_increase
    cost = figures.nll_increase
    if limit is not None and cost is not None and not cost <= limit:
        found.append(f"{who}: quantization costs {cost:+.3f} nats a token, bound {limit:+.3f}")
    return found


def raise_breaches(
    found: Sequence[str],
    figures: Mapping[str, ParityFigures],
    bounds: ParityBounds,
    original: str = "the PyTorch original",
) -> None:
    """Raise a ParityError if anything was found, or figures break their bounds."""
    breaches = [*found]
    for name, figure in figures.items():
        breaches += breaches_of(name, figure, bounds)
    if breaches:
        raise ParityError(
            f"the parity gate failed: the built target does not agree with {original}",
            problems=breaches,
            hint="Nothing was shipped. `--no-parity` builds it all the same, marked as unchecked.",
        )
