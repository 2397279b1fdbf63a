"""``chat``: talk with a bundle in the terminal."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit_runtime.cli.chat_commands import (
    QUIT,
    ChatContext,
    completions,
    introduce_adapter,
    run_slash_command,
)
from edgekit_runtime.cli.chat_input import LineReader, PipeReader, TerminalReader, history_file
from edgekit_runtime.cli.console import note, warn, write_text
from edgekit_runtime.cli.options import (
    AdapterOption,
    BundleArgument,
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
)
from edgekit_runtime.errors import EdgekitRuntimeError

if TYPE_CHECKING:
    from edgekit_runtime import Bundle, Generation


def chat_command(
    bundle: BundleArgument,
    adapter: AdapterOption = None,
    system: Annotated[
        str | None, typer.Option("--system", metavar="TEXT", help="System message.")
    ] = None,
    target: TargetOption = None,
    threads: ThreadsOption = None,
    history: Annotated[
        bool,
        typer.Option(
            "--history/--no-history",
            help="Keep what you type for the next chat, in a file that only you may read.",
        ),
    ] = True,
    max_new_tokens: MaxNewTokensOption = None,
    temperature: TemperatureOption = None,
    top_k: TopKOption = None,
    top_p: TopPOption = None,
    repetition_penalty: RepetitionPenaltyOption = None,
    seed: SeedOption = None,
    stop: StopOption = None,
) -> None:
    """Talk with a bundle in the terminal, and swap its adapters as you go.

    Type /help in the chat for its commands. Ctrl-C stops an answer.

    Examples:
        {command} my-bundle
        {command} my-bundle --adapter banking --temperature 0.7
        echo "Hello" | {command} my-bundle
    """
    from edgekit_runtime import Bundle

    sampling = given(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        stop=tuple(stop or ()),
    )
    with (
        Bundle.open(bundle) as opened,
        opened.engine(target, threads=threads) as engine,
        engine.session(adapter=adapter, system=system, **sampling) as session,
    ):
        context = ChatContext(bundle=opened, engine=engine, session=session)
        on_terminal = sys.stdin.isatty() and sys.stdout.isatty()
        reader = _terminal_reader(opened, history) if on_terminal else PipeReader()
        _greet(context)
        _converse(context, reader)


def _terminal_reader(bundle: "Bundle", keep_history: bool) -> TerminalReader:
    from edgekit_runtime.bundle import default_cache_dir

    history = history_file(default_cache_dir()) if keep_history else None
    return TerminalReader(lambda: completions(bundle), history)


def _greet(context: ChatContext) -> None:
    manifest = context.bundle.manifest
    skills = ", ".join(manifest.adapters) or "none"
    note(f"{manifest.name} {manifest.version} on {manifest.base.name}; adapters: {skills}")
    note("/help lists the commands; Ctrl-D leaves")
    if context.session.adapter is not None:
        introduce_adapter(context)


def _converse(context: ChatContext, reader: LineReader) -> None:
    """Read and answer until the person leaves.

    Raises:
        KeyboardInterrupt: On the second Ctrl-C in a row at the prompt.
    """
    warned = False
    while True:
        try:
            text = reader.read(f"{context.session.adapter or 'base'}> ").strip()
        except EOFError:
            return
        except KeyboardInterrupt:
            if warned:
                raise
            warned = True
            note("(Ctrl-C once more, Ctrl-D or /quit leaves)")
            continue
        warned = False
        command = text.partition(" ")[0]
        if command.startswith("/") and command.removeprefix("/") in QUIT:
            return
        if text:
            _obey(context, text)


def _obey(context: ChatContext, text: str) -> None:
    """Answer a message or run a command; a mistake ends neither the chat nor loses it."""
    try:
        if text.startswith("/") and not text.startswith("//"):
            run_slash_command(context, text)
        else:
            _answer(context, text.removeprefix("/") if text.startswith("//") else text)
    except EdgekitRuntimeError as err:
        warn(f"error: {err}")


def _answer(context: ChatContext, text: str) -> None:
    n_dropped_before = context.session.stats.dropped_turns
    with _ctrl_c_as_event() as cancel:
        stream = context.session.stream(text, cancel=cancel)
        for piece in stream:
            write_text(piece)
    # A blank line sets the turns of a person's chat apart; a pipe gets the answer's line alone.
    write_text("\n\n" if sys.stdout.isatty() else "\n")
    _remark(stream.result, n_dropped_before)


def _remark(generation: "Generation", n_dropped_before: int) -> None:
    """Say what the text does not tell: that it was cut, or that old turns were left out."""
    if generation.dropped_turns > n_dropped_before:
        n_turns = generation.dropped_turns
        note(f"(the context was full: the model no longer sees the oldest {n_turns} turns)")
    if generation.finish_reason == "length":
        n_tokens = generation.usage.completion_tokens
        note(f"(cut at {n_tokens} tokens: --max-new-tokens)")
    elif generation.finish_reason == "cancelled":
        note("(stopped)")


@contextmanager
def _ctrl_c_as_event() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into an event, so that an answer ends cleanly between two tokens."""
    pressed = threading.Event()

    def press(_signal: int, _frame: FrameType | None) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()

    previous = signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, previous)
