"""What a benchmark is asked and what it answers; how it measures stands in `bench`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from edgekit_runtime.machine import Machine


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchPlan:
    """What to measure."""

    bundle: str
    adapter: str | None = None
    target: str | None = None
    prompt_tokens: int = 128
    prefill_tokens: Sequence[int] = ()
    new_tokens: int = 64
    repeats: int = 5
    warmup: int = 1
    threads: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Percentiles:
    """Percentiles of some durations in milliseconds, by linear interpolation."""

    p50: float
    p95: float

    @classmethod
    def of(cls, durations_ms: Sequence[float]) -> Self:
        """Of at least one duration."""
        return cls(p50=percentile(durations_ms, 50), p95=percentile(durations_ms, 95))


@dataclass(frozen=True, kw_only=True, slots=True)
class TailPercentiles:
    """The same with the far tail, where there are hundreds of durations."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, durations_ms: Sequence[float]) -> Self:
        """Of at least one duration."""
        return cls(
            p50=percentile(durations_ms, 50),
            p95=percentile(durations_ms, 95),
            p99=percentile(durations_ms, 99),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Swaps:
    """Swapping adapters: those that are loaded, and those whose file is loaded first."""

    resident: Percentiles
    cold: Percentiles


@dataclass(frozen=True, kw_only=True, slots=True)
class Prefill:
    """Prompts of one length.

    Attributes:
        tokens_per_s: Median over the repeats; so is ``ttft_ms``.
    """

    prompt_tokens: int
    tokens_per_s: float
    ttft_ms: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """Smallest and largest of the repeats."""

    min: float
    max: float


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchReport:
    """The figures; what each means stands in `bench`.

    Attributes:
        bundle: name, version, and digest of the manifest.
        prefill_tokens_per_s: Median over the repeats; so is ``decode_tokens_per_s``.
        prefill: Prompts of the other lengths that were asked for.
        rss_private_bytes: None where the system does not tell; so is ``rss_mapped_bytes``.
        joules_per_token: None where the processor's meter cannot be read.
        swap_ms: None where the bundle holds no adapter; so are ``swap_first_token_ms`` and
            ``adapter_ratio``.
        ratio_adapter: The adapter that ``adapter_ratio`` is about.
        latencies_ms: Every time behind the percentiles: ``ttft``, ``itl``, and where adapters
            were swapped ``swap_resident`` and ``swap_cold``; those of all rounds.
        rounds: Processes that were measured; every figure is a median over them.
        by_round: The figures of each, by their path.
    """

    bundle: Mapping[str, str]
    target: str
    adapter: str | None
    prompt_tokens: int
    new_tokens: int
    repeats: int
    warmup: int
    threads: int
    load_ms: float
    ttft_ms: Percentiles
    prefill_tokens_per_s: float
    prefill: Sequence[Prefill]
    decode_tokens_per_s: float
    decode_spread: Spread
    itl_ms: TailPercentiles
    rss_bytes: int
    rss_private_bytes: int | None
    rss_mapped_bytes: int | None
    joules_per_token: float | None
    swap_ms: Swaps | None
    swap_first_token_ms: Swaps | None
    adapter_ratio: float | None
    ratio_adapter: str | None
    machine: Machine
    versions: Mapping[str, str | None]
    latencies_ms: Mapping[str, Sequence[float]] = field(default_factory=dict)
    rounds: int = 1
    by_round: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self) | {"machine": self.machine.to_dict()}


def percentile(values: Sequence[float], percent: float) -> float:
    """A percentile by linear interpolation between the nearest ranks."""
    ordered = sorted(values)
    position = (len(ordered) - 1) * percent / 100
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)
