"""Install, update and roll back: the new version is checked before it becomes the current one.

Every step leaves an installation that works: a version gets its place when it is whole and on the
disk, and becomes current by the replacement of one small file.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit_runtime import disk
from edgekit_runtime.errors import InstallError
from edgekit_runtime.health import check_health
from edgekit_runtime.installation import (
    LOCK_NAME,
    STAGING,
    VERSIONS,
    State,
    installed,
    read_state,
    version_path,
    write_state,
)
from edgekit_runtime.manifest import MANIFEST_NAME, Manifest
from edgekit_runtime.process_lock import hold
from edgekit_runtime.signing import is_older
from edgekit_runtime.staging import Check, Source, Store, stage
from edgekit_runtime.transfers import DEFAULT_JOBS, OnProgress
from edgekit_runtime.verification import verify_bundle

# Given a bundle's directory, names what is wrong with its answers.
Health = Callable[[Path], Sequence[str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class InstallReport:
    """What an installation holds now.

    Attributes:
        current: Digest of the version that runs.
        previous: Digest of the one that `rollback` goes back to; empty if there is none.
        is_new: Whether the current version changed.
        fetched_bytes: What came from the source.
    """

    directory: Path
    name: str
    version: str
    current: str
    previous: str
    is_new: bool
    fetched_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {name: getattr(self, name) for name in self.__slots__} | {
            "directory": str(self.directory)
        }


def install(
    source: Source,
    root: Path,
    *,
    origin: str = "",
    plain_http: bool = False,
    retry: bool = False,
    allow_older: bool = True,
    jobs: int = DEFAULT_JOBS,
    check: Check = lambda _: None,
    health: Health = check_health,
    on_progress: OnProgress = lambda _: None,
    on_message: Callable[[str], None] = lambda _: None,
) -> InstallReport:
    """Make a source's bundle the current version.

    What the installed versions share with it is not fetched. The version before stays, for
    `rollback`; older ones are removed.

    Args:
        source: Where the bundle comes from.
        root: The installation; made if it is not there.
        origin: What was typed for the source, for later updates.
        plain_http: Whether later updates come without TLS.
        retry: Take a version that failed its health check here before.
        allow_older: Take a version older than the current one.
        jobs: Files at the same time.
        check: May refuse the bundle by its manifest and signature, before any file is fetched.
        health: Decides whether it becomes current.
        on_progress: Called now and then, from any thread.
        on_message: Called with a line of progress.

    Raises:
        InstallError: If it failed its health check; the version that was current still is.
        EdgekitRuntimeError: Another child of it; nothing changed.
    """
    with _changing(root):
        state = read_state(root)
        wanted = Manifest.from_bytes(source.manifest())
        before = state or State(current="")
        if wanted.digest == before.current:
            if origin and origin != before.source:
                write_state(root, replace(before, source=origin, plain_http=plain_http))
            return _report(root, before, wanted, is_new=False, fetched_bytes=0)
        if wanted.digest in before.rejected and not retry:
            raise InstallError(
                f"{wanted.name} {wanted.version} failed its health check here before",
                problems=[before.rejected[wanted.digest]],
                hint="Say --retry to try it again.",
            )
        if state is not None and not allow_older:
            _refuse_older(root, state, wanted)
        fetched = _bring(source, root, wanted, jobs, check, on_progress)
        on_message("health check")
        if problems := health(version_path(root, wanted.digest)):
            raise _reject(root, state, wanted, problems)
        rejected = {key: text for key, text in before.rejected.items() if key != wanted.digest}
        after = State(
            current=wanted.digest,
            previous=before.current,
            source=origin or before.source,
            plain_http=plain_http if origin else before.plain_http,
            rejected=rejected,
        )
        write_state(root, after)
        _remove_others(root, {after.current, after.previous})
        return _report(root, after, wanted, is_new=True, fetched_bytes=fetched)


def rollback(root: Path) -> InstallReport:
    """Make the version before the current one, and the other way round.

    Raises:
        InstallError: If there is none, or it is no longer whole.
    """
    if read_state(root) is None:
        raise InstallError(f"'{root}' is no installation", hint="Install first.")
    with _changing(root):
        state = read_state(root)
        if state is None or not state.previous:
            raise InstallError(f"'{root}' has no version to go back to")
        path = version_path(root, state.previous)
        if problems := verify_bundle(path):
            raise InstallError(
                "the version before is not as it was installed; the current one stays",
                problems=problems,
                hint="Install it again.",
            )
        after = replace(state, current=state.previous, previous=state.current)
        write_state(root, after)
        manifest = Manifest.from_bytes((path / MANIFEST_NAME).read_bytes())
        return _report(root, after, manifest, is_new=True, fetched_bytes=0)


@contextmanager
def _changing(root: Path) -> Iterator[None]:
    """Hold the installation; make its directories."""
    try:
        disk.make_directories(root / VERSIONS)
        disk.flush(root)
        disk.flush(root.absolute().parent)
        with hold(root / LOCK_NAME, str(root)):
            yield
    except OSError as err:
        raise InstallError(f"'{root}' cannot be changed: {err}") from err


def _refuse_older(root: Path, state: State, wanted: Manifest) -> None:
    path = version_path(root, state.current) / MANIFEST_NAME
    current = Manifest.from_bytes(path.read_bytes())
    if is_older(wanted.version, current.version):
        raise InstallError(
            f"{wanted.name} {wanted.version} is older than {current.version}, which is installed, "
            "and the policy refuses that",
            hint="`rollback` goes back to the version before.",
        )


def _bring(
    source: Source,
    root: Path,
    wanted: Manifest,
    jobs: int,
    check: Check,
    on_progress: OnProgress,
) -> int:
    """Put the version in its place, whole and on the disk; returns what was fetched."""
    place = version_path(root, wanted.digest)
    if place.is_dir():  # a kill came between its arrival and the switch, or its removal
        if not verify_bundle(place):
            check(place)
            return 0
        disk.remove_tree(place)
    have = [Store.of_version(version_path(root, digest)) for digest in installed(root)]
    paths = {digest: path for store in have for digest, path in store.paths.items()}
    staging = root / STAGING
    manifest, progress = stage(
        source,
        staging,
        Store(paths=paths, may_link=True),
        jobs=jobs,
        check=check,
        on_progress=on_progress,
    )
    if manifest.digest != wanted.digest:
        raise InstallError(f"{source.name} changed while it was fetched", hint="Try again.")
    disk.rename(staging, place)
    disk.flush(place.parent)
    disk.flush(root)
    return progress.moved_bytes


def _reject(
    root: Path, state: State | None, wanted: Manifest, problems: Sequence[str]
) -> InstallError:
    """Remember a version that failed, remove it, and say what stays."""
    stays = "nothing is installed"
    if state is not None:
        told = {**state.rejected, wanted.digest: "; ".join(problems)}
        write_state(root, replace(state, rejected=told))
        _remove_others(root, {state.current, state.previous})
        stays = f"{state.current} stays current"
    else:
        _remove_others(root, set())
    return InstallError(
        f"{wanted.name} {wanted.version} failed its health check; {stays}",
        problems=problems,
        hint="Check that the runtime's packages are those that the bundle's target wants.",
    )


def _remove_others(root: Path, kept: set[str]) -> None:
    """Remove versions that nobody goes back to; one that is in use stays until the next time."""
    for digest in installed(root):
        if digest not in kept:
            try:
                disk.remove_tree(version_path(root, digest))
            except OSError:
                continue


def _report(
    root: Path, state: State, manifest: Manifest, *, is_new: bool, fetched_bytes: int
) -> InstallReport:
    return InstallReport(
        directory=root,
        name=manifest.name,
        version=manifest.version,
        current=state.current,
        previous=state.previous,
        is_new=is_new,
        fetched_bytes=fetched_bytes,
    )
