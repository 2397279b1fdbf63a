"""Several recipes as jobs: read together, and each with an outcome of its own."""

import json
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from edgekit.errors import EdgekitError, RecipeError
from edgekit.recipes import TrainRecipe, load_recipe
from edgekit.training.events import Event, GenerationProgress, OnEvent, TrainingStep
from edgekit.training.output import TRAINING_REPORT

MAX_ATTEMPTS = 3
_N_STEPS_TOLD = 10


State = Literal["trained", "kept", "failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One recipe of several.

    Attributes:
        name: Short, and no other job's.
        path: Of the recipe, as typed.
    """

    name: str
    path: Path
    recipe: TrainRecipe


@dataclass(frozen=True, kw_only=True, slots=True)
class JobOptions:
    """What ``edgekit train`` was told for every recipe, see :func:`edgekit.train`."""

    resume: bool = True
    overwrite: bool = False
    force: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a job ended.

    Attributes:
        state: ``trained``; ``kept``, if what this recipe makes of these rows and this base was
            there already; ``failed``.
        attempts: How often it was started; more than once where a process or machine was lost.
        host: Where it ended.
        seconds: Of the last attempt.
        error: Of a failed one.
        report: Of the training, as its JSON has it; None if it failed.
    """

    recipe: str
    output: str
    state: State
    attempts: int
    host: str
    seconds: float
    error: str
    report: dict[str, Any] | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class WithinJob:
    """What the training of a job tells."""

    name: str
    event: Event


@dataclass(frozen=True, kw_only=True, slots=True)
class JobLost:
    """The process of a job, or its machine, is gone; the job is started again."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class JobEnded:
    """A job is over."""

    name: str
    n_done: int
    n_jobs: int
    outcome: Outcome


JobEvent = WithinJob | JobLost | JobEnded
OnJobEvent = Callable[[JobEvent], None]


def load_jobs(paths: Sequence[Path], overrides: Sequence[str] = ()) -> tuple[Job, ...]:
    """Read every recipe, before any is trained.

    Args:
        paths: YAML files.
        overrides: ``dotted.key=value`` for all of them.

    Raises:
        RecipeError: With what is wrong with each, and with those that share an output.
    """
    recipes: dict[Path, TrainRecipe] = {}
    problems = []
    for path in dict.fromkeys(paths):
        try:
            recipes[path] = load_recipe(path, TrainRecipe, overrides)
        except EdgekitError as err:
            problems += str(err).splitlines()
    by_output: dict[Path, list[str]] = {}
    for path, recipe in recipes.items():
        by_output.setdefault(recipe.output.resolve(), []).append(str(path))
    problems += [
        f"output {output}: of {' and '.join(names)}"
        for output, names in by_output.items()
        if len(names) > 1
    ]
    if problems:
        raise RecipeError(
            "the recipes cannot be trained together",
            problems=problems,
            hint="None was started. Every recipe needs an output of its own.",
        )
    stems = [path.stem for path in recipes]
    return tuple(
        Job(name=path.stem if stems.count(path.stem) == 1 else str(path), path=path, recipe=recipe)
        for path, recipe in recipes.items()
    )


def run_job(job: Job, options: JobOptions, on_event: OnEvent, *, attempt: int = 1) -> Outcome:
    """Train a job's recipe in this process, or go on with it; a failure is an outcome too."""
    import torch

    from edgekit.training.train import train

    started = time.monotonic()
    report: dict[str, Any] | None = None
    state: State = "failed"
    error = ""
    try:
        report, state = _finished_report(job.recipe, options), "kept"
        if report is None:
            trained = train(
                job.recipe,
                on_event=_milestones(on_event),
                # Another attempt goes on with what this very command began.
                resume=options.resume or attempt > 1,
                overwrite=options.overwrite,
                force=options.force,
            )
            report, state = json.loads(json.dumps(trained.to_dict())), "trained"
    except (EdgekitError, OSError, MemoryError, torch.OutOfMemoryError) as err:
        state, error = "failed", str(err) or type(err).__name__
    return Outcome(
        recipe=job.path.as_posix(),
        output=job.recipe.output.as_posix(),
        state=state,
        attempts=attempt,
        host=socket.gethostname(),
        seconds=round(time.monotonic() - started, 1),
        error=error,
        report=report,
    )


def failed(job: Job, *, attempts: int, host: str, error: str) -> Outcome:
    """The outcome of a job whose process has nothing to say any more."""
    return Outcome(
        recipe=job.path.as_posix(),
        output=job.recipe.output.as_posix(),
        state="failed",
        attempts=attempts,
        host=host,
        seconds=0.0,
        error=error,
        report=None,
    )


def _finished_report(recipe: TrainRecipe, options: JobOptions) -> dict[str, Any] | None:
    """The report of a finished result of this very recipe; None where it is to be trained."""
    from edgekit.training.identity import is_finished

    path = recipe.output / TRAINING_REPORT
    if options.overwrite or not path.is_file():
        return None
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    same = json.loads(json.dumps(recipe.model_dump(mode="json")))
    # The report has the metrics and licence too, which are no part of what a run is known by.
    return report if report.get("recipe") == same and is_finished(recipe) else None


def _milestones(on_event: OnEvent) -> OnEvent:
    """Leave out what matters to a progress bar only: nobody can watch ten of them.

    What is left of the steps are the validation losses; until there is one, every tenth step.
    """
    shown: list[float] = [0]

    def tell(event: Event) -> None:
        if isinstance(event, GenerationProgress):
            return
        if isinstance(event, TrainingStep):
            tenth = event.step * _N_STEPS_TOLD // event.max_steps
            news = tenth if event.eval_loss is None else event.eval_loss
            if news == shown[0]:
                return
            shown[0] = news
        on_event(event)

    return tell
