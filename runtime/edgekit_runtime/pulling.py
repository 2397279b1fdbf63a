"""Fetch a bundle into a new directory: all of it, or nothing there."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit_runtime import disk
from edgekit_runtime.bundle import default_cache_dir
from edgekit_runtime.errors import BundleError
from edgekit_runtime.process_lock import hold, lock_in
from edgekit_runtime.staging import Check, Source, Store, stage
from edgekit_runtime.transfers import DEFAULT_JOBS, OnProgress


@dataclass(frozen=True, kw_only=True, slots=True)
class PullReport:
    """What was pulled.

    Attributes:
        source: Where from; a registry's digest pins it.
        digest: The bundle's own digest.
        fetched_bytes: File content that came from the source.
        reused_bytes: File content that was there already.
    """

    source: str
    name: str
    version: str
    digest: str
    path: Path
    n_files: int
    fetched_bytes: int
    reused_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {name: getattr(self, name) for name in self.__slots__} | {"path": str(self.path)}


def pull(
    source: Source,
    output: Path,
    *,
    old: Path | None = None,
    jobs: int = DEFAULT_JOBS,
    check: Check = lambda _: None,
    on_progress: OnProgress = lambda _: None,
) -> PullReport:
    """Fetch a bundle into a new directory.

    The directory appears when everything in it was checked and is on the disk. A pull that was
    stopped goes on where it was.

    Args:
        source: Where from.
        output: The new bundle; must not exist.
        old: A bundle that is there already; what it has is copied, not fetched.
        jobs: Files at the same time.
        check: May refuse the bundle by its manifest and signature, before any file is fetched.
        on_progress: Called now and then, from any thread.

    Raises:
        EdgekitRuntimeError: A child of it; nothing is at ``output`` then.
    """
    output = output.absolute()
    have = Store() if old is None else Store.of(old)
    staging = output.with_name(f".{output.name}.pulling")
    try:
        disk.make_directories(output.parent)
        with hold(lock_in(default_cache_dir(), output), str(output)):
            _refuse_existing(output)
            manifest, progress = stage(
                source, staging, have, jobs=jobs, check=check, on_progress=on_progress
            )
            disk.rename(staging, output)
            disk.flush(output.parent)
    except OSError as err:
        raise BundleError(f"'{output}' cannot be written: {err}", hint="Give another -o.") from err
    return PullReport(
        source=source.name,
        name=manifest.name,
        version=manifest.version,
        digest=manifest.digest,
        path=output,
        n_files=len(manifest.files),
        fetched_bytes=progress.moved_bytes,
        reused_bytes=progress.done_bytes - progress.moved_bytes,
    )


def _refuse_existing(output: Path) -> None:
    if output.exists() or output.is_symlink():
        raise BundleError(
            f"the output '{output}' exists",
            hint="Give another -o; --from takes over what an older bundle has.",
        )
