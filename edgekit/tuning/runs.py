"""One run of a search: trained into a directory of its own, and scored."""

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgekit.base_files import BASE_CONFIG
from edgekit.building.build import build
from edgekit.bundling.adapters import AdapterSource
from edgekit.bundling.edit import add_adapter, remove_adapter
from edgekit.errors import EdgekitError
from edgekit.evaluating.evaluate import evaluate
from edgekit.recipes import TrainRecipe
from edgekit.training.events import OnEvent
from edgekit.training.output import (
    ADAPTER_CONFIG,
    TRAINING_PAGE,
    TRAINING_REPORT,
    drop_checkpoints,
    is_whole,
)
from edgekit.training.scoring import MAX_GENERATED
from edgekit.training.train import train
from edgekit.tuning.loading import Search
from edgekit.tuning.rows import VALIDATION, with_rows
from edgekit.tuning.search_file import ADAPTER_SIZE, LATENCY, LOSSES
from edgekit_runtime import Bundle
from edgekit_runtime.bench import bench
from edgekit_runtime.bench_report import BenchPlan

DEFAULTS = "defaults"
_BENCH_REPEATS = 3


def run_directory(search: Search, run: int | None) -> Path:
    """Where a run trains; None is the one with the recipe's own values."""
    return search.output / "runs" / (DEFAULTS if run is None else f"{run:04d}")


def rows_directory(search: Search) -> Path:
    """Where the rows of a search are written."""
    return search.output / "rows"


def recipe_of_run(search: Search, values: Mapping[str, Any], run: int | None) -> TrainRecipe:
    """The recipe that a run is trained by: its values, the search's rows, its own directory."""
    recipe = with_rows(search.recipe_with(values), rows_directory(search))
    metrics = tuple(one.metric for one in search.objectives if one.is_scored)
    changes = {"output": run_directory(search, run), "metrics": metrics or recipe.metrics}
    return recipe.model_copy(update=changes)


def trained_run(
    search: Search,
    values: Mapping[str, Any],
    run: int | None,
    *,
    on_event: OnEvent,
    force: bool = False,
) -> Mapping[str, Any]:
    """Train a run, or go on with it, or take it as it is if it is finished.

    Returns:
        Its training report, as JSON has it.

    Raises:
        EdgekitError: A child of it, as :func:`edgekit.train` does.
    """
    recipe = recipe_of_run(search, values, run)
    if is_whole(recipe.output):
        found: dict[str, Any] = json.loads(
            (recipe.output / TRAINING_REPORT).read_text(encoding="utf-8")
        )
        return found
    report = train(recipe, on_event=on_event, force=force).to_dict()
    drop_checkpoints(recipe.output)
    return report


def scores_of_run(
    search: Search, report: Mapping[str, Any], run: int | None, *, worker: int
) -> dict[str, float]:
    """The objectives of a run that is trained, on the validation rows of the search.

    Raises:
        EdgekitError: If it cannot be built or scored, or a score is no finite number.
    """
    directory = run_directory(search, run)
    wanted = [one.metric for one in search.objectives]
    if search.file.evaluate_on == "bundle":
        with in_bundle(search, directory, worker=worker) as (bundle, adapter):
            found = _bundle_scores(search, bundle, adapter)
    else:
        found = dict(report["metrics"]["validation"])
        if ADAPTER_SIZE in wanted:
            found[ADAPTER_SIZE] = sum(f.stat().st_size for f in directory.glob("*.safetensors"))
    scores = {metric: float(found[metric]) for metric in wanted}
    if odd := [f"{name} is {value}" for name, value in scores.items() if not math.isfinite(value)]:
        raise EdgekitError(f"run {directory} has no score: {', '.join(odd)}")
    return scores


@contextmanager
def in_bundle(search: Search, directory: Path, *, worker: int) -> Iterator[tuple[Path, str]]:
    """Put a run's adapter into a bundle of the base, and take it out again.

    The base is built once a worker; the parity gate is left to the build that ships.
    """
    bundle = search.output / "candidates" / f"worker-{worker}"
    if not bundle.is_dir():
        build(
            name="candidates",
            base=search.recipe.base,
            output=bundle,
            targets=(search.file.target,),
            parity=False,
        )
    name = f"run-{directory.name}"
    if name in Bundle.open(bundle).manifest.adapters:  # a kill left it there
        remove_adapter(bundle, name)
    source = AdapterSource(path=directory)
    add_adapter(bundle, name, source, base=search.recipe.base, parity=False)
    try:
        yield bundle, name
    finally:
        remove_adapter(bundle, name)


def _bundle_scores(search: Search, bundle: Path, adapter: str) -> dict[str, float]:
    wanted = [one.metric for one in search.objectives]
    found: dict[str, float] = {}
    if ADAPTER_SIZE in wanted:
        manifest = Bundle.open(bundle).manifest
        paths = set(manifest.adapters[adapter].files.values())
        found[ADAPTER_SIZE] = sum(f.size_bytes for f in manifest.files if f.path in paths)
    if LATENCY in wanted:
        plan = BenchPlan(bundle=str(bundle), adapter=adapter, repeats=_BENCH_REPEATS)
        found[LATENCY] = float(bench(plan)["itl_ms"]["p50"])
    scored = tuple(one.metric for one in search.objectives if one.is_scored)
    wants_loss = not {*wanted}.isdisjoint(LOSSES)
    if scored or wants_loss:
        found |= evaluate(
            data=str(rows_directory(search) / VALIDATION),
            bundle=bundle,
            adapter=adapter,
            metrics=scored,
            method="generate" if search.recipe.data.text_template is None else "perplexity",
            limit=MAX_GENERATED,
            perplexity=wants_loss,
        ).metrics
    if "loss" in wanted:
        found["loss"] = math.log(found["perplexity"])
    return found


def thin_out(directory: Path) -> None:
    """Delete the weights of a run that lost; its report and its pictures stay."""
    for mark in (ADAPTER_CONFIG, BASE_CONFIG):
        (directory / mark).unlink(missing_ok=True)
    for path in directory.iterdir() if directory.is_dir() else ():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name not in {TRAINING_REPORT, TRAINING_PAGE, "loss.png"}:
            path.unlink(missing_ok=True)


def keep_run(search: Search, run: int, output: Path) -> None:
    """Copy a run to where the winner lies, as if it had been trained there."""
    source = run_directory(search, run)
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    ignored = shutil.ignore_patterns("checkpoint-*")
    shutil.copytree(source, partial, copy_function=_link_or_copy, ignore=ignored)
    path = partial / TRAINING_REPORT
    report = json.loads(path.read_text(encoding="utf-8"))
    report["output"] = report["recipe"]["output"] = output.as_posix()
    path.unlink()  # it may be a link to the run's own
    path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    shutil.rmtree(output, ignore_errors=True)
    partial.replace(output)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
