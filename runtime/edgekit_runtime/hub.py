"""A bundle in a model repository of the Hugging Face Hub, as something that can be pulled.

The library is the extra ``[hub]``. It finds the login, and resumes within a file.
"""

import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from edgekit_runtime import disk
from edgekit_runtime.chunks import OldChunks
from edgekit_runtime.errors import RegistryError
from edgekit_runtime.manifest import MANIFEST_NAME, FileRecord
from edgekit_runtime.registry.source import MAX_BUNDLE_MANIFEST_BYTES
from edgekit_runtime.transfers import OnMoved
from edgekit_runtime.verification import SIGNATURE_NAME

SCHEME = "hf://"

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_REFERENCE = re.compile(rf"hf://({_NAME}/{_NAME})(?:@([A-Za-z0-9][A-Za-z0-9._/-]{{0,200}}))?")


@dataclass(frozen=True, kw_only=True, slots=True)
class HubReference:
    """Where a bundle lies on the Hub: ``hf://me/support`` or ``hf://me/support@v1``.

    Attributes:
        revision: A branch, tag or commit; None for the main branch.
    """

    repository: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a reference.

        Raises:
            RegistryError: If it is malformed.
        """
        found = _REFERENCE.fullmatch(text)
        if found is None or ".." in text:
            raise RegistryError(
                f"{text!r} is no reference to the Hub", hint="Write hf://USER/NAME[@REVISION]."
            )
        return cls(repository=found[1], revision=found[2])

    def at(self, commit: str) -> "HubReference":
        """The same repository, pinned."""
        return HubReference(repository=self.repository, revision=commit)

    def __str__(self) -> str:
        return f"{SCHEME}{self.repository}" + (f"@{self.revision}" if self.revision else "")


class HubSource:
    """A bundle in a repository. What its branch or tag means is asked once, here.

    Raises:
        RegistryError: If the library or the repository is not there.
    """

    def __init__(self, reference: HubReference) -> None:
        need_library()
        from huggingface_hub import HfApi

        with told_as_ours(reference):
            info = HfApi().model_info(reference.repository, revision=reference.revision)
        self._reference = reference.at(str(info.sha))
        self._files = {one.rfilename for one in info.siblings or ()}
        self.name = str(self._reference)

    def manifest(self) -> bytes:
        """The bundle's manifest file."""
        if MANIFEST_NAME not in self._files:
            raise RegistryError(
                f"{self.name} is no bundle: it has no {MANIFEST_NAME}",
                hint="Push a bundle there first: edgekit bundle push.",
            )
        return self._read(MANIFEST_NAME)

    def signature(self) -> bytes | None:
        """The bundle's signature file, if it has one."""
        return self._read(SIGNATURE_NAME) if SIGNATURE_NAME in self._files else None

    def fetch(
        self, record: FileRecord, path: Path, on_moved: OnMoved, old: OldChunks | None = None
    ) -> None:
        """Write a file; the caller checks the digest."""
        folder = path.with_name(f"{path.name}.hub")
        found = self._download(record.path, folder)
        disk.flush(found)
        disk.rename(found, path)
        disk.remove_tree(folder)
        on_moved(record.size_bytes)

    def _read(self, name: str) -> bytes:
        found = self._download(name, None)
        if found.stat().st_size > MAX_BUNDLE_MANIFEST_BYTES:
            raise RegistryError(f"{name} of {self.name} is too large")
        return found.read_bytes()

    def _download(self, name: str, folder: Path | None) -> Path:
        """Fetch a file into a folder, or into the library's own cache."""
        from huggingface_hub import hf_hub_download

        with told_as_ours(self._reference):
            found = hf_hub_download(
                self._reference.repository,
                name,
                revision=self._reference.revision,
                local_dir=folder,
            )
        return Path(str(found))


def need_library() -> None:
    """Refuse where the extra is not installed."""
    if importlib.util.find_spec("huggingface_hub") is None:
        raise RegistryError(
            "the Hugging Face Hub needs its library",
            hint="Install it: pip install 'edgekit-runtime[hub]'.",
        )


@contextmanager
def told_as_ours(reference: HubReference) -> Iterator[None]:
    """Turn the library's errors into ours."""
    from huggingface_hub import errors

    # HTTPError is that of the HTTP library, which differs between versions.
    refused = (errors.HfHubHTTPError, errors.HTTPError)  # type: ignore[attr-defined]

    try:
        yield
    except (*refused, errors.LocalEntryNotFoundError, OSError, ValueError) as err:
        lines = [line for line in str(err).splitlines() if line.strip()]
        raise RegistryError(
            f"the Hub did not do what was asked for {reference}",
            problems=[f"{type(err).__name__}: {lines[0] if lines else 'no reason given'}"],
            hint="Check the name, the network, and your login: hf auth login, or HF_TOKEN.",
        ) from err
