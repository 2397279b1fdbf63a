"""``edgekit tune``: search file in, the best run and a report out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.cli.engine_options import (
    Engine,
    RayAddressOption,
    TaskCpusOption,
    TaskGpusOption,
    ray_options,
)
from edgekit_runtime.cli.options import JsonOption

if TYPE_CHECKING:
    from rich.console import Console

    from edgekit.tuning.events import TrialBegun, TrialEnded, TuneEvent
    from edgekit.tuning.report import SearchReport

_N_SHOWN = 10


def tune_command(
    search: Annotated[
        Path, typer.Argument(help="Search file (YAML).", show_default=False, metavar="SEARCH")
    ],
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Override a key of the search file (repeatable)."
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Throw an earlier search in the output away."),
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Start even if the memory estimate is far over this machine."),
    ] = False,
    engine: Annotated[
        Engine,
        typer.Option(
            help="Where the search file's workers run: processes here, or a Ray cluster.",
            rich_help_panel="Scale-out",
        ),
    ] = Engine.LOCAL,
    ray_address: RayAddressOption = None,
    task_cpus: TaskCpusOption = None,
    task_gpus: TaskGpusOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search a recipe's values by Optuna, and keep the best run.

    The best run is an adapter as `edgekit train` leaves it, in OUTPUT/best. It is compared with
    the recipe's own values on rows that no trial saw. A search that was stopped or killed goes on
    when it is started again.

    Examples:
        edgekit tune search.yaml
        edgekit tune search.yaml --set search_strategy.num_trials=50 --json
        edgekit tune search.yaml --engine ray --set workers=4
    """
    ray = ray_options(engine, ray_address, task_cpus, task_gpus)
    from edgekit_runtime.cli.console import console, write_json

    screen = console(stderr=True)
    with _SearchProgress(screen) as progress:
        progress.say("loading transformers and optuna")
        from edgekit.quiet import quiet_libraries

        with quiet_libraries():
            from edgekit.tuning.loading import load_search
            from edgekit.tuning.tune import tune

            loaded = load_search(search, set_ or [])
            try:
                report = tune(loaded, on_event=progress, overwrite=overwrite, force=force, ray=ray)
            except KeyboardInterrupt:
                progress.say(f"stopped; the same command goes on with {loaded.output}")
                raise
    if as_json:
        write_json(report.to_dict())
    else:
        _show(report)


class _SearchProgress:
    """A line for each trial; on a terminal also the bar of the trial that runs."""

    def __init__(self, screen: "Console") -> None:
        from edgekit.cli.train import TrainingProgress

        self._screen = screen
        self._bar: TrainingProgress | None = (
            TrainingProgress(screen) if screen.is_terminal else None
        )
        self._warned: set[str] = set()
        self._shown: int | None = None  # the run that the bar is of, where several run at a time

    def __enter__(self) -> "_SearchProgress":
        if self._bar:
            self._bar.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar:
            self._bar.__exit__(*error)

    def __call__(self, event: "TuneEvent") -> None:
        """Show one event."""
        from edgekit.training.events import Message
        from edgekit.tuning.events import TrialBegun, TrialEnded, WithinTrial

        match event:
            case (
                Message(text=text, is_warning=True)
                | WithinTrial(event=Message(text=text, is_warning=True))
            ):
                self._warn(text)
            case Message(text=text):
                self.say(text)
            case TrialBegun() if self._bar:
                self._shown = event.run
                self._bar.say(_title(event))
            case TrialEnded():
                self._print(_line(event))
            case WithinTrial(run=self._shown, event=inner) if self._bar:
                if not isinstance(inner, Message):
                    self._bar(inner)

    def say(self, text: str) -> None:
        """Name what begins."""
        if self._bar:
            self._bar.say(text)
        else:
            self._print(text)

    def _warn(self, text: str) -> None:
        """Every trial would say the same of the same rows."""
        if text not in self._warned:
            self._warned.add(text)
            self._print(f"warning: {text}", style="yellow")

    def _print(self, text: str, style: str | None = None) -> None:
        self._screen.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _title(event: "TrialBegun") -> str:
    from edgekit.tuning.report import shown_values

    if event.run is None:
        return "the recipe's own values"
    return f"run {event.run} ({event.n_done + 1}/{event.n_trials}): {shown_values(event.values)}"


def _line(event: "TrialEnded") -> str:
    from edgekit.tuning.report import shown_values

    name = "the recipe's own values" if event.run is None else f"run {event.run}"
    counted = "" if event.run is None else f"{event.n_done}/{event.n_trials}  "
    what = shown_values(event.scores) or f"{event.state} {event.reason}".strip()
    best = "  best so far" if event.is_best else ""
    return f"{counted}{name}: {what}  {event.seconds:.0f} s{best}"


def _show(report: "SearchReport") -> None:
    from edgekit.tuning.report import shown, verdict
    from edgekit_runtime.cli.console import add_row, console, new_table, warn

    screen = console()
    metrics, keys = list(report.objectives), list(report.values)
    table = new_table(None, ["run", *metrics, *keys], right=metrics)
    add_row(
        table, "defaults", *(shown(value) for value in report.defaults.values()), *[""] * len(keys)
    )
    sign = -1 if report.objectives[metrics[0]] == "maximize" else 1
    done = sorted(
        (one for one in report.trials if one.scores), key=lambda one: sign * one.scores[metrics[0]]
    )
    for trial in done[:_N_SHOWN]:
        mark = " *" if trial.run in report.pareto else ""
        cells = [*trial.scores.values(), *trial.values.values()]
        add_row(table, f"{trial.run}{mark}", *(shown(value) for value in cells))
    screen.print(table)
    if len(done) > _N_SHOWN:
        screen.print(f"and {len(done) - _N_SHOWN} more trials")
    for warning in report.warnings:
        warn(f"warning: {warning}")
    screen.print(verdict(report), markup=False, soft_wrap=True)
    where = f"winner: {report.best}  report: {report.output / 'search_report.md'}"
    screen.print(where, markup=False, soft_wrap=True)
