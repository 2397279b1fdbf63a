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
  loads a second graph; ``rss_private_bytes`` and ``rss_mapped_bytes``: what it held then, its own
  and pages of files.
- ``joules_per_token``: what the processor took during the timed answers, prompts and all.
- ``prefill``: prompts of other lengths.
- ``adapter_ratio``: decoding speed with the adapter over that of the bare base, both measured
  in turn; the median over the pairs.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from edgekit_runtime.bench_compare import over_rounds
from edgekit_runtime.bench_report import BenchPlan
from edgekit_runtime.errors import EdgekitRuntimeError
from edgekit_runtime.measuring import Progress, measure

_PROGRESS = "progress "


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


def bench_in_turn(
    plans: Sequence[BenchPlan],
    rounds: int,
    on_progress: Progress = lambda done, total, what: None,
) -> list[dict[str, Any]]:
    """Measure one or more plans in several rounds, each time in a fresh process.

    Every other round begins at the other end, so that none always comes first.

    Returns:
        A report for each plan: medians over its rounds.

    Raises:
        EdgekitRuntimeError: What a measuring process refused, or that it died.
    """
    found: list[list[dict[str, Any]]] = [[] for _ in plans]
    n_all, n_done = rounds * len(plans), 0
    for turn in range(rounds):
        order = list(range(len(plans)))
        for which in order if turn % 2 == 0 else reversed(order):

            def show(done: int, total: int, what: str, before: int = n_done) -> None:
                name = f"{what}, process {before + 1} of {n_all}" if n_all > 1 else what
                on_progress(before * total + done, n_all * total, name)

            found[which].append(bench(plans[which], show))
            n_done += 1
    return [over_rounds(reports) for reports in found]


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
    json.dump(outcome, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
