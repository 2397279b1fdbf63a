"""An installation: versions of a bundle side by side, and a file that says which one is current.

    DIRECTORY/
      current.json      which version is current, and which was before
      versions/HEX/     bundles, by digest; written once, never changed
      staging/          what is coming
      lock              held by whoever changes something

The file is replaced in one step, so a reader finds one version or the other, on every system; a
symbolic link would need rights on Windows.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from edgekit_runtime import disk
from edgekit_runtime.digests import is_digest
from edgekit_runtime.errors import InstallError
from edgekit_runtime.manifest import MANIFEST_NAME, Fields
from edgekit_runtime.strict_json import loads

STATE_NAME: Final = "current.json"
VERSIONS: Final = "versions"
STAGING: Final = "staging"
LOCK_NAME: Final = "lock"


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """What ``current.json`` says.

    Attributes:
        current: Digest of the bundle that runs.
        previous: Digest of the one before, which `rollback` goes back to; empty if there is none.
        source: Where updates come from, as it was typed.
        plain_http: Whether they come without TLS.
        rejected: Digests of versions that failed their health check here, with what they said.
    """

    current: str
    previous: str = ""
    source: str = ""
    plain_http: bool = False
    rejected: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_bytes(cls, data: bytes, *, where: Path) -> Self:
        """Read the file.

        Raises:
            InstallError: If it is malformed.
        """
        problems: list[str] = []
        try:
            value = loads(data)
        except ValueError as err:
            raise InstallError(f"'{where}' is no JSON: {err}", hint=_HINT) from err
        fields = Fields(value, "", problems)
        if not fields.text("schema_version").startswith("1."):
            problems.append("schema_version: this runtime reads 1.x")
        state = cls(
            current=fields.digest("current"),
            previous=fields.text("previous"),
            source=fields.text("source"),
            plain_http=bool(fields.data.get("plain_http")),
            rejected=fields.texts("rejected"),
        )
        if state.previous and not is_digest(state.previous):
            problems.append(f"previous: expected sha256:<64 hex>, got {state.previous!r}")
        if problems:
            raise InstallError(f"'{where}' is malformed", problems=problems, hint=_HINT)
        return state

    def to_bytes(self) -> bytes:
        """The file's content."""
        value: dict[str, Any] = {"schema_version": "1.0"}
        value |= {name: getattr(self, name) for name in self.__slots__}
        return json.dumps(value | {"rejected": dict(self.rejected)}, indent=2).encode() + b"\n"


_HINT = "Install again: edgekit-run install SOURCE DIRECTORY."


def is_installation(path: Path) -> bool:
    """Whether a directory is an installation, and not a bundle."""
    return (path / STATE_NAME).is_file() and not (path / MANIFEST_NAME).exists()


def current_version(path: Path) -> Path:
    """The current version's bundle; another directory is returned as it is.

    Raises:
        InstallError: If the installation cannot be read.
    """
    state = read_state(path) if is_installation(path) else None
    return path if state is None else version_path(path, state.current)


def read_state(root: Path) -> State | None:
    """What is current; None where nothing was installed yet.

    Raises:
        InstallError: If the file is malformed.
    """
    path = root / STATE_NAME
    try:
        return State.from_bytes(path.read_bytes(), where=path)
    except FileNotFoundError:
        return None


def write_state(root: Path, state: State) -> None:
    """Switch, in one step."""
    disk.replace_file(root / STATE_NAME, state.to_bytes())


def version_path(root: Path, digest: str) -> Path:
    """Where a version lies."""
    return root / VERSIONS / digest.partition(":")[2]


def installed(root: Path) -> list[str]:
    """Digests of the versions that lie there."""
    folder = root / VERSIONS
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return [digest for name in names if is_digest(digest := f"sha256:{name}")]
