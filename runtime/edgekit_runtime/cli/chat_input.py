"""Where the lines of a chat come from: a terminal with history and completion, or a pipe."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from prompt_toolkit.completion import Completer

_CONTINUED = "\\"
Words = Callable[[], Mapping[str, Sequence[str]]]


class LineReader(Protocol):
    """Reads what a person says."""

    def read(self, prompt: str) -> str:
        """Read one message.

        Raises:
            EOFError: At the end of the input, or Ctrl-D.
            KeyboardInterrupt: On Ctrl-C.
        """


class PipeReader:
    """Reads lines of a pipe or file, without prompt."""

    def read(self, prompt: str) -> str:
        """Read one message; a line that ends in a backslash goes on in the next."""
        return _join_continued(lambda _: self._line(), prompt)

    def _line(self) -> str:
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.rstrip("\r\n")


class TerminalReader:
    """Edits lines on a terminal, with history and completion.

    Args:
        words: Command to the words that may follow it, asked at each completion.
        history: File that keeps what was typed; None keeps it for this chat only.
    """

    def __init__(self, words: Words, history: Path | None) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.history import FileHistory, InMemoryHistory

        if history is not None:
            _create_private(history)
        self._session: PromptSession[str] = PromptSession(
            history=FileHistory(str(history)) if history else InMemoryHistory(),
            completer=_completer(words),
            complete_while_typing=False,
            enable_history_search=True,
        )

    def read(self, prompt: str) -> str:
        """Read one message; a line that ends in a backslash goes on in the next."""
        return _join_continued(self._line, prompt)

    def _line(self, prompt: str) -> str:
        from prompt_toolkit.formatted_text import FormattedText

        return self._session.prompt(FormattedText([("bold ansicyan", prompt)]))


def _join_continued(read_line: Callable[[str], str], prompt: str) -> str:
    lines = [read_line(prompt)]
    while lines[-1].endswith(_CONTINUED):
        lines[-1] = lines[-1].removesuffix(_CONTINUED)
        lines.append(read_line("… ".rjust(len(prompt))))
    return "\n".join(lines)


def _completer(words: Words) -> "Completer":
    """Complete commands after ``/``, and what may follow a command."""
    from prompt_toolkit.completion import Completer, Completion
    from prompt_toolkit.document import Document

    class CommandCompleter(Completer):
        def get_completions(
            self, document: Document, complete_event: object
        ) -> Iterator[Completion]:
            for word, start in complete(document.text_before_cursor, words()):
                yield Completion(word, start_position=start)

    return CommandCompleter()


def complete(text: str, words: Mapping[str, Sequence[str]]) -> list[tuple[str, int]]:
    """What could stand at the cursor.

    Args:
        text: What is typed so far.
        words: Command to the words that may follow it.

    Returns:
        Pairs of a completed word and where it starts, relative to the cursor.
    """
    command, space, rest = text.partition(" ")
    if not space:
        known, begun = (list(words), command) if command.startswith("/") else ([], "")
    else:
        known, begun = list(words.get(command, ())), rest
    return [(word, -len(begun)) for word in known if word.startswith(begun)]


def history_file(cache_dir: Path) -> Path:
    """Where typed lines are kept between chats, in the runtime's cache directory."""
    return cache_dir / "chat_history"


def _create_private(path: Path) -> None:
    """Make a file that only its owner may read: people type private things."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
