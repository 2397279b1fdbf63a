"""Several processes' figures as one, and two benchmarks beside each other.

One process says little: where its memory happens to lie moves a figure by up to 15 %. So each round
is a process of its own, figures are medians over the rounds, and a difference counts only where
every round shows it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final, Literal

from edgekit_runtime.bench_report import BenchPlan
from edgekit_runtime.errors import EdgekitRuntimeError
from edgekit_runtime.machine import describe_machine
from edgekit_runtime.strict_json import loads

Report = Mapping[str, Any]
Verdict = Literal["better", "worse", "same", "too few rounds"]

# By chance alone, five pairs of rounds all lie on one side once in sixteen times, and five rounds
# of each all lie apart once in 126.
MIN_ROUNDS: Final = 5
_MEASURED: Final = (
    "load_ms",
    "ttft_ms",
    "prefill_tokens_per_s",
    "prefill",
    "decode_tokens_per_s",
    "itl_ms",
    "rss_bytes",
    "rss_private_bytes",
    "rss_mapped_bytes",
    "joules_per_token",
    "swap_ms",
    "swap_first_token_ms",
    "adapter_ratio",
)
# What two reports must share, so that a difference is the bundle's or the software's.
_CONDITIONS: Final = (
    "target",
    "adapter",
    "ratio_adapter",
    "prompt_tokens",
    "new_tokens",
    "threads",
    "machine.cpu",
    "machine.cores",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A figure of a report that two benchmarks are compared by.

    Attributes:
        name: The path of its keys.
        is_better_high: Whether more of it is better.
    """

    name: str
    is_better_high: bool = False


FIGURES: Final = (
    Figure(name="load_ms"),
    Figure(name="ttft_ms.p50"),
    Figure(name="prefill_tokens_per_s", is_better_high=True),
    Figure(name="decode_tokens_per_s", is_better_high=True),
    Figure(name="itl_ms.p50"),
    Figure(name="itl_ms.p95"),
    Figure(name="swap_ms.resident.p50"),
    Figure(name="swap_ms.cold.p50"),
    Figure(name="swap_first_token_ms.resident.p50"),
    Figure(name="swap_first_token_ms.cold.p50"),
    Figure(name="adapter_ratio", is_better_high=True),
    Figure(name="rss_bytes"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """One figure, then and now.

    Attributes:
        ratio: Now over then: of the medians, or the median over pairs of rounds.
        low: The smallest ratio that the rounds show; high: the largest.
    """

    figure: str
    then: float
    now: float
    ratio: float
    low: float
    high: float
    verdict: Verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Two benchmarks beside each other.

    Attributes:
        tolerance: Share by which a median must differ to count.
        is_paired: Whether the rounds of both were run in turn.
        verdict: ``worse`` where any figure is.
    """

    figures: tuple[Compared, ...]
    tolerance: float
    is_paired: bool
    verdict: Verdict

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)


def over_rounds(reports: Sequence[Report]) -> dict[str, Any]:
    """One report of several processes: medians, and every round's figures.

    Args:
        reports: Of the same plan, one a process.
    """
    found = dict(reports[0])
    for key in _MEASURED:
        found[key] = _median([report[key] for report in reports])
    spreads = [report["decode_spread"] for report in reports]
    found["decode_spread"] = {
        "min": min(spread["min"] for spread in spreads),
        "max": max(spread["max"] for spread in spreads),
    }
    found["latencies_ms"] = {
        key: [value for report in reports for value in report["latencies_ms"][key]]
        for key in reports[0]["latencies_ms"]
    }
    found["rounds"] = len(reports)
    found["by_round"] = {
        figure.name: [_value(report, figure.name) for report in reports]
        for figure in _figures(reports[0])
        if _value(reports[0], figure.name) is not None
    }
    return found


def _figures(report: Report) -> tuple[Figure, ...]:
    """What a report is compared by: with prompts of the other lengths that were asked for."""
    lengths = (one["prompt_tokens"] for one in report["prefill"])
    return *FIGURES, *(
        Figure(name=f"prefill.{n_tokens}.tokens_per_s", is_better_high=True) for n_tokens in lengths
    )


def _median(values: Sequence[Any]) -> Any:
    """Leaf by leaf; what is unknown in one round is unknown."""
    first = values[0]
    if any(value is None for value in values):
        return None
    if isinstance(first, dict):
        return {key: _median([value[key] for value in values]) for key in first}
    if isinstance(first, list):
        return [_median(column) for column in zip(*values, strict=True)]
    found = median(values)
    return int(found) if isinstance(first, int) else found


def read_report(path: Path) -> dict[str, Any]:
    """What ``bench --json`` wrote.

    Raises:
        EdgekitRuntimeError: If it is something else; every problem is named.
    """
    try:
        report = loads(path.read_bytes())
    except (OSError, ValueError) as err:
        raise EdgekitRuntimeError(
            f"'{path}' is no benchmark", problems=[str(err)], hint="Give what bench --json wrote."
        ) from err
    problems = _problems(report)
    if problems:
        raise EdgekitRuntimeError(
            f"'{path}' is no benchmark of this version",
            problems=problems,
            hint="Give what bench --json wrote; measure anew where it is older.",
        )
    found: dict[str, Any] = report
    return found


def _problems(report: Any) -> list[str]:
    if not isinstance(report, dict):
        return [f"expected an object, got {type(report).__name__}"]
    wanted = [*_MEASURED, *_CONDITIONS, "by_round"]
    missing = [name for name in wanted if not _has(report, name)]
    problems = [f"{name}: missing" for name in missing]
    rounds = report.get("by_round", {})
    if not isinstance(rounds, dict):
        return [*problems, f"by_round: expected an object, got {type(rounds).__name__}"]
    for name, values in rounds.items():
        if not isinstance(values, list) or not all(_is_positive(value) for value in values):
            problems.append(f"by_round.{name}: expected a list of numbers over 0")
    prefill = report.get("prefill")
    if not isinstance(prefill, list) or not all(
        isinstance(one, dict) and _is_positive(one.get("prompt_tokens")) for one in prefill
    ):
        problems.append("prefill: expected a list of objects with prompt_tokens")
    return problems


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _has(report: Report, name: str) -> bool:
    *parents, key = name.split(".")
    for parent in parents:
        inner = report.get(parent)
        if not isinstance(inner, dict):
            return False
        report = inner
    return key in report


def _value(report: Report, name: str) -> Any:
    found: Any = report
    for key in name.split("."):
        if isinstance(found, list):  # prefill, by the length of its prompts
            found = next((one for one in found if str(one["prompt_tokens"]) == key), None)
        else:
            found = None if found is None else found[key]
    return found


def check_conditions(then: Report, plan: BenchPlan) -> None:
    """Refuse a comparison that is not one before anything is measured for it.

    What only the measuring tells, as a target that is chosen there, :func:`compare` checks.

    Raises:
        EdgekitRuntimeError: With everything that differs.
    """
    machine = describe_machine()
    asked = {
        "adapter": plan.adapter,
        "prompt_tokens": plan.prompt_tokens,
        "new_tokens": plan.new_tokens,
        "machine.cpu": machine.cpu,
        "machine.cores": machine.cores,
    }
    asked |= {"target": plan.target} if plan.target is not None else {}
    asked |= {"threads": plan.threads} if plan.threads is not None else {}
    _refuse_different({name: (_value(then, name), value) for name, value in asked.items()})


def _refuse_different(values: Mapping[str, tuple[Any, Any]]) -> None:
    different = [
        f"{name}: {before!r} then, {after!r} now"
        for name, (before, after) in values.items()
        if before != after
    ]
    if different:
        raise EdgekitRuntimeError(
            "the two benchmarks cannot be compared",
            problems=different,
            hint="Measure both on one machine, with the same options.",
        )


def compare(then: Report, now: Report, *, tolerance: float, is_paired: bool) -> Comparison:
    """Hold two reports against each other.

    A figure counts as changed where its ratio is further from 1 than the tolerance and no round
    says otherwise: every pair of rounds run in turn lies on one side of 1, or, where they were
    not, all rounds of one report lie on one side of all rounds of the other.

    Raises:
        EdgekitRuntimeError: If they were not measured alike; every difference is named.
    """
    _refuse_different({name: (_value(then, name), _value(now, name)) for name in _CONDITIONS})
    rounds_then, rounds_now = then["by_round"], now["by_round"]
    figures = tuple(
        _compared(figure, rounds_then[figure.name], rounds_now[figure.name], tolerance, is_paired)
        for figure in _figures(now)
        if rounds_then.get(figure.name) and rounds_now.get(figure.name)
    )
    found = {compared.verdict for compared in figures}
    order: tuple[Verdict, ...] = ("too few rounds", "worse", "better", "same")
    verdict = next(verdict for verdict in order if verdict in {*found, "same"})
    return Comparison(figures=figures, tolerance=tolerance, is_paired=is_paired, verdict=verdict)


def _compared(
    figure: Figure,
    then: Sequence[float],
    now: Sequence[float],
    tolerance: float,
    is_paired: bool,
) -> Compared:
    if is_paired:
        ratios = [after / before for before, after in zip(then, now, strict=True)]
        low, ratio, high = min(ratios), median(ratios), max(ratios)
    else:
        low, high = min(now) / max(then), max(now) / min(then)
        ratio = median(now) / median(then)
    is_more = low > 1 and ratio > 1 + tolerance
    is_less = high < 1 and ratio < 1 / (1 + tolerance)
    verdict: Verdict = "same"
    if min(len(then), len(now)) < MIN_ROUNDS:
        verdict = "too few rounds"
    elif is_more or is_less:
        verdict = "better" if is_more == figure.is_better_high else "worse"
    return Compared(
        figure=figure.name,
        then=median(then),
        now=median(now),
        ratio=ratio,
        low=low,
        high=high,
        verdict=verdict,
    )
