"""Opens a bundle: checks it, reads its cards, starts engines on it."""

import os
import weakref
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Literal, Self

from edgekit_runtime.adapter_choice import blend_card, blend_weights
from edgekit_runtime.card import AdapterCard
from edgekit_runtime.digests import sha256_of_bytes
from edgekit_runtime.errors import AdapterError, BundleError, nearest
from edgekit_runtime.installation import current_version
from edgekit_runtime.manifest import MANIFEST_NAME, FileRecord, Manifest
from edgekit_runtime.signing import SignaturePolicy, check_signature
from edgekit_runtime.verification import (
    VerifiedMarker,
    digest_problems,
    is_link,
    size_problems,
    verify_bundle,
)

if TYPE_CHECKING:
    from edgekit_runtime.engine import Engine

Verify = Literal["auto", "sizes", "full"]
DEFAULT_ADAPTER_BUDGET_BYTES: Final = 256 * 1024 * 1024


class Default(Enum):
    """Stands for the user's cache directory, where None means that nothing is written."""

    CACHE_DIR = "cache_dir"


def default_cache_dir() -> Path:
    """The runtime's directory in the user's cache."""
    for variable in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        if base := os.environ.get(variable):
            return Path(base) / "edgekit-runtime"
    return Path.home() / ".cache" / "edgekit-runtime"


class Bundle:
    """A bundle on disk whose manifest and files were checked.

    Open it with `Bundle.open`. Leaving its ``with`` block closes the engines it started.
    """

    def __init__(self, path: Path, manifest: Manifest, *, cache_dir: Path | None) -> None:
        self.path = path
        self.manifest = manifest
        self.cache_dir = cache_dir
        self._records = {record.path: record for record in manifest.files}
        self._engines: weakref.WeakSet[Engine] = weakref.WeakSet()

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        verify: Verify = "auto",
        cache_dir: Path | Default | None = Default.CACHE_DIR,
        policy: SignaturePolicy | None = None,
    ) -> Self:
        """Open a bundle.

        The manifest and its digest, every file's size, and that no path is or goes through a
        link are checked always.

        Args:
            path: The bundle's directory, or an installation, of which the current version is meant.
            verify: "full" also checks every digest; "auto" does so at the first open on this
                device and when a size or time has changed since; "sizes" never.
            cache_dir: Where "auto" remembers that; None: nowhere, so every open is a full one.
            policy: Who has to have signed it, which is checked before anything is parsed; default:
                what ``EDGEKIT_POLICY`` names, else nobody.

        Raises:
            BundleError: With every problem found.
            SignatureError: If the policy refuses it.
        """
        root = current_version(Path(path).absolute())
        check_signature(root, policy or SignaturePolicy.from_environment())
        manifest = _read_manifest(root)
        _refuse(root, size_problems(root, manifest.files))
        where = default_cache_dir() if isinstance(cache_dir, Default) else cache_dir
        if verify != "sizes":
            marker = None if where is None else VerifiedMarker(where, root, manifest)
            if verify == "full" or marker is None or not marker.holds():
                _refuse(root, digest_problems(root, manifest.files))
                if marker is not None:
                    marker.write()
        return cls(root, manifest, cache_dir=where)

    def verify(self) -> list[str]:
        """Check everything again; name every file that was changed, added, lost or linked."""
        return verify_bundle(self.path)

    def engine(
        self,
        target: str | None = None,
        *,
        threads: int | None = None,
        adapter_budget_bytes: int = DEFAULT_ADAPTER_BUDGET_BYTES,
        context_length: int | None = None,
    ) -> "Engine":
        """Start an engine; nothing is loaded before it is needed.

        Args:
            target: A target of the bundle; default: the best that works here.
            threads: Threads for one operator; default: this process's cores, at most eight.
            adapter_budget_bytes: Loaded adapters that nobody uses are unloaded beyond this.
            context_length: Shorter context than the target's, to save memory.

        Raises:
            TargetError: If no target works here.
        """
        from edgekit_runtime.engine import Engine

        engine = Engine(
            self,
            target,
            threads=threads,
            adapter_budget_bytes=adapter_budget_bytes,
            context_length=context_length,
        )
        self._engines.add(engine)
        return engine

    def adapter_card(self, name: str) -> AdapterCard:
        """What an adapter is and was trained for; of a blend, what is true of all its adapters.

        Args:
            name: Of an adapter, or several as ``legal=0.7,tone=0.3``.

        Raises:
            AdapterError: If there is none of that name, or it was made for another base.
            BundleError: If its card was changed or is malformed.
        """
        if weights := blend_weights(name):
            return blend_card(name, [self.adapter_card(part) for part in weights])
        if name not in self.manifest.adapters:
            raise AdapterError(
                f"bundle {self.manifest.name!r} has no adapter {name!r}",
                hint=f"{nearest(name, self.manifest.adapters)}.",
            )
        path = self.manifest.adapters[name].card
        card = AdapterCard.from_bytes(self.read(path), where=path)
        if card.base_fingerprint != self.manifest.base.fingerprint:
            raise AdapterError(
                f"adapter {name!r} was made for another base than this bundle's",
                problems=[
                    f"base_fingerprint: expected {self.manifest.base.fingerprint}, "
                    f"got {card.base_fingerprint}"
                ],
                hint="Train it on this base, or build a bundle on its base.",
            )
        return card

    def read(self, path: str) -> bytes:
        """Read a listed file and check its digest.

        Raises:
            BundleError: If it cannot be read or was changed.
        """
        try:
            data = (self.path / path).read_bytes()
        except OSError as err:
            raise BundleError(f"{path} cannot be read", problems=[str(err)]) from err
        if (digest := sha256_of_bytes(data)) != self.record(path).digest:
            _refuse(self.path, [f"{path}: expected {self.record(path).digest}, got {digest}"])
        return data

    def record(self, path: str) -> FileRecord:
        """The manifest's entry of a file."""
        return self._records[path]

    def close(self) -> None:
        """Close every engine that was started here."""
        for engine in list(self._engines):
            engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _read_manifest(root: Path) -> Manifest:
    path = root / MANIFEST_NAME
    try:
        if is_link(path):
            _refuse(root, [f"{MANIFEST_NAME}: is a link"])
        data = path.read_bytes()
    except OSError as err:
        raise BundleError(
            f"{root} is not a bundle",
            problems=[f"{MANIFEST_NAME}: {err.strerror}"],
            hint="A bundle is the directory that `edgekit build` writes.",
        ) from err
    try:
        return Manifest.from_bytes(data)
    except BundleError as err:
        raise BundleError(f"{root}: {err.what}", problems=err.problems, hint=err.hint) from err


def _refuse(root: Path, problems: list[str]) -> None:
    if problems:
        raise BundleError(
            f"bundle {root} is not as it was built",
            problems=problems,
            hint="Fetch or build it again.",
        )
