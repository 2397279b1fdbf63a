"""What differs between two versions of a bundle, file by file, and what of it would travel."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from edgekit_runtime.manifest import MANIFEST_NAME, FileRecord, Manifest

ChangeKind = Literal["added", "removed", "changed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FileChange:
    """One file that is not the same in both versions.

    Attributes:
        kind: Whether only the new version has it, only the old one, or both with other bytes.
        path: Its path in the bundle.
        old_bytes: Its size in the old version; 0 where it is not.
        new_bytes: Its size in the new version; 0 where it is not.
        travel_bytes: What a device that has the old version fetches for it. Equal content travels
            once, so this is 0 for a file that moved and for the second of two equal ones.
    """

    kind: ChangeKind
    path: str
    old_bytes: int
    new_bytes: int
    travel_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Two versions of a bundle, compared by their manifests.

    Attributes:
        old_digest: The manifest's digest of the old version.
        new_digest: The manifest's digest of the new version.
        changes: Files that differ, by path; ``manifest.json`` among them.
        unchanged: Number of files that are the same.
        total_bytes: What the new version takes without the old one: every content once.
    """

    old_digest: str
    new_digest: str
    changes: tuple[FileChange, ...]
    unchanged: int
    total_bytes: int

    @property
    def travel_bytes(self) -> int:
        """What a device that has the old version fetches to get the new one."""
        return sum(change.travel_bytes for change in self.changes)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "old_digest": self.old_digest,
            "new_digest": self.new_digest,
            "changes": [change.to_dict() for change in self.changes],
            "unchanged": self.unchanged,
            "travel_bytes": self.travel_bytes,
            "total_bytes": self.total_bytes,
        }


def compare(
    old: Manifest, new: Manifest, partial_bytes: Mapping[str, int] | None = None
) -> Difference:
    """Compare two versions of a bundle by their manifests.

    Args:
        old: The version that a device has.
        new: The version that it is to have.
        partial_bytes: Digest of a new file to what travels of it, where only some of its chunks do.
    """
    before = {record.path: record for record in old.files}
    after = {record.path: record for record in new.files}
    costs = _costs(old, new, partial_bytes or {})
    changes = [_manifest_change(old, new)] if old.digest != new.digest else []
    unchanged = 0
    for path in sorted(before.keys() | after.keys()):
        one, other = before.get(path), after.get(path)
        if one is not None and other is not None and one.digest == other.digest:
            unchanged += 1
        else:
            changes.append(_change(path, one, other, costs.get(path, 0)))
    return Difference(
        old_digest=old.digest,
        new_digest=new.digest,
        changes=tuple(sorted(changes, key=lambda change: change.path)),
        unchanged=unchanged,
        total_bytes=sum({record.digest: record.size_bytes for record in new.files}.values())
        + len(new.to_bytes()),
    )


def missing(old: Manifest | None, new: Manifest) -> tuple[FileRecord, ...]:
    """The files of ``new`` whose content is nowhere in ``old``, each content once, by path."""
    had = {record.digest for record in old.files} if old is not None else set()
    wanted: dict[str, FileRecord] = {}
    for record in sorted(new.files, key=lambda record: record.path):
        if record.digest not in had:
            wanted.setdefault(record.digest, record)
    return tuple(wanted.values())


def _costs(old: Manifest, new: Manifest, partial_bytes: Mapping[str, int]) -> dict[str, int]:
    return {
        record.path: partial_bytes.get(record.digest, record.size_bytes)
        for record in missing(old, new)
    }


def _manifest_change(old: Manifest, new: Manifest) -> FileChange:
    size = len(new.to_bytes())
    return FileChange(
        kind="changed",
        path=MANIFEST_NAME,
        old_bytes=len(old.to_bytes()),
        new_bytes=size,
        travel_bytes=size,
    )


def _change(path: str, old: FileRecord | None, new: FileRecord | None, cost: int) -> FileChange:
    kind: ChangeKind = "added" if old is None else "removed" if new is None else "changed"
    return FileChange(
        kind=kind,
        path=path,
        old_bytes=old.size_bytes if old else 0,
        new_bytes=new.size_bytes if new else 0,
        travel_bytes=cost,
    )
