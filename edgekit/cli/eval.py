"""``edgekit eval``: score a model, or a bundle, with an adapter on held-out rows."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from edgekit_runtime.cli.options import JsonOption

_DEFAULT_SHOTS = 5


class Method(StrEnum):
    """How answers are had."""

    GENERATE = "generate"
    LABELS = "labels"
    CLASSIFY = "classify"
    FEW_SHOT = "few-shot"
    TFIDF = "tfidf"
    PERPLEXITY = "perplexity"


def eval_command(
    data: Annotated[
        str | None,
        typer.Option(help="Rows to score: csv, tsv, json, jsonl, parquet, or a Hub id."),
    ] = None,
    harness: Annotated[
        list[str] | None,
        typer.Option(
            "--harness",
            metavar="TASK",
            help="Instead of --data: a task of lm-evaluation-harness, by name, file or directory; "
            "repeatable.",
        ),
    ] = None,
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
        Method, typer.Option(help="How answers are had; see below.")
    ] = Method.GENERATE,
    train: Annotated[
        str | None, typer.Option(help="Training rows, for few-shot and tfidf.")
    ] = None,
    shots: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Solved rows before every prompt: 5 for few-shot, the task's own for --harness.",
        ),
    ] = None,
    chat_template: Annotated[
        bool, typer.Option("--chat-template", help="For --harness: ask by the chat template.")
    ] = False,
    system: Annotated[
        str | None, typer.Option(help="For --harness: what stands before every prompt.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="Prompt template: 'Q: {text}'.")] = None,
    completion: Annotated[str | None, typer.Option(help="Completion template: ' {label}'.")] = None,
    text_template: Annotated[
        str | None, typer.Option(help="Template of a text to read, for perplexity: '{text}'.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="classification, extraction, …")] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", help="Metric, or path/to/file.py:function; repeatable."),
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
    window: Annotated[
        int | None, typer.Option(min=2, help="For perplexity: tokens read at once.")
    ] = None,
    stride: Annotated[
        int | None, typer.Option(min=1, help="For perplexity: tokens between two windows.")
    ] = None,
    confidence: Annotated[float, typer.Option(help="Of the intervals.")] = 0.95,
    compare: Annotated[
        Path | None, typer.Option(help="Result of another run over the same rows.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write the result there, every row with it.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with pictures and the worst rows there.")
    ] = None,
    rating_sheet: Annotated[
        Path | None,
        typer.Option(help="With --compare: write a blind sheet for people (.csv or .html) there."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Score a torch model or a bundle, with an adapter or without, by one code.

    Prompt, completion and metrics come from the adapter's recorded recipe unless they are given.

    Examples:
        edgekit eval --bundle bundles/support --adapter banking --data test.csv
        edgekit eval --base smollm2-135m --adapter adapters/banking --data test.csv --json
        edgekit eval --bundle bundles/support --recipe-of banking --method labels --data test.csv
        edgekit eval --base smollm2-135m --adapter two --data test.csv --compare one.json
        edgekit eval --bundle bundles/support --adapter banking --harness my_task.yaml
    """
    if (data is None) == (not harness):
        raise typer.BadParameter("give either --data or --harness")
    if (bundle is None) == (base is None):
        raise typer.BadParameter("give either --bundle or --base")
    if bundle is not None and weights is not None:
        raise typer.BadParameter("--weights is for --base; a bundle has weights of its own")
    if not harness and (chat_template or system is not None):
        raise typer.BadParameter("--chat-template and --system are for --harness")
    if shots == 0 and not harness:
        raise typer.BadParameter("--shots: expected at least 1, got 0")
    if stop == "":
        raise typer.BadParameter("--stop must not be empty")
    if adapter and recipe_of:
        raise typer.BadParameter("--recipe-of is for scoring without --adapter")
    if method is not Method.PERPLEXITY and (window or stride):
        raise typer.BadParameter("--window and --stride are for --method perplexity")
    if rating_sheet is not None and compare is None:
        raise typer.BadParameter("--rating-sheet needs --compare: it shows two runs side by side")
    if rating_sheet is not None and rating_sheet.suffix not in {".csv", ".html"}:
        raise typer.BadParameter(f"--rating-sheet: expected .csv or .html, got '{rating_sheet}'")
    from rich.progress import Progress

    from edgekit.cli.eval_harness import refuse_with_harness, run_harness
    from edgekit.cli.eval_output import (
        print_report,
        write_outputs,
        write_rating_sheet,
    )
    from edgekit.cli.written_files import check_outputs
    from edgekit_runtime.cli.console import console, write_json

    check_outputs(output, html, rating_sheet)
    if harness:
        others = {
            "--recipe-of": recipe_of, "--train": train, "--prompt": prompt, "--task": task,
            "--completion": completion, "--text-template": text_template, "--metric": metric,
            "--stop": stop, "--compare": compare, "--method": method is not Method.GENERATE,
            "--no-perplexity": not perplexity,
        }  # fmt: skip
        refuse_with_harness(others)

    with Progress(console=console(stderr=True), transient=True) as progress:
        bar = progress.add_task("scoring", total=None)

        def on_progress(done: int, total: int) -> None:
            progress.update(bar, completed=done, total=total)

        if harness:
            report = run_harness(
                harness,
                bundle=bundle,
                base=base,
                adapter=adapter,
                target=target,
                weights=weights,
                shots=shots,
                limit=limit,
                max_new_tokens=max_new_tokens,
                chat_template=chat_template,
                system=system,
                confidence=confidence,
                on_progress=on_progress,
            )
        else:
            from edgekit.evaluating.evaluate import evaluate

            report = evaluate(
                data=data or "",
                bundle=bundle,
                base=base,
                adapter=adapter,
                recipe_of=recipe_of,
                recipe={
                    "prompt": prompt,
                    "completion": completion,
                    "text_template": text_template,
                    "task": task,
                },
                method=method.value,
                train=train,
                shots=shots or _DEFAULT_SHOTS,
                stop=stop,
                metrics=metric or (),
                limit=limit,
                max_new_tokens=max_new_tokens,
                target=target,
                weights=weights,
                perplexity=perplexity,
                window=window,
                stride=stride,
                confidence=confidence,
                other=compare,
                on_progress=on_progress,
            )
    write_outputs(report, output, html)
    if rating_sheet is not None and compare is not None:
        write_rating_sheet(report, compare, rating_sheet)
    if as_json:
        write_json(report.to_dict())
    else:
        print_report(report)
