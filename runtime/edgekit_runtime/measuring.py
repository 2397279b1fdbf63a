"""Times answers and swaps of a bundle in this process, on the runtime's own parts.

It works below the engine: tokens in, tokens out, each one timed, of a fixed number.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

from edgekit_runtime.bench_report import (
    BenchPlan,
    BenchReport,
    Percentiles,
    Prefill,
    Spread,
    Swaps,
    TailPercentiles,
)
from edgekit_runtime.errors import GenerationError
from edgekit_runtime.machine import describe_machine, package_version
from edgekit_runtime.meters import EnergyMeter, peak_rss_bytes, rss_by_kind

if TYPE_CHECKING:
    from edgekit_runtime.bundle import Bundle
    from edgekit_runtime.decoder import Decoder

SWAP_PROMPT_TOKENS = 32
_MIN_SWAPS = 20
# A thread pool spins for a while after its last work and slows its neighbour down meanwhile.
_SETTLE_S = 0.05
_TEXT = (
    "The lighthouse keeper wrote every evening what the sea had brought: planks, bottles, "
    "a red boot, and once a letter that began with his own name. "
)
_PACKAGES = ("edgekit-runtime", "onnxruntime-genai", "onnxruntime", "numpy")
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answer:
    """One timed answer, in seconds."""

    ready: float
    prefill: float
    first: float
    intervals: tuple[float, ...]

    @property
    def ttft_ms(self) -> float:
        return (self.ready + self.prefill + self.first) * 1e3

    @property
    def decode_tokens_per_s(self) -> float:
        return len(self.intervals) / sum(self.intervals)


class _Rig:
    """A loaded target and the fixed prompt: makes timed answers and swaps."""

    def __init__(self, plan: BenchPlan, bundle: "Bundle") -> None:
        from edgekit_runtime.bundle import DEFAULT_ADAPTER_BUDGET_BYTES
        from edgekit_runtime.loaded import LoadedTarget
        from edgekit_runtime.targets import choose_target

        self.plan = plan
        self.target: LoadedTarget = LoadedTarget(
            bundle,
            choose_target(bundle.manifest, plan.target).name,
            threads=plan.threads,
            adapter_budget_bytes=DEFAULT_ADAPTER_BUDGET_BYTES,
            context_length=None,
        )
        _check_lengths(plan, self.target.context_length)
        self.adapters = [
            name
            for name, record in bundle.manifest.adapters.items()
            if self.target.name in record.files
        ]

    def decoder(self, adapter: str | None) -> "Decoder":
        """A new cache, as large as a session's would be, the adapter plugged in."""
        from edgekit_runtime.decoder import grown_capacity

        longest = max(self.plan.prompt_tokens, SWAP_PROMPT_TOKENS, *self.plan.prefill_tokens)
        n_tokens = longest + self.plan.new_tokens
        capacity = grown_capacity(n_tokens, self.target.context_length)
        return self.target.decoder(adapter=adapter, capacity_tokens=capacity, ignore_eos=True)

    def prompt(self, n_tokens: int) -> list[int]:
        """Exactly that many tokens of the fixed text."""
        tokenizer = self.target.tokenizer(adapter=self.plan.adapter)
        once = tokenizer.encode(_TEXT)
        times = -(-n_tokens // len(once))
        return tokenizer.encode(_TEXT * (times + 1))[:n_tokens]

    def answer(self, adapter: str | None, prompt: Sequence[int]) -> _Answer:
        """Time one answer."""
        times = [time.perf_counter()]
        decoder = self.decoder(adapter)
        times.append(time.perf_counter())
        decoder.append(prompt)
        times.append(time.perf_counter())
        for _ in range(self.plan.new_tokens):
            decoder.next()
            times.append(time.perf_counter())
        decoder.close()
        steps = [after - before for before, after in pairwise(times)]
        return _Answer(ready=steps[0], prefill=steps[1], first=steps[2], intervals=(*steps[3:],))

    def swap(self, adapter: str, prompt: Sequence[int]) -> tuple[float, float]:
        """Time until a prompt can go in, and until its first token, in milliseconds."""
        asked = time.perf_counter()
        decoder = self.decoder(adapter)
        ready = time.perf_counter()
        decoder.append(prompt)
        decoder.next()
        first = time.perf_counter()
        decoder.close()
        return (ready - asked) * 1e3, (first - asked) * 1e3


def measure(plan: BenchPlan, on_progress: Progress) -> BenchReport:
    """Measure in this process; `bench.bench` starts a fresh one for it."""
    started = time.perf_counter()
    from edgekit_runtime.bundle import Bundle

    with Bundle.open(plan.bundle, verify="sizes") as bundle:
        rig = _Rig(plan, bundle)
        rig.decoder(plan.adapter).close()
        load_ms = (time.perf_counter() - started) * 1e3
        n_steps = plan.warmup + plan.repeats * (1 + len(plan.prefill_tokens))
        n_steps += 2 + plan.repeats if rig.adapters else 0
        steps = _Steps(n_steps, on_progress)
        meter = EnergyMeter()
        answers = _time_answers(rig, steps)
        joules = meter.joules()
        memory = _memory()
        prefill = [_time_prefill(rig, n_tokens, steps) for n_tokens in plan.prefill_tokens]
        swaps = _time_swaps(rig, steps)
        ratio_adapter = plan.adapter or next(iter(rig.adapters), None)
        ratio = _compare(rig, ratio_adapter, steps) if ratio_adapter else None
        report = replace(
            _report(plan, rig, answers, load_ms=load_ms, memory=memory),
            prefill=prefill,
            joules_per_token=None if joules is None else joules / (plan.repeats * plan.new_tokens),
        )
        rig.target.close()
    if swaps is None:
        return report
    ready, first = swaps
    return replace(
        report,
        swap_ms=_swaps(ready),
        swap_first_token_ms=_swaps(first),
        latencies_ms={
            **report.latencies_ms,
            "swap_resident": _rounded(ready.resident),
            "swap_cold": _rounded(ready.cold),
        },
        adapter_ratio=ratio,
        ratio_adapter=ratio_adapter,
    )


class _Steps:
    """Counts what is done."""

    def __init__(self, total: int, on_progress: Progress) -> None:
        self._done, self._total, self._on_progress = 0, total, on_progress

    def step(self, what: str) -> None:
        self._on_progress(self._done, self._total, what)
        self._done += 1


def _check_lengths(plan: BenchPlan, context_length: int) -> None:
    problems = [
        f"{n_tokens} + {plan.new_tokens} tokens, the target's context has {context_length}"
        for n_tokens in (plan.prompt_tokens, *plan.prefill_tokens)
        if n_tokens + plan.new_tokens > context_length
    ]
    if problems:
        raise GenerationError(
            "prompt and answer do not fit the context",
            problems=problems,
            hint="Ask for fewer --prompt-tokens, --prefill-tokens or --new-tokens.",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Memory:
    peak: int
    private: int | None
    mapped: int | None


def _memory() -> _Memory:
    private, mapped = rss_by_kind() or (None, None)
    return _Memory(peak=peak_rss_bytes(), private=private, mapped=mapped)


def _time_answers(rig: _Rig, steps: _Steps) -> list[_Answer]:
    prompt = rig.prompt(rig.plan.prompt_tokens)
    for _ in range(rig.plan.warmup):
        steps.step("warming up")
        rig.answer(rig.plan.adapter, prompt)
    answers = []
    for _ in range(rig.plan.repeats):
        steps.step("answering")
        answers.append(rig.answer(rig.plan.adapter, prompt))
    return answers


def _time_prefill(rig: _Rig, n_tokens: int, steps: _Steps) -> Prefill:
    """Prompts of another length, each on a new cache."""
    prompt = rig.prompt(n_tokens)
    seconds = []
    for _ in range(rig.plan.repeats):
        steps.step(f"running prompts of {n_tokens} tokens")
        decoder = rig.decoder(rig.plan.adapter)
        before = time.perf_counter()
        decoder.append(prompt)
        ran = time.perf_counter()
        decoder.next()
        seconds.append((ran - before, time.perf_counter() - before))
        decoder.close()
    return Prefill(
        prompt_tokens=n_tokens,
        tokens_per_s=median(n_tokens / run for run, _ in seconds),
        ttft_ms=median(first for _, first in seconds) * 1e3,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Swapped:
    """Durations of swaps, in milliseconds."""

    resident: Sequence[float]
    cold: Sequence[float]


def _swaps(times: _Swapped) -> Swaps:
    return Swaps(resident=Percentiles.of(times.resident), cold=Percentiles.of(times.cold))


def _rounded(durations_ms: Sequence[float]) -> list[float]:
    """To the microsecond."""
    return [round(duration, 3) for duration in durations_ms]


def _time_swaps(rig: _Rig, steps: _Steps) -> tuple[_Swapped, _Swapped] | None:
    """Go round the adapters; with a single one, ask for it again and again."""
    if not rig.adapters:
        return None
    prompt = rig.prompt(SWAP_PROMPT_TOKENS)
    n_swaps = max(_MIN_SWAPS, rig.plan.repeats)
    order = [rig.adapters[i % len(rig.adapters)] for i in range(n_swaps)]
    for name in rig.adapters:
        rig.swap(name, prompt)
    steps.step("swapping loaded adapters")
    resident = [rig.swap(name, prompt) for name in order]
    steps.step("swapping adapters from disk")
    cold = []
    for name in order:
        rig.target.pool().unload(name)
        cold.append(rig.swap(name, prompt))
    ready, first = (
        _Swapped(resident=[swap[i] for swap in resident], cold=[swap[i] for swap in cold])
        for i in (0, 1)
    )
    return ready, first


def _compare(rig: _Rig, adapter: str, steps: _Steps) -> float:
    """Decoding speed with the adapter over that of the base, in turn."""
    prompt = rig.prompt(rig.plan.prompt_tokens)
    # The first answer of each graph is slower, and not the graph's fault.
    rig.answer(None, prompt)
    rig.answer(adapter, prompt)
    ratios = []
    for _ in range(rig.plan.repeats):
        steps.step("comparing with the base")
        time.sleep(_SETTLE_S)
        off = rig.answer(None, prompt).decode_tokens_per_s
        time.sleep(_SETTLE_S)
        ratios.append(rig.answer(adapter, prompt).decode_tokens_per_s / off)
    return median(ratios)


def _report(
    plan: BenchPlan, rig: _Rig, answers: Sequence[_Answer], *, load_ms: float, memory: _Memory
) -> BenchReport:
    manifest = rig.target.bundle.manifest
    speeds = [answer.decode_tokens_per_s for answer in answers]
    ttft_ms = [answer.ttft_ms for answer in answers]
    itl_ms = [step * 1e3 for answer in answers for step in answer.intervals]
    return BenchReport(
        bundle={"name": manifest.name, "version": manifest.version, "digest": manifest.digest},
        target=rig.target.name,
        adapter=plan.adapter,
        prompt_tokens=plan.prompt_tokens,
        new_tokens=plan.new_tokens,
        repeats=plan.repeats,
        warmup=plan.warmup,
        threads=rig.target.threads,
        load_ms=load_ms,
        ttft_ms=Percentiles.of(ttft_ms),
        prefill_tokens_per_s=median(plan.prompt_tokens / answer.prefill for answer in answers),
        prefill=(),
        decode_tokens_per_s=median(speeds),
        decode_spread=Spread(min=min(speeds), max=max(speeds)),
        itl_ms=TailPercentiles.of(itl_ms),
        rss_bytes=memory.peak,
        rss_private_bytes=memory.private,
        rss_mapped_bytes=memory.mapped,
        joules_per_token=None,
        swap_ms=None,
        swap_first_token_ms=None,
        adapter_ratio=None,
        ratio_adapter=None,
        machine=describe_machine(),
        versions={package: package_version(package) for package in _PACKAGES},
        latencies_ms={"ttft": _rounded(ttft_ms), "itl": _rounded(itl_ms)},
    )
