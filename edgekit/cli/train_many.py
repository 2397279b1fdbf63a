"""``edgekit train`` of several recipes: what goes on in each, and how each ended."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from edgekit.scaling.jobs import JobEvent, JobOptions, Outcome
    from edgekit.scaling.ray_cluster import RayOptions


def train_many(
    recipes: Sequence[Path],
    overrides: Sequence[str],
    options: "JobOptions",
    ray: "RayOptions | None",
    *,
    as_json: bool,
) -> None:
    """Train several recipes, show how each ended, and fail if one failed."""
    from edgekit.scaling.jobs import load_jobs
    from edgekit.training.processes import refuse_several
    from edgekit_runtime.cli.console import console, write_json

    refuse_several("several recipes, or --engine,")
    jobs = load_jobs(recipes, overrides)
    progress = _Progress(console(stderr=True))
    started = time.monotonic()
    if ray is None:
        from edgekit.scaling.local import train_here

        outcomes = train_here(jobs, options, progress)
    else:
        from edgekit.scaling.ray_jobs import train_on_ray

        progress.say("starting Ray, or connecting to it")
        outcomes = train_on_ray(jobs, options, ray, progress)
    if as_json:
        write_json(_json(outcomes, "local" if ray is None else "ray", time.monotonic() - started))
    else:
        _show(outcomes)
    if any(outcome.state == "failed" for outcome in outcomes):
        raise typer.Exit(1)


class _Progress:
    """A line for each thing that a job tells, with its name before it."""

    def __init__(self, screen: "Console") -> None:
        self._screen = screen
        self._warned: set[str] = set()

    def __call__(self, event: "JobEvent") -> None:
        from edgekit.cli.train import figures_of
        from edgekit.scaling.jobs import JobEnded, JobLost
        from edgekit.training.events import Message, TrainingStep

        if isinstance(event, JobEnded):
            outcome = event.outcome
            reason = f": {outcome.error.splitlines()[0]}" if outcome.error else ""
            self._line(
                event.name,
                f"{outcome.state} ({event.n_done}/{event.n_jobs}), {outcome.seconds:.0f} s{reason}",
                style="red" if reason else None,
            )
            return
        if isinstance(event, JobLost):
            self._line(event.name, f"warning: {event.reason}; starting it again", style="yellow")
            return
        match event.event:
            case Message(text=text, is_warning=True):
                # Recipes of one base are warned of its licence once.
                if text not in self._warned:
                    self._warned.add(text)
                    self._line(event.name, f"warning: {text}", style="yellow")
            case Message(text=text):
                self._line(event.name, text)
            case TrainingStep(step=step, max_steps=max_steps):
                self._line(event.name, f"step {step}/{max_steps}  {figures_of(event.event)}")

    def say(self, text: str) -> None:
        """Tell what is of no job."""
        self._screen.print(text, markup=False, highlight=False, soft_wrap=True)

    def _line(self, name: str, text: str, style: str | None = None) -> None:
        self._screen.print(
            f"{name}: {text}", style=style, markup=False, highlight=False, soft_wrap=True
        )


def _json(outcomes: "Sequence[Outcome]", engine: str, seconds: float) -> dict[str, Any]:
    return {
        "schema_version": "1.0",
        "engine": engine,
        "seconds": round(seconds, 1),
        "n_failed": sum(outcome.state == "failed" for outcome in outcomes),
        "outcomes": [outcome.to_dict() for outcome in outcomes],
    }


def _show(outcomes: "Sequence[Outcome]") -> None:
    from edgekit_runtime.cli.console import add_row, console, new_table, warn

    columns = ["", "attempts", "seconds", "validation", "recipe and output"]
    table = new_table(None, columns, right=columns[1:3], text=columns[-1])
    for one in outcomes:
        validation = (one.report or {}).get("metrics", {}).get("validation", {})
        figures = "  ".join(f"{name} {value:.3f}" for name, value in validation.items())
        where = f"{one.recipe}: {one.output}"
        add_row(table, one.state, str(one.attempts), f"{one.seconds:.0f}", figures, where)
    console().print(table)
    for one in outcomes:
        if one.error:
            warn(f"{one.recipe}: {one.error}")
