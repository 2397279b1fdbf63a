"""Runs one command of a cell, once: its record says what it took and what it reported."""

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.proofs.cells import Cell, Setup, Step

_CLI = (sys.executable, "-c", "from edgekit.cli import main; raise SystemExit(main())")
_MARKS = ("adapter_config.json", "config.json")
_LONG = ("rows", "wrong", "confusion", "loss_curve", "trials")


class StepError(Exception):
    """A command that failed; its log says why."""


def record_path(setup: Setup, step: Step) -> Path:
    """Where a step's record lies once it is done."""
    return setup.out / "steps" / f"{step.name}.json"


def cell_path(setup: Setup, cell: Cell) -> Path:
    """Where a cell's result lies."""
    return setup.results / f"{cell.name}.json"


def failure_path(setup: Setup, cell: Cell) -> Path:
    """Where it is said why a cell could not be run."""
    return setup.out / "failed" / f"{cell.name}.txt"


def is_done(setup: Setup, step: Step) -> bool:
    """Whether a step has a record, and what it left is there."""
    is_there = step.output is None or step.output.exists()
    return is_there and record_path(setup, step).is_file()


def do(setup: Setup, step: Step, lock: int) -> None:
    """Run a step that is not done; one that was killed goes on where edgekit can.

    Args:
        setup: Of the run.
        step: What to run.
        lock: File descriptor that the command keeps open while it lives.

    Raises:
        StepError: If the command fails.
    """
    log = setup.out / "logs" / f"{step.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    finished = _finished_training(step)
    if finished is not None:  # killed between the command's end and the record
        write_json(record_path(setup, step), _record(step, finished, {}, log))
        return
    if step.output is not None:
        step.output.parent.mkdir(parents=True, exist_ok=True)
    if step.kind == "merge" and step.output is not None:
        shutil.rmtree(step.output, ignore_errors=True)  # a whole one without a record of it
    kill_at = setup.trials // 2 if step.kind == "tune" else 0
    killed = setup.out / "steps" / f"{step.name}.killed"
    if kill_at and not killed.exists():
        _run(step, log, lock, f"{kill_at}/{setup.trials}")
        killed.parent.mkdir(parents=True, exist_ok=True)
        killed.write_text(f"after trial {kill_at}\n", encoding="utf-8")
    reported, usage = _run(step, log, lock, None)
    write_json(record_path(setup, step), _record(step, reported, usage, log))
    if step.kind == "train" and step.output is not None:
        for checkpoint in step.output.glob("checkpoints/checkpoint-*"):
            shutil.rmtree(checkpoint)  # what a finished run would have gone on from


def _run(
    step: Step, log: Path, lock: int, kill_at: str | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Start a command and wait for its end, or kill it once its log says something."""
    started = time.perf_counter()
    stdout = log.with_suffix(".out")
    with log.open("ab") as errors, stdout.open("wb") as output:
        errors.write(f"\n$ {shown(step)}\n".encode())
        errors.flush()
        begin = errors.tell()
        child = subprocess.Popen(
            [*_CLI, *step.arguments], stdout=output, stderr=errors, pass_fds=(lock,)
        )
        try:
            if kill_at:
                _kill_when(child.pid, log, begin, kill_at)
            # wait4 has the figures of this child alone.
            _, status, used = os.wait4(child.pid, 0)
        except BaseException:
            child.kill()
            raise
        child.returncode = os.waitstatus_to_exitcode(status)
    usage = {
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_rss_bytes": used.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
    }
    if kill_at and child.returncode == -signal.SIGKILL:
        return {}, usage
    if child.returncode:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise StepError(f"{step.name} failed ({child.returncode}), see {log}: {lines[-1]}")
    reported = json.loads(stdout.read_text(encoding="utf-8"))
    stdout.unlink()
    return dict(reported), usage


def _kill_when(pid: int, log: Path, begin: int, text: str) -> None:
    """Kill -9 when a log has a line that begins with some text; or leave it, if it ends first."""
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        lines = log.read_bytes()[begin:].decode(errors="replace").splitlines()
        if any(line.startswith(text) for line in lines):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            return
        time.sleep(0.5)


def _finished_training(step: Step) -> dict[str, Any] | None:
    """What a training reported that ended before its record was written."""
    if step.kind != "train" or step.output is None:
        return None
    report = step.output / "training_report.json"
    if not report.is_file() or not any((step.output / mark).is_file() for mark in _MARKS):
        return None
    return dict(json.loads(report.read_text(encoding="utf-8")))


def _record(
    step: Step, reported: Mapping[str, Any], usage: Mapping[str, Any], log: Path
) -> dict[str, Any]:
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    return {
        "command": shown(step),
        "n_starts": text.count(f"\n$ {shown(step)}\n"),
        **usage,
        "reported": {key: value for key, value in reported.items() if key not in _LONG},
    }


def shown(step: Step) -> str:
    """A step as a person would type it."""
    return shlex.join(["edgekit", *step.arguments])


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """All of a file, or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)
