"""What the parity gate measures on graphs that were compiled for an NPU."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class CompiledFigures:
    """One adapter (or none) on compiled graphs.

    Attributes:
        device: What ran them, and by which library; a simulator says so.
        positions: Token positions run there.
        mean_kl: KL(uncompiled graph || compiled graph), nats, mean over positions.
        top1: Share of positions with the same most likely token.
        float_mean_kl: KL(float model || compiled graph): quantization and the NPU's compute.
        float_top1: Share of positions with the float model's most likely token.
    """

    device: str
    positions: int
    mean_kl: float
    top1: float
    float_mean_kl: float
    float_top1: float

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, rounded to four significant digits."""
        return rounded(asdict(self))


def rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Floats with four significant digits, everything else as it is."""
    return {
        key: float(f"{value:.4g}") if isinstance(value, float) else value
        for key, value in values.items()
    }
