"""Push a bundle to an OCI registry: one layer a file, equal files once."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edgekit.bundling.push_chunks import push_chunks
from edgekit.bundling.upload import has_blob, upload_blob
from edgekit.errors import BuildError
from edgekit_runtime.errors import RegistryError
from edgekit_runtime.manifest import MANIFEST_NAME, Manifest
from edgekit_runtime.registry.artifact import (
    ARTIFACT_TYPE,
    CONFIG_TYPE,
    IMAGE_MANIFEST_TYPE,
    Layer,
    image_manifest,
    layer_of,
    layer_type,
    model_config,
)
from edgekit_runtime.registry.reference import Reference
from edgekit_runtime.registry.repository import Repository
from edgekit_runtime.transfers import DEFAULT_JOBS, Counter, OnProgress, Progress, run_all
from edgekit_runtime.verification import SIGNATURE_NAME, verify_bundle


@dataclass(frozen=True, kw_only=True, slots=True)
class PushReport:
    """What was pushed.

    Attributes:
        reference: The tag that it has now.
        pinned: The same content for ever: the reference with the artifact's digest.
        digest: The bundle's own digest.
        pushed_bytes: Content that was sent, and chunk indexes; None where it is not told.
        skipped_bytes: Content that the registry had already; None where it is not told.
    """

    reference: str
    pinned: str
    digest: str
    pushed_bytes: int | None
    skipped_bytes: int | None

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {name: getattr(self, name) for name in self.__slots__}


def push(
    bundle: Path,
    reference: Reference,
    *,
    plain_http: bool = False,
    jobs: int = DEFAULT_JOBS,
    on_progress: OnProgress = lambda _: None,
) -> PushReport:
    """Push a bundle; its tag moves when everything else is there.

    The bundle is verified first. The same bundle gives the same artifact, byte for byte.

    Args:
        bundle: The bundle's directory.
        reference: Where to, with a tag.
        plain_http: Speak HTTP without TLS.
        jobs: Files at the same time.
        on_progress: Called now and then, from any thread.

    Raises:
        BuildError: If the bundle is not as it was built.
        RegistryError: If the registry cannot be reached or refuses.
    """
    if reference.tag is None or reference.digest is not None:
        raise RegistryError(
            f"'{reference}' cannot be pushed to: a digest is found, not chosen",
            hint=f"Give a tag, e.g. {reference.host}/{reference.repository}:1.0.",
        )
    if problems := verify_bundle(bundle):
        raise BuildError(
            f"bundle '{bundle}' is not as it was built", problems=problems, hint="Build it again."
        )
    manifest = Manifest.from_bytes((bundle / MANIFEST_NAME).read_bytes())
    layers = bundle_layers(bundle, manifest)
    config = model_config(manifest, layers)
    config_layer = layer_of(config, CONFIG_TYPE)
    contents: dict[Layer, Path | bytes] = {layer: bundle / layer.path for layer in layers}
    repository = Repository(reference, access="pull,push", plain_http=plain_http)
    sent = send_blobs(repository, {**contents, config_layer: config}, jobs, on_progress)
    artifact = image_manifest(config_layer, layers, artifact_type=ARTIFACT_TYPE)
    described = layer_of(artifact, IMAGE_MANIFEST_TYPE)
    index_bytes = push_chunks(repository, bundle, manifest, described)
    repository.put_manifest(reference.tag, artifact, IMAGE_MANIFEST_TYPE)
    return PushReport(
        reference=str(reference),
        pinned=str(reference.at(described.digest)),
        digest=manifest.digest,
        pushed_bytes=sent.moved_bytes + index_bytes,
        skipped_bytes=sent.total_bytes - sent.moved_bytes,
    )


def bundle_layers(bundle: Path, manifest: Manifest) -> list[Layer]:
    """One layer a file: the manifest, the signature where there is one, and the listed files."""
    head = [
        layer_of((bundle / name).read_bytes(), layer_type(name, "application/json"), name)
        for name in (MANIFEST_NAME, SIGNATURE_NAME)
        if (bundle / name).is_file()
    ]
    return head + [
        Layer(
            media_type=layer_type(record.path, record.media_type),
            digest=record.digest,
            size_bytes=record.size_bytes,
            path=record.path,
        )
        for record in sorted(manifest.files, key=lambda record: record.path)
    ]


def send_blobs(
    repository: Repository,
    contents: Mapping[Layer, Path | bytes],
    jobs: int,
    on_progress: OnProgress = lambda _: None,
) -> Progress:
    """Send what the registry lacks, each content once, the largest first."""
    by_digest = {layer.digest: layer for layer in contents}
    ordered = sorted(by_digest.values(), key=lambda layer: -layer.size_bytes)
    counter = Counter(sum(layer.size_bytes for layer in ordered), on_progress)

    def send(layer: Layer) -> None:
        if has_blob(repository, layer.digest):
            counter.add(layer.size_bytes, moved=False)
        else:
            upload_blob(repository, layer, contents[layer], counter.add)

    run_all((partial(send, layer) for layer in ordered), jobs, counter)
    return counter.progress()
