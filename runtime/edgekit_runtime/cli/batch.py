"""``run --input-file``: JSON lines in, JSON lines out, in order, one bad line losing no other."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from edgekit_runtime.cli.console import console, note, warn
from edgekit_runtime.cli.options import unknown_keys
from edgekit_runtime.errors import EdgekitRuntimeError, GenerationError

if TYPE_CHECKING:
    from rich.progress import Progress

    from edgekit_runtime import Engine

_PROMPTS: dict[str, type | tuple[type, ...]] = {"prompt": str, "messages": list, "inputs": dict}
_OVERRIDES: dict[str, type | tuple[type, ...]] = {
    "adapter": (str, type(None)),
    "max_new_tokens": int,
    "temperature": (int, float),
    "top_k": int,
    "top_p": (int, float),
    "repetition_penalty": (int, float),
    "seed": int,
    "stop": list,
    "schema": (dict, str),
    "regex": str,
    "choices": list,
    "timeout_s": (int, float),
}
_CONSTRAINTS = {"schema", "regex", "choices"}


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Read a file's lines with their numbers, leaving blank ones out.

    Raises:
        GenerationError: If the file cannot be read or holds no line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as err:
        raise GenerationError(f"input file {path}: cannot be read: {err.strerror}") from err
    except UnicodeDecodeError as err:
        raise GenerationError(f"input file {path} is not UTF-8 text: {err}") from err
    lines = [
        (number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()
    ]
    if not lines:
        raise GenerationError(
            f"input file {path} is empty",
            hint='Each line is a JSON object, e.g. {"prompt": "The capital of France is"}',
        )
    return lines


@contextmanager
def open_output(path: Path | None) -> Iterator[TextIO]:
    """Open where answers go: stdout, or a file that appears only when it is complete.

    Until then the answers are in ``<path>.part``, which stays when the command is stopped.
    """
    if path is None:
        yield sys.stdout
        return
    partial = path.with_name(path.name + ".part")
    try:
        file = partial.open("w", encoding="utf-8", newline="\n")
    except OSError as err:
        raise GenerationError(f"output file {path}: cannot be written: {err.strerror}") from err
    with file:
        try:
            yield file
        except KeyboardInterrupt:
            note(f"stopped; the answers so far are in {partial}")
            raise
    partial.replace(path)


def answer_lines(
    engine: "Engine",
    lines: Sequence[tuple[int, str]],
    out: TextIO,
    *,
    options: Mapping[str, Any],
    source: Path,
) -> int:
    """Answer each line and write one JSON object for it.

    Args:
        engine: What answers.
        lines: Line numbers and lines, see :func:`read_lines`.
        out: Where the answers go.
        options: What holds where a line says nothing.
        source: Named in complaints.

    Returns:
        Number of lines that failed.
    """
    n_failed = 0
    with _progress(out) as progress:
        for number, line in progress.track(lines, description="Answering"):
            tags: dict[str, Any] = {"line": number}
            try:
                row = _parse(line)
                if "id" in row:
                    tags = {"id": row["id"]} | tags
                answer = engine.generate(**_request(row, options)).to_dict()
            except EdgekitRuntimeError as err:
                n_failed += 1
                answer = {"error": str(err)}
                warn(f"error: {source}:{number}: {err}", on=progress.console)
            out.write(json.dumps(tags | answer, ensure_ascii=False) + "\n")
            out.flush()
    if n_failed:
        warn(f"{n_failed} of {len(lines)} lines failed")
    return n_failed


def _progress(out: TextIO) -> "Progress":
    """Counts on stderr, unless the answers themselves are seen on the terminal."""
    from rich.progress import Progress

    stderr = console(stderr=True)
    hidden = (out is sys.stdout and sys.stdout.isatty()) or not stderr.is_terminal
    return Progress(console=stderr, disable=hidden)


def _parse(line: str) -> dict[str, Any]:
    """Read and check one line; every problem of it at once."""
    try:
        row = json.loads(line)
    except ValueError as err:
        raise GenerationError(f"no JSON: {err}") from err
    if not isinstance(row, dict):
        raise GenerationError(f"expected a JSON object, got {type(row).__name__}")
    problems = unknown_keys(row, [*_PROMPTS, "id", *_OVERRIDES])
    if sum(key in row for key in _PROMPTS) != 1:
        problems.append("expected exactly one of prompt, messages, inputs")
    for key, kind in (_PROMPTS | _OVERRIDES).items():
        if key in row and (not isinstance(row[key], kind) or isinstance(row[key], bool)):
            problems.append(f"{key}: expected {_name(kind)}, got {type(row[key]).__name__}")
    if problems:
        raise GenerationError("line is malformed", problems=problems)
    return row


def _request(row: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The engine's arguments: a line's own, then the command line's.

    A line's constraint takes the place of any constraint of the command line.
    """
    if _CONSTRAINTS & set(row):
        options = {key: value for key, value in options.items() if key not in _CONSTRAINTS}
    return {**options, **{key: value for key, value in row.items() if key != "id"}}


def _name(kind: type | tuple[type, ...]) -> str:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
