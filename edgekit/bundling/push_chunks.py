"""Send chunk indexes along with a bundle, so that devices fetch only what changed in a file."""

import json
from pathlib import Path
from typing import Any

from edgekit.bundling.upload import upload_missing
from edgekit_runtime.chunks import INDEX_TYPE, MIN_FILE_BYTES, index_of
from edgekit_runtime.manifest import Manifest
from edgekit_runtime.registry.artifact import (
    IMAGE_INDEX_TYPE,
    IMAGE_MANIFEST_TYPE,
    Layer,
    image_manifest,
    layer_of,
)
from edgekit_runtime.registry.delta import referrers_tag
from edgekit_runtime.registry.repository import Repository

_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"


def push_chunks(repository: Repository, bundle: Path, manifest: Manifest, subject: Layer) -> int:
    """Send an index of every large file, as an artifact that refers to the bundle's.

    Args:
        repository: Where to.
        bundle: The bundle's directory.
        manifest: Its manifest.
        subject: The bundle's artifact.

    Returns:
        Bytes that were sent.
    """
    large = {file.digest: file for file in manifest.files if file.size_bytes >= MIN_FILE_BYTES}
    if not large:
        return 0
    contents: dict[Layer, bytes] = {}
    for file in large.values():
        index = index_of(bundle / file.path, file.digest).to_bytes()
        contents[layer_of(index, INDEX_TYPE, file.path)] = index
    empty = layer_of(b"{}", _EMPTY_TYPE)
    sent = [
        upload_missing(repository, layer, data)
        for layer, data in {**contents, empty: b"{}"}.items()
    ]
    data = image_manifest(empty, list(contents), artifact_type=INDEX_TYPE, subject=subject)
    described = layer_of(data, IMAGE_MANIFEST_TYPE)
    response = repository.put_manifest(described.digest, data, IMAGE_MANIFEST_TYPE)
    if response.headers.get("OCI-Subject") is None:
        _list_by_tag(repository, subject, described)
    return sum(sent) + len(data)


def _list_by_tag(repository: Repository, subject: Layer, referrer: Layer) -> None:
    """Keep the list of referrers by hand, where a registry does not.

    Source: OCI distribution specification 1.1, "Pushing Manifests with Subject".
    """
    tag = referrers_tag(subject.digest)
    there = repository.manifest(tag)
    listed: list[dict[str, Any]] = json.loads(there)["manifests"] if there is not None else []
    if any(one.get("digest") == referrer.digest for one in listed):
        return
    value = {
        "schemaVersion": 2,
        "mediaType": IMAGE_INDEX_TYPE,
        "manifests": [*listed, referrer.to_dict() | {"artifactType": INDEX_TYPE}],
    }
    repository.put_manifest(tag, json.dumps(value).encode(), IMAGE_INDEX_TYPE)
