"""Gather a bundle's files in a directory beside its place: kept, taken over, or fetched."""

import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Protocol

from edgekit_runtime import disk
from edgekit_runtime.bundle import Bundle
from edgekit_runtime.chunks import MIN_FILE_BYTES, OldChunks
from edgekit_runtime.digests import sha256_of_file
from edgekit_runtime.errors import BundleError
from edgekit_runtime.manifest import MANIFEST_NAME, FileRecord, Manifest
from edgekit_runtime.transfers import DEFAULT_JOBS, Counter, OnMoved, OnProgress, Progress, run_all
from edgekit_runtime.verification import SIGNATURE_NAME, is_link, verify_bundle

# Where contents lie while they come, under their digests.
PARTS = ".parts"

# Called with a directory that holds the manifest and the signature, before any file is fetched.
Check = Callable[[Path], None]


class Source(Protocol):
    """Where a bundle can be fetched from.

    Attributes:
        name: For messages; pins the content where the source can.
    """

    name: str

    def manifest(self) -> bytes:
        """The bundle's manifest file."""
        ...

    def signature(self) -> bytes | None:
        """The bundle's signature file, if it has one."""
        ...

    def fetch(
        self, record: FileRecord, path: Path, on_moved: OnMoved, old: OldChunks | None = None
    ) -> None:
        """Write a file; what ``path`` holds already is its beginning.

        Args:
            record: The file.
            path: Where it goes.
            on_moved: Called with bytes that came, or were copied from old chunks.
            old: Chunks that are there; a source may copy from them instead of fetching.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Store:
    """Files that are there already.

    Attributes:
        paths: Digest to a file that should have that content; it is checked when taken.
        may_link: Whether a second name of such a file will do, instead of a copy.
    """

    paths: Mapping[str, Path] = field(default_factory=dict)
    may_link: bool = False

    @classmethod
    def of(cls, bundle: Path) -> "Store":
        """The files of a bundle."""
        opened = Bundle.open(bundle, verify="sizes")
        paths = {file.digest: opened.path / file.path for file in opened.manifest.files}
        return cls(paths=paths)

    @classmethod
    def of_version(cls, bundle: Path) -> "Store":
        """The files of a bundle that may be damaged; none where its manifest cannot be read."""
        with suppress(BundleError):
            manifest = Bundle.open(bundle, verify="sizes").manifest
            return cls(paths={file.digest: bundle / file.path for file in manifest.files})
        return cls()

    def chunks_for(self, manifest: Manifest) -> OldChunks:
        """The chunks of large files that another version no longer has: they changed into its own.

        Files that it still has are left out, so that one more adapter cuts no weights.
        """
        kept = {record.digest for record in manifest.files}
        gone = [path for digest, path in self.paths.items() if digest not in kept]
        there = [path for path in gone if path.is_file() and not is_link(path)]
        return OldChunks(path for path in there if path.stat().st_size >= MIN_FILE_BYTES)


def stage(
    source: Source,
    staging: Path,
    have: Store,
    *,
    jobs: int = DEFAULT_JOBS,
    check: Check = lambda _: None,
    on_progress: OnProgress = lambda _: None,
) -> tuple[Manifest, Progress]:
    """Make ``staging`` the bundle of a source: whole, checked, and on the disk.

    Args:
        source: Where from.
        staging: A directory of our own; what an earlier try left in it is used.
        have: Files that are there already.
        jobs: Files at the same time.
        check: May refuse the bundle by its manifest and signature, before any file is fetched.
        on_progress: Called now and then, from any thread.

    Raises:
        EdgekitRuntimeError: A child of it; what was fetched stays in ``staging``.
    """
    manifest = _write_head(source, staging)
    check(staging)
    _sweep(staging, manifest)
    contents = _by_content(manifest)
    total = sum(records[0].size_bytes for records in contents)
    _check_room(staging, total)
    counter = Counter(total, on_progress)
    for directory in {staging / PARTS, *((staging / file.path).parent for file in manifest.files)}:
        disk.make_directories(directory)
    old = have.chunks_for(manifest)
    works = [_Work(source, staging, have, records, counter, old) for records in contents]
    run_all((work.do for work in works), jobs, counter)
    disk.remove_tree(staging / PARTS)
    if problems := verify_bundle(staging):
        raise BundleError(
            f"what came from {source.name} is not what its manifest says",
            problems=problems,
            hint="Try again.",
        )
    disk.flush_tree(staging)
    return manifest, counter.progress()


@dataclass(frozen=True, slots=True)
class _Work:
    """One content of the bundle, and the files that have it."""

    source: Source
    staging: Path
    have: Store
    records: tuple[FileRecord, ...]
    counter: Counter
    old: OldChunks

    def do(self) -> None:
        """Put the content in its first place, and give it the other names."""
        first, *others = (self.staging / record.path for record in self.records)
        if self._is_whole(first) or self._take_over(first):
            self.counter.add(self.records[0].size_bytes, moved=False)
        else:
            self._fetch(first)
        for path in others:
            if not self._is_whole(path):
                disk.remove(path)
                disk.link_or_copy(first, path)

    def _is_whole(self, path: Path) -> bool:
        record = self.records[0]
        if not path.is_file() or path.stat().st_size != record.size_bytes:
            return False
        return sha256_of_file(path) == record.digest

    def _take_over(self, path: Path) -> bool:
        """Take the content from what is there, if it is still what it should be."""
        old = self.have.paths.get(self.records[0].digest)
        if old is None or not old.is_file() or is_link(old):
            return False
        disk.remove(path)
        (disk.link_or_copy if self.have.may_link else disk.copy)(old, path)
        if self._is_whole(path):
            return True
        disk.remove(path)
        return False

    def _fetch(self, path: Path) -> None:
        """Fetch the content, or the rest of it; once more from the start if it turns out wrong."""
        record = self.records[0]
        part = self.staging / PARTS / record.digest.partition(":")[2]
        if part.exists():
            self.counter.add(min(part.stat().st_size, record.size_bytes), moved=False)
        for old in (self.old, None):
            self.source.fetch(record, part, self.counter.add, old)
            if self._is_whole(part):
                disk.rename(part, path)
                return
            disk.remove(part)
        raise BundleError(
            f"{self.source.name} sent other bytes than its manifest says",
            problems=[f"{record.path}: expected {record.digest}"],
            hint="Try again; if it stays, ask whoever published the bundle.",
        )


def _write_head(source: Source, staging: Path) -> Manifest:
    """Write the manifest and the signature, after the manifest was read and checked."""
    data, signature = source.manifest(), source.signature()
    manifest = Manifest.from_bytes(data)
    disk.make_directories(staging)
    disk.write_file(staging / MANIFEST_NAME, data)
    if signature is None:
        disk.remove(staging / SIGNATURE_NAME)
    else:
        disk.write_file(staging / SIGNATURE_NAME, signature)
    return manifest


def _sweep(staging: Path, manifest: Manifest) -> None:
    """Remove what an earlier try at another version left."""
    kept = {MANIFEST_NAME, SIGNATURE_NAME, *(record.path for record in manifest.files)}
    kept |= {f"{PARTS}/{record.digest.partition(':')[2]}" for record in manifest.files}
    folders = {parent.as_posix() for path in kept for parent in PurePosixPath(path).parents}
    for path in sorted(staging.rglob("*"), reverse=True):
        name = path.relative_to(staging).as_posix()
        is_folder = path.is_dir() and not is_link(path)
        # A source may keep more of its own beside a part, under the part's name.
        is_of_part = name.startswith(f"{PARTS}/") and name.partition(".hub")[0] in kept
        if not is_of_part and name not in (folders if is_folder else kept):
            disk.remove_tree(path)


def _by_content(manifest: Manifest) -> list[tuple[FileRecord, ...]]:
    """The files by content, the largest content first: it takes longest."""
    found: dict[str, list[FileRecord]] = {}
    for record in manifest.files:
        found.setdefault(record.digest, []).append(record)
    return sorted(map(tuple, found.values()), key=lambda same: -same[0].size_bytes)


def _check_room(staging: Path, total_bytes: int) -> None:
    """Refuse before anything is fetched; what is there already counts as room."""
    there = sum(path.stat().st_size for path in staging.rglob("*") if path.is_file())
    free = shutil.disk_usage(staging).free + there
    if total_bytes > free:
        raise BundleError(
            f"the disk has no room for the bundle at '{staging.parent}'",
            problems=[f"expected {total_bytes} free bytes, got {free}"],
            hint="Free some space, or give another place.",
        )
