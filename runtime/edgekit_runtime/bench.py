"""Measure a bundle on this machine, in a process of its own.

A fresh process makes load time and peak memory those of the bundle alone. It runs
``python -m edgekit_runtime.bench`` and writes its figures as JSON; :func:`bench` starts it.

What is measured, with prompts of fixed synthetic text and answers of fixed length (the
end-of-text token is never chosen):

- ``load_ms``: importing onnxruntime-genai, opening the bundle (manifest and sizes), loading
  graph and adapter, allocating the cache: until the first prompt can go in.
- ``ttft_ms``: a new cache, the adapter plugged in, the prompt run, the first token chosen.
- ``itl_ms``: between two tokens of an answer.
- ``swap_ms``: from asking for another adapter until a prompt can go in: a new cache and the
  adapter plugged in, and with ``cold`` also its file checked and loaded.
- ``swap_first_token_ms``: the same, until the first token after a prompt of 32 tokens.
- ``rss_bytes``: the process's peak memory after the timed answers, before the comparison below
  loads a second graph.
- ``adapter_ratio``: decoding speed with the adapter over that of the bare base, both measured
  in turn; the median over the pairs.
"""

import gc
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Self

from edgekit_runtime.errors import EdgekitRuntimeError, GenerationError
from edgekit_runtime.machine import Machine, describe_machine, package_version

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
_PROGRESS = "progress "
_PACKAGES = ("edgekit-runtime", "onnxruntime-genai", "onnxruntime", "numpy")
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchPlan:
    """What to measure."""

    bundle: str
    adapter: str | None = None
    target: str | None = None
    prompt_tokens: int = 128
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
class Spread:
    """Smallest and largest of the repeats."""

    min: float
    max: float


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchReport:
    """The figures; what each means stands in this module's docstring.

    Attributes:
        bundle: name, version, and digest of the manifest.
        prefill_tokens_per_s: Median over the repeats; so is ``decode_tokens_per_s``.
        swap_ms: None where the bundle holds no adapter; so are ``swap_first_token_ms`` and
            ``adapter_ratio``.
        ratio_adapter: The adapter that ``adapter_ratio`` is about.
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
    decode_tokens_per_s: float
    decode_spread: Spread
    itl_ms: TailPercentiles
    rss_bytes: int
    swap_ms: Swaps | None
    swap_first_token_ms: Swaps | None
    adapter_ratio: float | None
    ratio_adapter: str | None
    machine: Machine
    versions: Mapping[str, str | None]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self) | {"machine": self.machine.to_dict()}


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


def percentile(values: Sequence[float], percent: float) -> float:
    """A percentile by linear interpolation between the nearest ranks."""
    ordered = sorted(values)
    position = (len(ordered) - 1) * percent / 100
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def bench(
    plan: BenchPlan, on_progress: Progress = lambda done, total, what: None
) -> dict[str, Any]:
    """Measure a bundle in a fresh process.

    Args:
        plan: What to measure.
        on_progress: Called with the steps done, all steps, and what runs now.

    Returns:
        :meth:`BenchReport.to_dict`.

    Raises:
        EdgekitRuntimeError: What the measuring process refused, or that it died.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "edgekit_runtime.bench", json.dumps(asdict(plan))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    with process:
        assert process.stdout is not None and process.stderr is not None
        said = []
        try:
            for line in process.stderr:
                if line.startswith(_PROGRESS):
                    done, total, what = line.removeprefix(_PROGRESS).strip().split(" ", 2)
                    on_progress(int(done), int(total), what)
                else:
                    said.append(line)
            output = process.stdout.read()
        except KeyboardInterrupt:
            process.terminate()
            raise
    return _read_outcome(output, process.returncode, "".join(said))


def _read_outcome(output: str, exit_code: int, said: str) -> dict[str, Any]:
    try:
        outcome = json.loads(output)
    except ValueError as err:
        raise EdgekitRuntimeError(
            f"the measuring process died with exit code {exit_code}",
            problems=said.strip().splitlines()[-5:],
            hint="Too little memory is a usual cause; try a smaller --prompt-tokens.",
        ) from err
    if "error" in outcome:
        raise EdgekitRuntimeError(**outcome["error"])
    report: dict[str, Any] = outcome["report"]
    return report


class _Rig:
    """A loaded target and the fixed prompt: makes timed answers and swaps."""

    def __init__(self, plan: BenchPlan, bundle: "Bundle") -> None:
        from edgekit_runtime.bundle import DEFAULT_ADAPTER_BUDGET_BYTES
        from edgekit_runtime.loaded import LoadedTarget
        from edgekit_runtime.targets import choose_target

        self.plan = plan
        self.target: LoadedTarget = LoadedTarget(
            bundle,
            choose_target(bundle.manifest, plan.target),
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

        n_tokens = max(self.plan.prompt_tokens, SWAP_PROMPT_TOKENS) + self.plan.new_tokens
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
    """Measure in this process; see :func:`bench`, which starts a fresh one."""
    started = time.perf_counter()
    from edgekit_runtime.bundle import Bundle

    with Bundle.open(plan.bundle, verify="sizes") as bundle:
        rig = _Rig(plan, bundle)
        rig.decoder(plan.adapter).close()
        load_ms = (time.perf_counter() - started) * 1e3
        n_steps = plan.warmup + plan.repeats + (2 + plan.repeats if rig.adapters else 0)
        steps = _Steps(n_steps, on_progress)
        answers = _time_answers(rig, steps)
        rss_bytes = peak_rss_bytes()
        swaps = _time_swaps(rig, steps)
        ratio_adapter = plan.adapter or next(iter(rig.adapters), None)
        ratio = _compare(rig, ratio_adapter, steps) if ratio_adapter else None
        report = _report(plan, rig, answers, load_ms=load_ms, rss_bytes=rss_bytes)
        rig.target.close()
    if swaps is None:
        return report
    return replace(
        report,
        swap_ms=swaps[0],
        swap_first_token_ms=swaps[1],
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
    if plan.prompt_tokens + plan.new_tokens > context_length:
        raise GenerationError(
            "prompt and answer do not fit the context",
            problems=[
                f"{plan.prompt_tokens} + {plan.new_tokens} tokens, the target's context has "
                f"{context_length}"
            ],
            hint="Ask for fewer --prompt-tokens or --new-tokens.",
        )


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


def _time_swaps(rig: _Rig, steps: _Steps) -> tuple[Swaps, Swaps] | None:
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
        Swaps(
            resident=Percentiles.of([swap[i] for swap in resident]),
            cold=Percentiles.of([swap[i] for swap in cold]),
        )
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
    plan: BenchPlan, rig: _Rig, answers: Sequence[_Answer], *, load_ms: float, rss_bytes: int
) -> BenchReport:
    manifest = rig.target.bundle.manifest
    speeds = [answer.decode_tokens_per_s for answer in answers]
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
        ttft_ms=Percentiles.of([answer.ttft_ms for answer in answers]),
        prefill_tokens_per_s=median(plan.prompt_tokens / answer.prefill for answer in answers),
        decode_tokens_per_s=median(speeds),
        decode_spread=Spread(min=min(speeds), max=max(speeds)),
        itl_ms=TailPercentiles.of([step * 1e3 for answer in answers for step in answer.intervals]),
        rss_bytes=rss_bytes,
        swap_ms=None,
        swap_first_token_ms=None,
        adapter_ratio=None,
        ratio_adapter=None,
        machine=describe_machine(),
        versions={package: package_version(package) for package in _PACKAGES},
    )


def peak_rss_bytes() -> int:
    """The most memory that this process ever held.

    On Linux it is ``VmHWM``: ``getrusage`` would also count what the parent held at the fork.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
        line = next(line for line in lines if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    if platform.system() == "Windows":
        return _windows_peak_rss_bytes()
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _windows_peak_rss_bytes() -> int:
    try:
        import psutil
    except ImportError as err:
        raise EdgekitRuntimeError(
            "measuring memory on Windows needs psutil",
            hint="pip install 'edgekit-runtime[bench]'",
        ) from err
    return int(psutil.Process().memory_info().peak_wset)


def _main(arguments: Sequence[str]) -> int:
    """The measuring process: a plan in, the report or the error out, both as JSON."""

    def show(done: int, total: int, what: str) -> None:
        sys.stderr.write(f"{_PROGRESS}{done} {total} {what}\n")
        sys.stderr.flush()

    try:
        report = measure(BenchPlan(**json.loads(arguments[0])), show)
        outcome: dict[str, Any] = {"report": report.to_dict()}
    except EdgekitRuntimeError as err:
        outcome = {"error": {"what": err.what, "problems": err.problems, "hint": err.hint}}
    gc.collect()
    json.dump(outcome, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
