"""A file system with a power switch: replays recorded writes, and says what a loss leaves.

A file's bytes are safe after its flush, a directory's entries after the directory's. What is not
safe may be lost, kept, or torn; an entry is the old one or the new one, since renames are atomic.
"""

import random
from pathlib import Path
from typing import Any


class File:
    """One file's bytes: as they are, and as they are on the disk."""

    def __init__(self, content: bytes = b"") -> None:
        self.content = bytearray(content)
        self.safe = content


class Folder:
    """One directory's entries: as they are, and as they are on the disk."""

    def __init__(self) -> None:
        self.entries: dict[str, File | Folder] = {}
        self.safe: dict[str, File | Folder] = {}


class Disk:
    """A directory of this machine, as a model that writes are replayed on.

    Args:
        root: What lies there now is safe.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._top = self._read(root)

    def _read(self, path: Path) -> Folder:
        folder = Folder()
        for child in path.iterdir():
            folder.entries[child.name] = (
                self._read(child) if child.is_dir() else File(child.read_bytes())
            )
        folder.safe = dict(folder.entries)
        return folder

    def replay(self, event: tuple[Any, ...]) -> None:
        """Do again what was recorded."""
        name, path, *rest = event
        if name == "flush" and not path.is_relative_to(self._root):
            return  # the directory above
        getattr(self, f"_{name}")(path, *rest)

    def lose_power(self, dice: random.Random | None) -> dict[str, Any]:
        """What is found afterwards: names to bytes, or to such a dictionary again.

        Args:
            dice: Decides about everything that is not safe; None: all of it is lost.
        """
        return self._left(self._top, dice)

    def _left(self, folder: Folder, dice: random.Random | None) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in sorted(folder.entries.keys() | folder.safe.keys()):
            node = folder.safe.get(name)
            if dice is not None and dice.random() < 0.5:
                node = folder.entries.get(name)
            if isinstance(node, Folder):
                found[name] = self._left(node, dice)
            elif node is not None:
                found[name] = self._bytes(node, dice)
        return found

    def _bytes(self, file: File, dice: random.Random | None) -> bytes:
        if dice is None or bytes(file.content) == file.safe:
            return file.safe
        torn = bytes(file.content[: dice.randrange(len(file.content) + 1)])
        holes = bytes(len(file.content))
        return dice.choice([file.safe, bytes(file.content), torn, holes])

    def _folder(self, path: Path) -> Folder:
        folder: File | Folder = self._top
        for part in path.relative_to(self._root).parts:
            assert isinstance(folder, Folder)
            folder = folder.entries[part]
        assert isinstance(folder, Folder)
        return folder

    def _node(self, path: Path) -> File | Folder:
        return self._top if path == self._root else self._folder(path.parent).entries[path.name]

    def _open_writer(self, path: Path, start: int = 0) -> None:
        entries = self._folder(path.parent).entries
        file = entries.setdefault(path.name, File())
        assert isinstance(file, File)
        del file.content[start:]

    def _write(self, path: Path, at: int, data: bytes, _: object) -> None:
        file = self._node(path)
        assert isinstance(file, File)
        file.content[at : at + len(data)] = data

    def _flush(self, path: Path) -> None:
        node = self._node(path)
        if isinstance(node, File):
            node.safe = bytes(node.content)
        else:
            node.safe = dict(node.entries)

    def _make_directory(self, path: Path) -> None:
        self._folder(path.parent).entries.setdefault(path.name, Folder())

    def _rename(self, source: Path, target: Path) -> None:
        node = self._folder(source.parent).entries.pop(source.name)
        self._folder(target.parent).entries[target.name] = node

    def _link(self, source: Path, target: Path) -> None:
        self._folder(target.parent).entries[target.name] = self._node(source)

    def _remove(self, path: Path) -> None:
        self._folder(path.parent).entries.pop(path.name, None)

    def _remove_directory(self, path: Path) -> None:
        self._folder(path.parent).entries.pop(path.name)


def put(found: dict[str, Any], path: Path) -> None:
    """Write what was found to a new directory."""
    path.mkdir()
    for name, node in found.items():
        if isinstance(node, dict):
            put(node, path / name)
        else:
            (path / name).write_bytes(node)
