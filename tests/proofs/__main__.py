"""``python -m tests.proofs DATA OUT``: run the cells that are not there yet."""

import argparse
import fcntl
import importlib.metadata
import json
import os
import platform
import shutil
import signal
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from tests.proofs.cells import Cell, Setup, all_cells
from tests.proofs.rows import write_rows
from tests.proofs.steps import (
    StepError,
    cell_path,
    do,
    failure_path,
    is_done,
    record_path,
    write_json,
)
from tests.proofs.table import plan, tables

_PACKAGES = ("edgekit", "torch", "transformers", "peft", "onnxruntime", "onnxruntime-genai")


def main(argv: Sequence[str] | None = None) -> int:
    """Run, or show what there is; 1 if a cell failed."""
    given = _parser().parse_args(argv)
    out = given.out.resolve()
    settings = {"base": given.base, "steps": given.steps, "rows": given.rows,
                "trials": given.trials}  # fmt: skip
    _check_settings(out, settings)
    setup = Setup(
        out=out,
        results=(given.results or out / "cells").resolve(),
        rows=write_rows(given.data.resolve(), out / "data", given.rows),
        base=given.base,
        steps=given.steps,
        trials=given.trials,
    )
    cells = all_cells(setup)
    chosen = _chosen(cells, given.only)
    if given.plan:
        print(plan(setup, chosen))
        return 0
    if given.table:
        print(tables(setup))
        return 0
    with (out / "lock").open("w") as lock:
        _take(lock.fileno())
        return _run_all(setup, cells, chosen, lock.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.proofs",
        description="Train, build and score every cell that OUT lacks. Stop it at any time; the "
        "same command goes on.",
    )
    parser.add_argument("data", type=Path, help="directory with banking77/ and snips/")
    parser.add_argument("out", type=Path, help="directory of the results")
    parser.add_argument("--results", type=Path, metavar="DIR", help="instead of OUT/cells")
    parser.add_argument("--only", nargs="+", metavar="CELL", help="names or patterns, in order")
    parser.add_argument("--plan", action="store_true", help="say what is left and how long it is")
    parser.add_argument("--table", action="store_true", help="print what there is as Markdown")
    parser.add_argument("--steps", type=int, help="of every training, to try the runner out")
    parser.add_argument("--rows", type=int, help="test rows of every data set, to try it out")
    parser.add_argument("--trials", type=int, default=20, help="of the search")
    parser.add_argument("--base", default="smollm2-135m", help="another base")
    return parser


def _check_settings(out: Path, settings: dict[str, Any]) -> None:
    """Cells of other steps or rows do not stand in one table."""
    path = out / "settings.json"
    if path.is_file() and (kept := json.loads(path.read_text(encoding="utf-8"))) != settings:
        raise SystemExit(f"error: {out} holds cells with {kept}, and these are {settings}")
    write_json(path, settings)


def _chosen(cells: Sequence[Cell], patterns: Sequence[str] | None) -> list[Cell]:
    """Cells by pattern, in the order of the patterns."""
    if patterns is None:
        return list(cells)
    found = {c.name: c for one in patterns for c in cells if fnmatch(c.name, one)}
    lost = [one for one in patterns if not any(fnmatch(c.name, one) for c in cells)]
    if lost:
        names = "\n  ".join(cell.name for cell in cells)
        raise SystemExit(f"error: no cell is called {', '.join(lost)}; there are\n  {names}")
    return list(found.values())


def _take(lock: int) -> None:
    """One command at a time: a child that outlived its killed runner still holds the lock."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("a command of an earlier run still works here; waiting for its end", file=sys.stderr)
        fcntl.flock(lock, fcntl.LOCK_EX)


def _run_all(setup: Setup, cells: Sequence[Cell], chosen: Sequence[Cell], lock: int) -> int:
    by_name = {cell.name: cell for cell in cells}
    failed: dict[str, str] = {}
    for cell in chosen:
        for one in ([by_name[cell.after]] if cell.after else []) + [cell]:
            if one.name in failed or _is_there(setup, one, needed_by=cell):
                continue
            try:
                _run_cell(setup, one, lock)
            except StepError as err:
                failed[one.name] = str(err)
                failure = failure_path(setup, one)
                failure.parent.mkdir(exist_ok=True)
                failure.write_text(f"{err}\n", encoding="utf-8")
                print(f"{one.name}: {err}", file=sys.stderr, flush=True)
                break
    return 1 if failed else 0


def _is_there(setup: Setup, cell: Cell, needed_by: Cell) -> bool:
    """Whether a cell has its result, and its rows if another cell is to be compared with them."""
    if not cell_path(setup, needed_by).is_file() and cell.name == needed_by.after:
        return is_done(setup, cell.steps[-1]) and cell_path(setup, cell).is_file()
    return cell_path(setup, cell).is_file()


def _run_cell(setup: Setup, cell: Cell, lock: int) -> None:
    for step in cell.steps:
        if not is_done(setup, step):
            print(f"{cell.name}: {step.name}", flush=True)
            do(setup, step, lock)
    steps = {
        step.name: json.loads(record_path(setup, step).read_text(encoding="utf-8"))
        for step in cell.steps
    }
    write_json(
        cell_path(setup, cell),
        {
            "cell": cell.name,
            "part": cell.part,
            "data": cell.data,
            "method": cell.method,
            "where": cell.where,
            "machine": _machine(),
            "steps": steps,
        },
    )
    failure_path(setup, cell).unlink(missing_ok=True)
    for path in cell.drops:
        shutil.rmtree(path, ignore_errors=True)


def _machine() -> dict[str, Any]:
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii")
    except OSError:
        return platform.processor()
    names = [line for line in text.splitlines() if line.startswith("model name")]
    return names[0].partition(":")[2].strip() if names else platform.processor()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `timeout` ends the command, too
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        raise SystemExit(130) from None
