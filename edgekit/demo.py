"""The demo: the main job on the embedded base, from data to two skills that swap."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.building.build import BuildReport, build
from edgekit.building.recipe import arguments_of
from edgekit.bundling.adapters import AdapterSource
from edgekit.evaluating.evaluate import evaluate
from edgekit.recipes import BundleRecipe, TrainRecipe, load_recipe
from edgekit.training.events import GenerationProgress, Message, OnEvent
from edgekit.training.train import train
from edgekit_runtime.bench import bench
from edgekit_runtime.bench_report import BenchPlan

TASKS = ("tone", "appointment")
HEADLINE = {"tone": "accuracy", "appointment": "field_f1"}
_TEST_FILES = {"tone": "test.csv", "appointment": "test.jsonl"}
_TRAIN_FILES = {"tone": "train.csv", "appointment": "train.jsonl"}
_N_SCORED = 50
_HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoReport:
    """What the demo ends with.

    Attributes:
        scores: Task to column (``base``, ``tone``, ``appointment``, ``tfidf``) to the task's
            headline metric, 0 to 1, on held-out rows of the bundle that was built.
        n_rows: Held-out rows scored a task.
        bench: As ``edgekit bench --json`` prints it.
    """

    bundle: Path
    build: BuildReport
    bench: Mapping[str, Any]
    scores: Mapping[str, Mapping[str, float]]
    n_rows: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "bundle": str(self.bundle),
            "size_bytes": self.build.size_bytes,
            "digest": self.build.manifest.digest,
            "metrics": HEADLINE,
            "scores": {task: dict(row) for task, row in self.scores.items()},
            "n_rows": dict(self.n_rows),
            "bench": dict(self.bench),
        }


def demo_dir() -> Path:
    """The recipes and data of the demo: inside the wheel, or the repository's own folder."""
    packaged = _HERE / "_bundles" / "demo"
    return packaged if packaged.is_dir() else _HERE.parent / "bundles" / "demo"


def run_demo(
    output: Path, *, tell: OnEvent, on_phase: Callable[[str], None], fresh: bool = False
) -> DemoReport:
    """Train two adapters, build a bundle, pass the gate, score and time it.

    Args:
        output: Directory for ``adapters/`` and ``bundle/``.
        tell: Told of messages, steps and rows done.
        on_phase: Told of the five phases.
        fresh: Train again even where an earlier demo left finished adapters.

    Raises:
        EdgekitError: A child of it.
    """
    adapters = {}
    for number, task in enumerate(TASKS, 1):
        on_phase(f"{number}/5  training the adapter '{task}'")
        adapters[task] = _train(task, output, tell, fresh=fresh)
    on_phase("3/5  building the bundle and passing the parity gate")
    built = _build(output, adapters, tell)
    bundle = built.output
    on_phase("4/5  scoring every skill on every task, held-out rows, on the bundle")
    scores, n_rows = {}, {}
    for task in TASKS:
        scores[task], n_rows[task] = _score(task, bundle, tell)
    on_phase("5/5  measuring speed and swaps")
    measured = bench(BenchPlan(bundle=str(bundle), adapter=TASKS[0], repeats=3))
    return DemoReport(bundle=bundle, build=built, bench=measured, scores=scores, n_rows=n_rows)


def _train(task: str, output: Path, tell: OnEvent, *, fresh: bool) -> Path:
    path = output / "adapters" / task
    if (path / "edgekit.json").is_file() and not fresh:
        tell(Message(text=f"found a trained '{task}' in {path} (--fresh trains it again)"))
        return path
    overrides = [f"output={path}", f"data.train={data_file(task, _TRAIN_FILES)}"]
    recipe = load_recipe(demo_dir() / f"{task}.yaml", TrainRecipe, overrides)
    train(recipe, on_event=tell, overwrite=fresh)
    return path


def _build(output: Path, adapters: Mapping[str, Path], tell: OnEvent) -> BuildReport:
    arguments = arguments_of(load_recipe(demo_dir() / "bundle.yaml", BundleRecipe))
    arguments["adapters"] = {name: AdapterSource(path=path) for name, path in adapters.items()}
    arguments["output"] = output / "bundle"
    return build(**arguments, overwrite=True, on_message=lambda text: tell(Message(text=text)))


def _score(task: str, bundle: Path, tell: OnEvent) -> tuple[dict[str, float], int]:
    """One row of the table: the task with the base, with each adapter, and the baseline."""
    metric = HEADLINE[task]
    row, n_rows = {}, 0
    for adapter in (None, *TASKS):
        tell(Message(text=f"scoring '{task}' with {adapter or 'the base'}"))
        report = evaluate(
            data=data_file(task, _TEST_FILES),
            bundle=bundle,
            adapter=adapter,
            recipe=_recipe_of(task, bundle),
            metrics=[metric],
            limit=_N_SCORED,
            perplexity=False,
            on_progress=lambda done, total: tell(GenerationProgress(done=done, total=total)),
        )
        row[adapter or "base"] = report.metrics[metric]
        n_rows = report.n_rows
    if task == "tone":
        baseline = evaluate(
            data=data_file(task, _TEST_FILES),
            bundle=bundle,
            recipe_of=task,
            method="tfidf",
            train=data_file(task, _TRAIN_FILES),
            metrics=[metric],
            limit=_N_SCORED,
        )
        row["tfidf"] = baseline.metrics[metric]
    return row, n_rows


def _recipe_of(task: str, bundle: Path) -> dict[str, Any]:
    """The task's own recipe, whichever adapter answers."""
    from edgekit_runtime import Bundle

    card = Bundle.open(bundle).adapter_card(task)
    return dict(card.recipe) | {"max_new_tokens": card.defaults.get("max_new_tokens")}


def data_file(task: str, files: Mapping[str, str]) -> str:
    """Path of one of the demo's data files."""
    return str(demo_dir() / "data" / task / files[task])
