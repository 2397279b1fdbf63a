"""Changes a bundle and seals it again, as an attacker or a wrong build would."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit_runtime.adapter_file import AdapterFile
from edgekit_runtime.digests import canonical_json, sha256_of_bytes, sha256_of_file
from edgekit_runtime.manifest import MANIFEST_NAME, Manifest

Tensors = dict[str, NDArray[Any]]


def seal(bundle: Path, change: Callable[[dict[str, Any]], None] = lambda _: None) -> None:
    """Change the manifest and write it with a digest that is right again."""
    value = json.loads((bundle / MANIFEST_NAME).read_bytes())
    del value["digest"]
    change(value)
    digest = sha256_of_bytes(canonical_json(value))
    (bundle / MANIFEST_NAME).write_bytes(canonical_json(value | {"digest": digest}))


def replace_file(bundle: Path, path: str, data: bytes) -> None:
    """Change a file together with its entry in the manifest."""
    (bundle / path).write_bytes(data)
    manifest = Manifest.from_bytes((bundle / MANIFEST_NAME).read_bytes())
    files = tuple(
        replace(record, digest=sha256_of_file(bundle / path), size_bytes=len(data))
        if record.path == path
        else record
        for record in manifest.files
    )
    (bundle / MANIFEST_NAME).write_bytes(replace(manifest, files=files).to_bytes())


def adapter_bytes(tensors: Mapping[str, NDArray[Any]], folder: Path) -> bytes:
    """Tensors as the content of an ``.onnx_adapter``."""
    import onnxruntime

    path = folder / "written.onnx_adapter"
    format_ = onnxruntime.AdapterFormat()
    format_.set_adapter_version(1)
    format_.set_model_version(1)
    values = {n: onnxruntime.OrtValue.ortvalue_from_numpy(t) for n, t in tensors.items()}
    format_.set_parameters(values)
    format_.export_adapter(str(path))
    return path.read_bytes()


def change_adapter(bundle: Path, name: str, change: Callable[[Tensors], None]) -> None:
    """Change the tensors of an adapter, and seal the bundle."""
    path = f"adapters/{name}/float32.onnx_adapter"
    file = AdapterFile.from_bytes((bundle / path).read_bytes(), where=name)
    tensors = {tensor: np.array(file.tensor(tensor)) for tensor in file.infos}
    change(tensors)
    replace_file(bundle, path, adapter_bytes(tensors, bundle.parent))
