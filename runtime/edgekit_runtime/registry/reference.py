"""References to artifacts in a registry, as ORAS and Docker write them."""

import re
from dataclasses import dataclass
from typing import Self

from edgekit_runtime.digests import is_digest
from edgekit_runtime.errors import RegistryError

_HOST = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?")
# Source: OCI distribution specification 1.1, "Pulling manifests".
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_SHAPE = "HOST[:PORT]/NAME[:TAG][@sha256:DIGEST]"


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """Where an artifact lies: ``ghcr.io/me/support:1.2`` or ``…@sha256:…``.

    Attributes:
        host: The registry, with its port if one is given.
        repository: Name inside the registry.
        tag: A name that may move, or None.
        digest: Digest of the artifact's manifest, or None; where given, it decides.
    """

    host: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a reference; without a tag and digest it means the tag ``latest``.

        Raises:
            RegistryError: With every part that is malformed.
        """
        rest, at, digest = text.removeprefix("oci://").partition("@")
        host, _, path = rest.partition("/")
        repository, colon, tag = path.partition(":")
        problems = [] if _is_host(host) else [f"host: expected a registry's, got {host!r}"]
        if not _REPOSITORY.fullmatch(repository):
            problems.append(f"name: expected lower case letters and digits, got {repository!r}")
        if colon and not _TAG.fullmatch(tag):
            problems.append(f"tag: expected at most 128 of A-Z a-z 0-9 _ . -, got {tag!r}")
        if at and not is_digest(digest):
            problems.append(f"digest: expected sha256:<64 hex>, got {digest!r}")
        if problems:
            raise RegistryError(
                f"{text!r} is no reference to a registry",
                problems=problems,
                hint=f"Write {_SHAPE}, e.g. ghcr.io/me/support:1.2.",
            )
        return cls(
            host=host,
            repository=repository,
            tag=tag or (None if digest else "latest"),
            digest=digest or None,
        )

    def at(self, digest: str) -> "Reference":
        """The same artifact, pinned."""
        return Reference(host=self.host, repository=self.repository, digest=digest)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.host}/{self.repository}{tag}{digest}"


def _is_host(host: str) -> bool:
    """Whether this can be a registry: it has a dot or a port, or is ``localhost``."""
    return bool(_HOST.fullmatch(host)) and (host == "localhost" or bool(set(host) & set(".:")))
