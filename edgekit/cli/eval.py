"""``edgekit eval``: score a model, or a bundle, with an adapter on held-out rows."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit_runtime.cli.options import JsonOption

if TYPE_CHECKING:
    from edgekit.evaluating.evaluate import EvaluationReport


class Method(StrEnum):
    """How answers are had."""

    GENERATE = "generate"
    LABELS = "labels"
    FEW_SHOT = "few-shot"
    TFIDF = "tfidf"


def eval_command(
    data: Annotated[
        str, typer.Option(help="Rows to score: csv, tsv, json, jsonl, parquet, or a Hub id.")
    ],
    bundle: Annotated[Path | None, typer.Option(help="Score this bundle …")] = None,
    base: Annotated[str | None, typer.Option(help="… or this base, in torch.")] = None,
    adapter: Annotated[
        str | None, typer.Option(help="Name in the bundle, or PEFT directory for --base.")
    ] = None,
    recipe_of: Annotated[
        str | None,
        typer.Option(help="Score without an adapter, by the recorded recipe of this one."),
    ] = None,
    method: Annotated[
        Method, typer.Option(help="Free-running, labels scored, few-shot, or the baseline.")
    ] = Method.GENERATE,
    train: Annotated[
        str | None, typer.Option(help="Training rows, for few-shot and tfidf.")
    ] = None,
    shots: Annotated[int, typer.Option(min=1, help="Solved rows before every prompt.")] = 5,
    prompt: Annotated[str | None, typer.Option(help="Prompt template: 'Q: {text}'.")] = None,
    completion: Annotated[str | None, typer.Option(help="Completion template: ' {label}'.")] = None,
    task: Annotated[str | None, typer.Option(help="classification, extraction, …")] = None,
    metric: Annotated[
        list[str] | None, typer.Option("--metric", help="Metric; repeatable.")
    ] = None,
    stop: Annotated[str | None, typer.Option(help="Text that ends an answer.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Score the first N rows.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Limit of an answer.")] = None,
    target: Annotated[str | None, typer.Option(help="Target of the bundle.")] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="For --base: float, or target:NAME; those of the adapter's training by default."
        ),
    ] = None,
    perplexity: Annotated[bool, typer.Option(help="Also measure perplexity.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Score a torch model or a bundle, with an adapter or without, by one code.

    Prompt, completion and metrics come from the adapter's recorded recipe unless they are given.

    Examples:
        edgekit eval --bundle bundles/support --adapter banking --data test.csv
        edgekit eval --base smollm2-135m --adapter adapters/banking --data test.csv --json
        edgekit eval --bundle bundles/support --recipe-of banking --method labels --data test.csv
    """
    if (bundle is None) == (base is None):
        raise typer.BadParameter("give either --bundle or --base")
    if bundle is not None and weights is not None:
        raise typer.BadParameter("--weights is for --base; a bundle has weights of its own")
    if stop == "":
        raise typer.BadParameter("--stop must not be empty")
    if adapter and recipe_of:
        raise typer.BadParameter("--recipe-of is for scoring without --adapter")
    from rich.progress import Progress

    from edgekit_runtime.cli.console import console, write_json

    with Progress(console=console(stderr=True), transient=True) as progress:
        bar = progress.add_task("scoring", total=None)
        from edgekit.evaluating.evaluate import evaluate

        report = evaluate(
            data=data,
            bundle=bundle,
            base=base,
            adapter=adapter,
            recipe_of=recipe_of,
            recipe={"prompt": prompt, "completion": completion, "task": task},
            method=method.value,
            train=train,
            shots=shots,
            stop=stop,
            metrics=metric or (),
            limit=limit,
            max_new_tokens=max_new_tokens,
            target=target,
            weights=weights,
            perplexity=perplexity,
            on_progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    if as_json:
        write_json(report.to_dict())
    else:
        _print(report)


def _print(report: "EvaluationReport") -> None:
    from edgekit_runtime.cli.console import add_row, console, new_table, printable, warn

    screen = console()
    who = f"{report.subject} + {report.adapter}" if report.adapter else report.subject
    screen.print(f"{who}, {report.method}, {report.n_rows} rows", markup=False, soft_wrap=True)
    table = new_table(None, ["metric", "score"], right=["score"])
    for name, value in report.metrics.items():
        add_row(table, name, f"{value:.3f}")
    screen.print(table)
    for weights, loss in report.losses.items():
        screen.print(f"loss {loss:.3f} on {weights}", markup=False, highlight=False)
    if report.n_too_long:
        warn(f"{report.n_too_long} rows over the context were left out")
    for row in report.wrong:
        asked = printable(row["prompt"][-200:])
        got = f"  reference: {row['reference']}\n  prediction: {printable(row['prediction'])}"
        screen.print(f"{asked}\n{got}\n", markup=False, highlight=False, soft_wrap=True)
