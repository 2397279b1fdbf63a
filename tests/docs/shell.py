"""Runs the command lines of a page in this process: a shell that knows just what pages need."""

import contextlib
import io
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from edgekit.cli import main as edgekit
from edgekit_runtime.cli import main as edgekit_run

MAINS: dict[str, Callable[[list[str]], int]] = {"edgekit": edgekit, "edgekit-run": edgekit_run}


def run_line(line: str) -> str:
    """Run one line: commands in a pipe, the last one's output perhaps into a file.

    Returns:
        What the last command wrote to its output.
    """
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|>")
    lexer.whitespace_split = True
    words = list(lexer)
    target = None
    if ">" in words:
        at = words.index(">")
        words, target = words[:at], Path(words[at + 1])
    text = ""
    while words:
        end = words.index("|") if "|" in words else len(words)
        command, words = words[:end], words[end + 1 :]
        text = _run(command, stdin=text)
    if target is not None:
        target.write_text(text, encoding="utf-8")
    return text


def _run(words: list[str], *, stdin: str) -> str:
    program, *arguments = words
    if program == "echo":
        return " ".join(arguments) + "\n"
    output = io.StringIO()
    with contextlib.redirect_stdout(output), _stdin(stdin):
        if program == "python":
            run_python(Path(arguments[0]), arguments[1:])
        else:
            code = MAINS[program](arguments)
            assert code == 0, f"{shlex.join(words)}: exit code {code}\n{output.getvalue()}"
    return output.getvalue()


def run_python(path: Path, arguments: list[str] | None = None) -> None:
    """Run a file as ``python FILE ARGUMENTS`` does."""
    before = sys.argv
    sys.argv = [str(path), *(arguments or [])]
    try:
        runpy.run_path(str(path), run_name="__main__")
    finally:
        sys.argv = before


@contextlib.contextmanager
def _stdin(text: str) -> Iterator[None]:
    before, sys.stdin = sys.stdin, io.StringIO(text)
    try:
        yield
    finally:
        sys.stdin = before
