"""A bundle as an OCI artifact: the manifest that names one layer a file.

The artifact follows CNCF ModelPack's model specification, so that its readers unpack a bundle too;
see docs/bundle-format.md.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from edgekit_runtime.digests import path_problem, sha256_of_bytes
from edgekit_runtime.errors import RegistryError
from edgekit_runtime.manifest import Fields, Manifest
from edgekit_runtime.strict_json import loads

IMAGE_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
IMAGE_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
ARTIFACT_TYPE = "application/vnd.cncf.model.manifest.v1+json"
CONFIG_TYPE = "application/vnd.cncf.model.config.v1+json"
PATH_KEY = "org.cncf.model.filepath"
# Docker's and ORAS's word for the same.
TITLE_KEY = "org.opencontainers.image.title"
# The distribution specification lets a registry refuse larger ones.
MAX_MANIFEST_BYTES = 4 << 20

_WEIGHT = "application/vnd.cncf.model.weight.v1.raw"
_SETTING = "application/vnd.cncf.model.weight.config.v1.raw"
_DOCUMENT = "application/vnd.cncf.model.doc.v1.raw"


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """One blob that an artifact names.

    Attributes:
        path: Where the blob belongs in the bundle; empty for what is no file of it.
    """

    media_type: str
    digest: str
    size_bytes: int
    path: str = ""

    @classmethod
    def read(cls, fields: Fields) -> Self:
        """Read from a descriptor."""
        notes = fields.data.get("annotations")
        notes = notes if isinstance(notes, dict) else {}
        path = notes.get(PATH_KEY) or notes.get(TITLE_KEY) or ""
        if not isinstance(path, str) or (path and path_problem(path)):
            fields.problems.append(f"{fields.at('annotations')}: unsafe path {path!r}")
        return cls(
            media_type=fields.text("mediaType"),
            digest=fields.digest("digest"),
            size_bytes=fields.number("size"),
            path=str(path),
        )

    def to_dict(self) -> dict[str, Any]:
        """The descriptor."""
        told: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": self.digest,
            "size": self.size_bytes,
        }
        if self.path:
            told["annotations"] = {PATH_KEY: self.path, TITLE_KEY: self.path}
        return told


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """An image manifest of a registry, as far as bundles need it.

    Attributes:
        digest: Of the manifest's bytes; pins everything that it names.
    """

    digest: str
    artifact_type: str
    layers: tuple[Layer, ...]

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> Self:
        """Read an image manifest.

        Raises:
            RegistryError: If it is none.
        """
        problems: list[str] = []
        try:
            value = loads(data)
        except ValueError as err:
            raise RegistryError(f"{where} is no JSON: {err}") from err
        fields = Fields(value, "", problems)
        found = cls(
            digest=sha256_of_bytes(data),
            artifact_type=fields.text("artifactType", ""),
            layers=fields.objects("layers", Layer.read),
        )
        if problems:
            raise RegistryError(
                f"{where} is no artifact with layers",
                problems=problems,
                hint="Push a bundle there first: edgekit bundle push.",
            )
        return found

    def file(self, path: str) -> Layer | None:
        """The layer that holds a file of the bundle."""
        return next((layer for layer in self.layers if layer.path == path), None)


def layer_type(path: str, media_type: str) -> str:
    """ModelPack's media type of a bundle's file.

    Args:
        path: Its path in the bundle.
        media_type: What the bundle's manifest says.
    """
    if media_type.startswith("application/vnd.cncf.model.") or path.endswith(".bin"):
        return _WEIGHT
    is_document = path.startswith(("licenses/", "reports/")) or path.endswith((".md", ".txt"))
    return _DOCUMENT if is_document else _SETTING


def model_config(manifest: Manifest, layers: Sequence[Layer]) -> bytes:
    """ModelPack's configuration of a bundle: what its first target is."""
    target = next(iter(manifest.targets.values()))
    licenses = {"licenses": [manifest.base.license]} if manifest.base.license else {}
    value = {
        "descriptor": {
            "name": manifest.name,
            "version": manifest.version,
            "family": manifest.base.name,
            **licenses,
        },
        "config": {
            "architecture": manifest.base.architecture,
            "format": "onnx",
            "precision": target.dtype,
            "quantization": target.quantization.get("algorithm", ""),
        },
        "modelfs": {"type": "layers", "diffIds": [layer.digest for layer in layers]},
    }
    return _json(value)


def image_manifest(
    config: Layer, layers: Sequence[Layer], *, artifact_type: str, subject: Layer | None = None
) -> bytes:
    """Write an image manifest; the same content gives the same bytes."""
    value: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": IMAGE_MANIFEST_TYPE,
        "artifactType": artifact_type,
        "config": config.to_dict(),
        "layers": [layer.to_dict() for layer in layers],
    }
    if subject is not None:
        value["subject"] = subject.to_dict()
    return _json(value)


def layer_of(data: bytes, media_type: str, path: str = "") -> Layer:
    """Describe some bytes."""
    return Layer(
        media_type=media_type, digest=sha256_of_bytes(data), size_bytes=len(data), path=path
    )


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
