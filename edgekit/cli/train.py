"""``edgekit train``: recipe in, adapter out, with a progress bar in between."""

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
    from rich.progress import Progress, TaskID

    from edgekit.training.events import Event, TrainingStep
    from edgekit.training.report import TrainingReport


def train_command(
    recipes: Annotated[
        list[Path],
        typer.Argument(
            help="Training recipe (YAML); several are trained each on its own.",
            show_default=False,
            metavar="RECIPE...",
        ),
    ],
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Override a key of every recipe (repeatable)."
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume/--no-resume", help="Go on with an unfinished run of the same recipe."
        ),
    ] = True,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace a finished adapter, or another recipe's unfinished run."
        ),
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Start even if the memory estimate is far over this machine."),
    ] = False,
    engine: Annotated[
        Engine | None,
        typer.Option(
            help="Where trainings run: local, one after another; or on a Ray cluster.",
            rich_help_panel="Scale-out",
        ),
    ] = None,
    ray_address: RayAddressOption = None,
    task_cpus: TaskCpusOption = None,
    task_gpus: TaskGpusOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train an adapter from a recipe.

    The adapter is a PEFT directory with its report, loss curve and TensorBoard logs. A run that
    was stopped goes on from its last checkpoint when it is started again. Of several recipes one
    that fails does not stop the others.

    Examples:
        edgekit train bundles/demo/tone.yaml
        edgekit train recipe.yaml --set training.max_steps=50 --set output=adapters/quick
        edgekit train recipes/*.yaml --engine ray
    """
    ray = ray_options(engine, ray_address, task_cpus, task_gpus)
    if len(recipes) > 1 or engine is not None:
        from edgekit.cli.train_many import train_many
        from edgekit.scaling.jobs import JobOptions

        options = JobOptions(resume=resume, overwrite=overwrite, force=force)
        train_many(recipes, set_ or [], options, ray, as_json=as_json)
        return
    from edgekit.recipes import TrainRecipe, load_recipe
    from edgekit.training.processes import FirstProcessError, leave, processes
    from edgekit_runtime.cli.console import console, write_json

    loaded = load_recipe(recipes[0], TrainRecipe, set_ or [])
    screen = console(stderr=True)
    screen.quiet = not processes().is_first
    with TrainingProgress(screen) as progress:
        progress.say("loading transformers and peft")
        from edgekit.training.train import train

        try:
            report = train(
                loaded, on_event=progress, resume=resume, overwrite=overwrite, force=force
            )
        except FirstProcessError as err:  # one of several processes tells it
            raise typer.Exit(1) from err
    if processes().is_first:
        if as_json:
            write_json(report.to_dict())
        else:
            _show(report)
    leave()


class TrainingProgress:
    """Draws a run's events: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, console: "Console") -> None:
        self._console = console
        self._bar: Progress | None = _new_bar(console) if console.is_terminal else None
        self._task: TaskID | None = None
        self._shown_eval: float | None = None

    def __enter__(self) -> "TrainingProgress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, event: "Event") -> None:
        """Show one event."""
        from edgekit.training.events import GenerationProgress, Message, TrainingStep

        match event:
            case Message(text=text, is_warning=True):
                self._print(f"warning: {text}", style="yellow")
            case Message(text=text):
                self.say(text)
            case TrainingStep():
                self._step(event)
            case GenerationProgress(done=done, total=total):
                self._update(done, total, "")

    def say(self, text: str) -> None:
        """Name the phase that begins."""
        if not self._bar:
            self._print(text)
            return
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(text, total=None, figures="")

    def _step(self, step: "TrainingStep") -> None:
        figures = figures_of(step)
        self._update(step.step, step.max_steps, figures)
        if not self._bar and step.eval_loss != self._shown_eval:
            self._shown_eval = step.eval_loss
            self._print(f"step {step.step}/{step.max_steps}  {figures}")

    def _update(self, done: int, total: int, figures: str) -> None:
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=done, total=total, figures=figures)

    def _print(self, text: str, style: str | None = None) -> None:
        self._console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _new_bar(console: "Console") -> "Progress":
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


def figures_of(step: "TrainingStep") -> str:
    """The losses that are known."""
    named = [("loss", step.loss), ("eval loss", step.eval_loss)]
    return "  ".join(f"{name} {value:.3f}" for name, value in named if value is not None)


def _show(report: "TrainingReport") -> None:
    from edgekit_runtime.cli.console import add_row, console, new_table, show_size

    table = new_table(None, ["", ""])
    rows = report.rows
    left_out = f", {rows.truncated} too long and left out" if rows.truncated else ""
    repeated = f", {rows.duplicates} repeated" if rows.duplicates else ""
    kind = "new base" if report.recipe["method"] == "full" else "adapter"
    add_row(table, kind, str(report.output))
    add_row(table, "base", f"{report.base}  {report.base_fingerprint[:19]}…")
    weights = report.recipe.get("weights")
    add_row(table, "method", f"{report.recipe['method']}{f' on {weights}' if weights else ''}")
    add_row(table, "rows", f"{rows.used} trained on, {rows.validation} validation"
            f"{left_out}{repeated}")  # fmt: skip
    for split, metrics in report.metrics.items():
        figures = "  ".join(f"{name} {value:.3f}" for name, value in metrics.items())
        add_row(table, split, figures)
    for split, losses in report.losses.items():
        figures = ", ".join(f"{value:.3f} on {weights}" for weights, value in losses.items())
        add_row(table, f"{split} loss", figures)
    add_row(table, "kept", f"step {report.best_step} of {report.steps}")
    add_row(
        table,
        "speed",
        f"{report.seconds:.0f} s, {report.tokens_per_s:.0f} tokens/s, {report.precision}, "
        f"peak {show_size(report.peak_rss_bytes)} "
        f"(estimated {show_size(report.memory_estimate['total_bytes'])})",
    )
    used = report.usage
    busy = f"{used.cpu_cores:.1f} of {used.cpu_count} cores busy, {used.steps_per_s:.2f} steps/s"
    if used.gpu is not None:
        share = f" {used.gpu_percent:.0f} % busy," if used.gpu_percent is not None else ""
        busy += f"; {used.gpu}{share} peak {show_size(used.gpu_peak_bytes or 0)}"
    add_row(table, "machine", busy)
    for verdict in report.verdicts:
        add_row(table, verdict.kind.replace("_", " "), f"{verdict.text}. {verdict.advice}")
    console().print(table)
    if following := _next(report):
        console().print(f"Next: {following}", markup=False, soft_wrap=True)


def _next(report: "TrainingReport") -> str | None:
    """The command that takes the result on its way to a device."""
    name, base, recipe = report.output.name, report.base, report.recipe
    if recipe["method"] == "full":
        return f"edgekit build --base {report.output} -o bundles/{name}"
    if recipe["method"] == "bottleneck":
        return None
    if recipe["method"] == "dora" or recipe["lora"]["modules_to_save"]:
        return f"edgekit merge {report.output} --base {base} -o models/{name}"
    return f"edgekit build --base {base} --adapter {name}={report.output} -o bundles/{name}"
