"""Write a bundle: into a staging directory, flushed, renamed; never half."""

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock, Timeout

from edgekit.bases import default_cache_dir
from edgekit.errors import BuildError
from edgekit_runtime.digests import sha256_of_file
from edgekit_runtime.disk import flush, flush_tree, replace_file
from edgekit_runtime.manifest import (
    MANIFEST_NAME,
    AdapterRecord,
    BaseRecord,
    FileRecord,
    Manifest,
    TargetRecord,
)

# CNCF ModelPack's media types where they exist; see docs/bundle-format.md.
_MEDIA_TYPES = {
    ".onnx": "application/vnd.cncf.model.weight.v1.raw",
    ".data": "application/vnd.cncf.model.weight.v1.raw",
    ".onnx_adapter": "application/vnd.cncf.model.weight.v1.raw",
    ".json": "application/json",
    ".jinja": "text/plain",
    ".txt": "text/plain",
    ".md": "text/markdown",
}
PARITY_REPORT = "reports/parity.json"
_TOOLS = ("edgekit", "onnxruntime", "onnxruntime-genai", "onnx-ir", "torch", "transformers", "peft")


@contextmanager
def staged_bundle(output: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give an empty directory beside ``output`` that becomes ``output`` if all goes well.

    What a killed build left there is removed by the next one; two builds of one output at the
    same time are refused.

    Raises:
        BuildError: If the output exists, cannot be written, or another build of it is running.
    """
    output = output.resolve()
    staging = output.with_name(f".{output.name}.building")
    with bundle_lock(output):
        _recover(output)
        refuse_existing(output, overwrite=overwrite)
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir()
        except OSError as err:
            raise BuildError(
                f"'{output.parent}' cannot be written to: {err.strerror}", hint="Give another -o."
            ) from err
        try:
            yield staging
            flush_tree(staging)
            _put_in_place(staging, output)
        except OSError as err:
            if err.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
            raise BuildError(
                f"the disk is full: '{output}' was not built", hint="Free some space, or give -o."
            ) from err
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def refuse_existing(output: Path, *, overwrite: bool) -> None:
    """Raise if an output is there already, or is something that is not ours to replace."""
    if not output.exists():
        return
    if not overwrite:
        raise BuildError(
            f"the output '{output}' exists", hint="Give another -o, or say --overwrite."
        )
    if not (output / MANIFEST_NAME).is_file():
        raise BuildError(
            f"the output '{output}' is no bundle: it is not overwritten",
            hint="Give another -o, or remove it yourself.",
        )


@contextmanager
def bundle_lock(bundle: Path) -> Iterator[None]:
    """Hold the right to change a bundle; the lock lies in the cache, not in the bundle."""
    locks = default_cache_dir() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    key = sha256(os.fspath(bundle.resolve()).encode()).hexdigest()[:24]
    try:
        with FileLock(locks / f"{key}.lock", timeout=0):
            yield
    except Timeout as err:
        raise BuildError(
            f"another edgekit is changing '{bundle}'", hint="Wait until it has finished."
        ) from err


def write_manifest(
    root: Path,
    *,
    name: str,
    release: str,
    base: BaseRecord,
    targets: Mapping[str, TargetRecord],
    adapters: Mapping[str, AdapterRecord],
    tool_versions: Mapping[str, str] | None = None,
) -> Manifest:
    """Describe every file below ``root`` and write ``manifest.json`` atomically."""
    files = tuple(
        describe_file(root, path)
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.relative_to(root).as_posix() != MANIFEST_NAME
    )
    manifest = Manifest(
        name=name,
        version=release,
        base=base,
        tokenizer="tokenizer",
        targets=targets,
        adapters=adapters,
        files=files,
        tool_versions=tool_versions or {tool: version(tool) for tool in _TOOLS},
    )
    replace_file(root / MANIFEST_NAME, manifest.to_bytes())
    return manifest


def describe_file(root: Path, path: Path) -> FileRecord:
    """Digest, size and media type of one file of a bundle."""
    return FileRecord(
        path=path.relative_to(root).as_posix(),
        digest=sha256_of_file(path),
        size_bytes=path.stat().st_size,
        media_type=_MEDIA_TYPES.get(path.suffix, "application/octet-stream"),
    )


def write_json(path: Path, value: object) -> None:
    """Write a report or a card: readable, key order kept, same input same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8", newline="\n")


def _retired(output: Path) -> Path:
    return output.with_name(f".{output.name}.old")


def _put_in_place(staging: Path, output: Path) -> None:
    """Rename; a bundle that is there already steps aside first."""
    retired = _retired(output)
    if output.exists():
        output.rename(retired)
    try:
        staging.rename(output)
    except OSError:
        _recover(output)
        raise
    flush(output.parent)
    shutil.rmtree(retired, ignore_errors=True)


def _recover(output: Path) -> None:
    """Finish or undo what a kill between the two renames of an overwrite left."""
    retired = _retired(output)
    if retired.is_dir() and not output.exists():
        retired.rename(output)
    shutil.rmtree(retired, ignore_errors=True)
