"""Every write that a kill or a power loss must not spoil goes through here.

A file's bytes reach the disk at `flush` of the file, its name at `flush` of its directory, and not
before. The tests record these calls and replay what a power loss would have left of them.
"""

import os
import shutil
from pathlib import Path
from typing import BinaryIO

COPY_BYTES = 1 << 20


def open_writer(path: Path, *, start: int = 0) -> BinaryIO:
    """Open a file to write from a position on; what lies behind it is cut off."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
    file = os.fdopen(handle, "wb")
    file.truncate(start)
    file.seek(start)
    return file


def make_directory(path: Path) -> None:
    """Make one directory; its parent is there."""
    path.mkdir(exist_ok=True)


def flush(path: Path) -> None:
    """Push a file's bytes, or a directory's entries, to the disk."""
    if path.is_dir():
        if os.name == "nt":  # Windows cannot open directories, and keeps their entries itself
            return
        handle = os.open(path, os.O_RDONLY)
    else:
        handle = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def rename(source: Path, target: Path) -> None:
    """Rename a file or directory; a file at ``target`` is replaced in the same step."""
    source.replace(target)


def link(source: Path, target: Path) -> None:
    """Give a file a second name."""
    target.hardlink_to(source)


def remove(path: Path) -> None:
    """Remove one file."""
    path.unlink(missing_ok=True)


def remove_directory(path: Path) -> None:
    """Remove an empty directory."""
    path.rmdir()


def make_directories(path: Path) -> None:
    """Make a directory and those above it that are missing."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for directory in reversed(missing):
        make_directory(directory)


def write_file(path: Path, data: bytes) -> None:
    """Write a whole file."""
    with open_writer(path) as file:
        file.write(data)


def replace_file(path: Path, data: bytes) -> None:
    """Write a file so that a reader, a kill or a power loss finds the old or the new content."""
    temporary = path.with_name(f".{path.name}.tmp")
    write_file(temporary, data)
    flush(temporary)
    rename(temporary, path)
    flush(path.parent)


def copy(source: Path, target: Path) -> None:
    """Copy a file's bytes."""
    with source.open("rb") as reader, open_writer(target) as writer:
        shutil.copyfileobj(reader, writer, COPY_BYTES)


def copy_range(source: Path, start: int, size_bytes: int, writer: BinaryIO) -> None:
    """Copy some bytes of a file to where a writer stands."""
    with source.open("rb") as reader:
        reader.seek(start)
        while size_bytes > 0 and (piece := reader.read(min(size_bytes, COPY_BYTES))):
            writer.write(piece)
            size_bytes -= len(piece)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the file system has no hard links."""
    try:
        link(source, target)
    except OSError:
        copy(source, target)


def flush_tree(root: Path) -> None:
    """Push a directory and everything in it to the disk."""
    for path in (*sorted(root.rglob("*")), root):
        flush(path)


def remove_tree(root: Path) -> None:
    """Remove a directory with everything in it; links are removed, not followed."""
    if root.is_symlink() or not root.is_dir():
        remove(root)
        return
    for path in sorted(root.iterdir()):
        remove_tree(path)
    remove_directory(root)
