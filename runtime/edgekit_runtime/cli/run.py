"""``run``: answer one prompt, or every line of a file."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekit_runtime.cli.options import (
    AdapterOption,
    BundleArgument,
    JsonOption,
    MaxNewTokensOption,
    RepetitionPenaltyOption,
    SeedOption,
    StopOption,
    TargetOption,
    TemperatureOption,
    ThreadsOption,
    TopKOption,
    TopPOption,
    given,
    parse_pairs,
    read_schema,
)

if TYPE_CHECKING:
    from edgekit_runtime import Engine, Generation

_PROMPT = "Prompt"
_CONSTRAINT = "Constrain the answer (at most one)"
_BATCH = "Many prompts"


def run_command(
    bundle: BundleArgument,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt",
            "-p",
            metavar="TEXT",
            help="Raw text; '-' reads it from stdin.",
            rich_help_panel=_PROMPT,
        ),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            metavar="KEY=VALUE",
            help="Fill a field of the adapter's own prompt template (repeatable).",
            rich_help_panel=_PROMPT,
        ),
    ] = None,
    chat: Annotated[
        bool,
        typer.Option(
            "--chat", help="Put the prompt into the chat template.", rich_help_panel=_PROMPT
        ),
    ] = False,
    system: Annotated[
        str | None,
        typer.Option(
            "--system",
            metavar="TEXT",
            help="System message; implies --chat.",
            rich_help_panel=_PROMPT,
        ),
    ] = None,
    adapter: AdapterOption = None,
    target: TargetOption = None,
    threads: ThreadsOption = None,
    max_new_tokens: MaxNewTokensOption = None,
    temperature: TemperatureOption = None,
    top_k: TopKOption = None,
    top_p: TopPOption = None,
    repetition_penalty: RepetitionPenaltyOption = None,
    seed: SeedOption = None,
    stop: StopOption = None,
    schema: Annotated[
        Path | None,
        typer.Option(
            "--schema", metavar="FILE", help="File with a JSON schema.", rich_help_panel=_CONSTRAINT
        ),
    ] = None,
    regex: Annotated[
        str | None,
        typer.Option(
            "--regex", metavar="R", help="Regular expression.", rich_help_panel=_CONSTRAINT
        ),
    ] = None,
    choices: Annotated[
        list[str] | None,
        typer.Option(
            "--choice",
            metavar="TEXT",
            help="One of these texts (repeatable).",
            rich_help_panel=_CONSTRAINT,
        ),
    ] = None,
    timeout_s: Annotated[
        float | None,
        typer.Option(
            "--timeout", metavar="SECONDS", min=0.0, help="Stop answering after so many seconds."
        ),
    ] = None,
    input_file: Annotated[
        Path | None,
        typer.Option(
            "--input-file",
            metavar="FILE",
            help="JSON lines with prompt, messages or inputs; optional adapter, id, and options.",
            rich_help_panel=_BATCH,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where the answers to --input-file go; stdout by default.",
            rich_help_panel=_BATCH,
        ),
    ] = None,
    stream: Annotated[
        bool | None,
        typer.Option(
            "--stream/--no-stream",
            help="Show text as it comes; the default on a terminal.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Answer one prompt, or every line of a file.

    -p is raw text; --input fills the adapter's own template; --chat applies the chat template.

    Examples:
        {command} my-bundle -p "The capital of France is" -n 8
        {command} my-bundle --adapter tone --input text="Great, it broke again"
        {command} my-bundle --chat -p "Name a fruit" --schema fruit.json --json
        {command} my-bundle --input-file questions.jsonl --output answers.jsonl
    """
    if sum(bool(constraint) for constraint in (schema, regex, choices)) > 1:
        raise typer.BadParameter("give only one of --schema, --regex, --choice")
    options = given(
        adapter=adapter,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        stop=tuple(stop or ()),
        schema=read_schema(schema) if schema else None,
        regex=regex,
        choices=tuple(choices or ()),
        timeout_s=timeout_s,
    )
    if output is not None and input_file is None:
        raise typer.BadParameter("--output goes with --input-file")
    if input_file is not None:
        if prompt is not None or inputs or chat or system:
            raise typer.BadParameter("--input-file brings its own prompts")
        _run_file(bundle, input_file, output, target, threads, options)
        return
    request = _request(prompt, inputs or [], chat, system)
    streaming = sys.stdout.isatty() if stream is None else stream
    from edgekit_runtime import Bundle

    with Bundle.open(bundle) as opened, opened.engine(target, threads=threads) as engine:
        _answer(engine, request | options, as_json=as_json, streaming=streaming)


def _request(
    prompt: str | None, inputs: list[str], chat: bool, system: str | None
) -> dict[str, Any]:
    """What to ask the engine: raw text, a filled template, or messages."""
    chat = chat or system is not None
    if inputs:
        if prompt is not None or chat:
            raise typer.BadParameter(
                "--input fills the adapter's template; leave -p and --chat out"
            )
        return {"inputs": parse_pairs(inputs, "--input")}
    if prompt is None and sys.stdin.isatty():
        raise typer.BadParameter("no prompt: give -p TEXT, --input KEY=VALUE, or pipe text in")
    text = sys.stdin.read() if prompt in (None, "-") else prompt
    if not chat:
        return {"prompt": text}
    first = [{"role": "system", "content": system}] if system is not None else []
    return {"messages": [*first, {"role": "user", "content": text}]}


def _answer(engine: "Engine", request: dict[str, Any], *, as_json: bool, streaming: bool) -> None:
    """Ask, and write the answer to stdout."""
    from edgekit_runtime.cli.console import write_json, write_text

    if as_json:
        write_json(engine.generate(**request).to_dict() | {"target": engine.target})
        return
    if streaming:
        pieces = engine.stream(**request)
        for piece in pieces:
            write_text(piece)
        generation = pieces.result
    else:
        generation = engine.generate(**request)
        write_text(generation.text)
    sys.stdout.write("\n")
    _say_why_it_ended(generation)


def _say_why_it_ended(generation: "Generation") -> None:
    """Tell a person at a terminal that the answer is not complete."""
    from edgekit_runtime.cli.console import note

    reasons = {
        "length": f"(cut at {generation.usage.completion_tokens} tokens: --max-new-tokens)",
        "timeout": "(cut by --timeout)",
    }
    reason = reasons.get(generation.finish_reason)
    if reason and sys.stderr.isatty():
        note(reason)


def _run_file(
    bundle: Path,
    source: Path,
    output: Path | None,
    target: str | None,
    threads: int | None,
    options: dict[str, Any],
) -> None:
    """Answer every line of a file; exit 1 if any of them failed."""
    from edgekit_runtime import Bundle
    from edgekit_runtime.cli.batch import answer_lines, open_output, read_lines

    lines = read_lines(source)
    with (
        Bundle.open(bundle) as opened,
        opened.engine(target, threads=threads) as engine,
        open_output(output) as out,
    ):
        n_failed = answer_lines(engine, lines, out, options=options, source=source)
    if n_failed:
        raise typer.Exit(1)
