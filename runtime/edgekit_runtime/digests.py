"""Digests, canonical JSON and safe paths: the ground that the bundle format stands on."""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_DRIVE_OR_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*:")
_FOREIGN = re.compile(r'[<>:"|?*]')
# Windows' names of devices, with or without a suffix, whatever the case.
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
_MAX_PART_BYTES = 255
_MAX_PATH_BYTES = 1024


def sha256_of_bytes(data: bytes) -> str:
    """Return ``sha256:<hex>`` of some bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def sha256_of_file(path: Path) -> str:
    """Return ``sha256:<hex>`` of a file's content, read in pieces."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def is_digest(text: str) -> bool:
    """Whether a text is ``sha256:`` and 64 hexadecimal digits in lower case."""
    return _DIGEST.fullmatch(text) is not None


def canonical_json(value: Any) -> bytes:
    """Serialize to the one byte form that digests are taken of.

    Keys sorted, no white space, UTF-8, a closing newline. Floats are refused, since their
    text differs between implementations (compare RFC 8785).
    """
    _refuse_floats(value, "$")
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return text.encode() + b"\n"


def _refuse_floats(value: Any, where: str) -> None:
    if isinstance(value, float):
        raise TypeError(f"{where}: canonical JSON holds no floats, got {value!r}")
    if isinstance(value, dict):
        for key, item in value.items():
            _refuse_floats(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _refuse_floats(item, f"{where}[{index}]")


def path_problem(path: str) -> str | None:
    """Say what makes a bundle path unsafe, or None if it is a plain relative POSIX path."""
    if not path or path != path.strip():
        return "empty, or with white space at an end"
    if "\\" in path or "\0" in path or any(ord(char) < 32 for char in path):
        return "has a backslash or a control character"
    if path.startswith("/") or _DRIVE_OR_SCHEME.match(path):
        return "is absolute"
    parts = path.split("/")
    if ".." in parts or "." in parts or "" in parts:
        return "leaves the bundle or is not normalized"
    return _foreign_problem(path, parts)


def _foreign_problem(path: str, parts: Sequence[str]) -> str | None:
    """What some system could not store, so that no bundle depends on where it is unpacked."""
    try:
        sizes = [len(part.encode()) for part in parts]
    except UnicodeEncodeError:
        return "holds half a character"
    if max(sizes) > _MAX_PART_BYTES or sum(sizes) + len(parts) > _MAX_PATH_BYTES:
        return f"is longer than {_MAX_PATH_BYTES} bytes, or a part of it than {_MAX_PART_BYTES}"
    if _FOREIGN.search(path) or any(part.endswith((".", " ")) for part in parts):
        return "has a character, or a dot or space at a part's end, that Windows does not store"
    if any(_DEVICE.fullmatch(part) for part in parts):
        return "is a device's name on Windows"
    return None
