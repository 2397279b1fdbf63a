"""The slash commands of ``chat``."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit_runtime.cli.console import add_row, console, new_table, note, show_size
from edgekit_runtime.errors import EdgekitRuntimeError, nearest
from edgekit_runtime.templates import template_fields

if TYPE_CHECKING:
    from edgekit_runtime import Bundle, Engine, Session

OFF = "off"
QUIT = ("quit", "exit")


class ChatError(EdgekitRuntimeError):
    """A slash command that makes no sense."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatContext:
    """What slash commands work on."""

    bundle: "Bundle"
    engine: "Engine"
    session: "Session"


@dataclass(frozen=True, kw_only=True, slots=True)
class SlashCommand:
    """One slash command."""

    usage: str
    summary: str
    run: Callable[[ChatContext, str], None]


def run_slash_command(context: ChatContext, line: str) -> None:
    """Run a line such as ``/adapter banking``.

    Raises:
        ChatError: If there is no such command, with the nearest ones.
    """
    name, _, argument = line.removeprefix("/").strip().partition(" ")
    command = COMMANDS.get(name)
    if command is None:
        known = [f"/{known}" for known in (*COMMANDS, QUIT[0])]
        raise ChatError(f"no command '/{name}'; {nearest('/' + name, known)}")
    command.run(context, argument.strip())


def completions(bundle: "Bundle") -> Mapping[str, Sequence[str]]:
    """Each command, and the words that may follow it."""
    words: dict[str, Sequence[str]] = {f"/{name}": () for name in (*COMMANDS, QUIT[0])}
    words["/adapter"] = [*bundle.manifest.adapters, OFF]
    words["/system"] = [OFF]
    return words


def introduce_adapter(context: ChatContext) -> None:
    """Say what the active adapter expects."""
    name = context.session.adapter
    if name is None:
        note("the bare base answers; /adapter NAME switches a skill on")
        return
    card = context.bundle.adapter_card(name)
    if card.prompt_template is None:
        note(f"adapter '{name}' answers")
        return
    note(
        f"adapter '{name}' answers: a single-turn skill, every message on its own in its template:"
    )
    note("\n".join(f"  {line}" for line in card.prompt_template.splitlines()))
    fields = template_fields(card.prompt_template)
    if len(fields) > 1:
        pairs = " ".join(f"--input {name}=..." for name in fields)
        note(f"it takes {len(fields)} fields, which a chat cannot fill: use run {pairs}")


def _adapter(context: ChatContext, argument: str) -> None:
    if argument:
        context.session.swap(None if argument == OFF else argument)
    introduce_adapter(context)


def _adapters(context: ChatContext, _: str) -> None:
    table = new_table(None, ["adapter", "active", "loaded", "pinned", "size"], right=["size"])
    for status in context.engine.adapters():
        add_row(
            table,
            status.name,
            "yes" if status.name == context.session.adapter else "",
            "yes" if status.loaded else "",
            "yes" if status.pinned else "",
            show_size(status.size_bytes),
        )
    if table.row_count:
        console().print(table)
    else:
        note("the bundle holds no adapter")


def _reset(context: ChatContext, _: str) -> None:
    context.session.reset()
    note("the conversation starts anew")


def _system(context: ChatContext, argument: str) -> None:
    if argument:
        context.session.system = None if argument == OFF else argument
    note(f"system: {context.session.system or 'none'}")


def _save(context: ChatContext, argument: str) -> None:
    if not argument:
        raise ChatError("/save needs a file", hint="For example: /save chat.md or /save chat.json")
    path = Path(argument).expanduser()
    text = _as_json(context) if path.suffix == ".json" else _as_markdown(context)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as err:
        raise ChatError(f"{path} exists", hint="Choose another name.") from err
    except OSError as err:
        raise ChatError(f"{path}: cannot be written: {err.strerror}") from err
    note(f"saved {len(context.session.messages)} messages to {path}")


def _as_json(context: ChatContext) -> str:
    manifest = context.bundle.manifest
    saved = {
        "bundle": {"name": manifest.name, "version": manifest.version, "digest": manifest.digest},
        "adapter": context.session.adapter,
        "system": context.session.system,
        "messages": context.session.messages,
    }
    return json.dumps(saved, indent=2, ensure_ascii=False) + "\n"


def _as_markdown(context: ChatContext) -> str:
    manifest = context.bundle.manifest
    parts = [f"# {manifest.name} {manifest.version}"]
    system = context.session.system
    said = [{"role": "system", "content": system}] if system else []
    said += context.session.messages
    parts += [f"**{message['role']}**\n\n{message['content']}" for message in said]
    return "\n\n".join(parts) + "\n"


def _help(_: ChatContext, __: str) -> None:
    table = new_table(None, ["command", "what it does"])
    table.show_header, table.box = False, None
    for command in COMMANDS.values():
        add_row(table, f"  {command.usage}", command.summary)
    add_row(table, "  /quit", "leave; so does Ctrl-D")
    add_row(table, "  //TEXT", "say TEXT with one slash before it")
    add_row(table, "  … \\", "a backslash at the end of a line: the message goes on")
    add_row(table, "  Ctrl-C", "stop the answer; twice at the prompt: leave")
    console().print(table)


def _stats(context: ChatContext, _: str) -> None:
    stats = context.session.stats
    table = new_table(None, ["", ""])
    table.show_header, table.box = False, None
    if stats.usage is not None and stats.timings is not None:
        usage, timings = stats.usage, stats.timings
        cached = f", {usage.cached_tokens:,} of them cached" if usage.cached_tokens else ""
        add_row(table, "  prompt", f"{usage.prompt_tokens:,} tokens{cached}")
        add_row(table, "  answer", f"{usage.completion_tokens:,} tokens")
        add_row(table, "  first token", _show_number(timings.ttft_ms, "ms"))
        add_row(table, "  prefill", _show_number(timings.prefill_tokens_per_s, "tokens/s"))
        add_row(table, "  decode", _show_number(timings.decode_tokens_per_s, "tokens/s"))
    share = 100 * stats.context_used / stats.context_limit
    used = f"{stats.context_used:,} of {stats.context_limit:,} tokens ({share:.0f} %)"
    add_row(table, "  context", used)
    if stats.dropped_turns:
        add_row(table, "  left out", f"the oldest {stats.dropped_turns} turns")
    console().print(table)


def _show_number(value: float | None, unit: str) -> str:
    return "–" if value is None else f"{value:,.1f} {unit}"


COMMANDS: Mapping[str, SlashCommand] = {
    "adapter": SlashCommand(
        usage="/adapter NAME",
        summary="answer with another adapter; 'off' is the bare base",
        run=_adapter,
    ),
    "adapters": SlashCommand(
        usage="/adapters", summary="the bundle's adapters and their state", run=_adapters
    ),
    "reset": SlashCommand(usage="/reset", summary="forget the conversation", run=_reset),
    "stats": SlashCommand(
        usage="/stats", summary="speed of the last answer, context in use", run=_stats
    ),
    "system": SlashCommand(
        usage="/system TEXT", summary="set the system message; 'off' removes it", run=_system
    ),
    "save": SlashCommand(
        usage="/save FILE", summary="write the conversation as Markdown, or .json", run=_save
    ),
    "help": SlashCommand(usage="/help", summary="this list", run=_help),
}
