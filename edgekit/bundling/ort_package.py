"""A target as a model folder of onnxruntime-genai, and several as ONNX Runtime's model package.

A package holds one component with a variant for each target; the weights of all targets lie in one
shared asset, named by its content. Source: ``model_package/README.md`` and
``onnxruntime/core/session/model_package/README.md`` of ONNX Runtime, schema version 1.0.
"""

import json
import shutil
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from edgekit.bundling.write import write_json
from edgekit_runtime import Bundle
from edgekit_runtime.digests import sha256_of_file
from edgekit_runtime.manifest import MANIFEST_NAME, AdapterRecord, TargetRecord

_COMPONENT: Final = "model"
_WEIGHTS_FOLDER: Final = "session.model_external_initializers_file_folder_path"


def write_folder(
    bundle: Bundle, record: TargetRecord, folder: Path, weights_folder: str | None = None
) -> str:
    """Write the graph with sockets, its configuration and the tokenizer, flat.

    Args:
        bundle: The bundle.
        record: The target.
        folder: Where to.
        weights_folder: Where the configuration says that the weights are; beside it by default.

    Returns:
        The graph's file name.
    """
    source = bundle.path / record.path
    graphs = {Path(graph).name for graph in record.graphs.values()}
    kept = Path(record.graphs["model"]).name
    sockets = Path(record.sockets).name
    for file in sorted(source.iterdir()):
        if file.name == kept or file.name not in graphs | {sockets, "genai_config.json"}:
            shutil.copyfile(file, folder / file.name)
    config = json.loads((source / "genai_config.json").read_text(encoding="utf-8"))
    options = config["model"]["decoder"]["session_options"]
    options.pop(_WEIGHTS_FOLDER, None)
    if weights_folder is not None:
        options[_WEIGHTS_FOLDER] = weights_folder
    write_json(folder / "genai_config.json", config)
    return kept


def write_package(
    bundle: Bundle,
    targets: Mapping[str, TargetRecord],
    adapters: Mapping[str, AdapterRecord],
    root: Path,
) -> None:
    """Write a model package; where two variants are for one provider, ORT takes the first.

    Args:
        bundle: The bundle.
        targets: Targets with graphs of free shape.
        adapters: What lies beside them; the format knows no adapters, so they are named in the
            free part of its manifest.
        root: An empty directory.
    """
    asset = _write_weights(bundle, targets, root)
    variants = {}
    for name, record in targets.items():
        folder = root / _COMPONENT / name
        folder.mkdir(parents=True)
        options = {} if asset is None else {_WEIGHTS_FOLDER: asset}
        graph = write_folder(bundle, record, folder, asset)
        # No `device`: ONNX Runtime 1.31 finds no variant for the CPU where it is said.
        variants[name] = {
            "ep": record.execution_provider,
            "executor_info": {"ort": {"model_file": graph, "session_options": options}},
        }
    write_json(root / _COMPONENT / "component.json", {"variants": variants})
    manifest = bundle.manifest
    files = {}
    for name, entry in adapters.items():
        files[name] = {target: path for target, path in entry.files.items() if target in targets}
        for path in {entry.card, *files[name].values()}:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.path / path, root / path)
    told: dict[str, Any] = {
        "schema_version": "1.0",
        "package_name": manifest.name,
        "package_version": manifest.version,
        "components": {_COMPONENT: _COMPONENT},
        "additional_metadata": {"bundle": manifest.digest, "adapters": files},
    }
    write_json(root / MANIFEST_NAME, told)


def _write_weights(bundle: Bundle, targets: Mapping[str, TargetRecord], root: Path) -> str | None:
    """Copy what the graphs read into one shared asset; returns its name, ``sha256:…``."""
    paths = sorted({path for record in targets.values() for path in record.weights})
    if not paths:
        return None
    staging = root / "shared_assets" / "weights"
    staging.mkdir(parents=True)
    for path in paths:
        shutil.copyfile(bundle.path / path, staging / Path(path).name)
    digest = _directory_digest(staging)
    staging.rename(staging.with_name(f"sha256-{digest}"))
    return f"sha256:{digest}"


def _directory_digest(folder: Path) -> str:
    """The digest of a shared asset: over its files' digests and paths, sorted by path."""
    files = sorted((file.relative_to(folder).as_posix(), file) for file in folder.rglob("*"))
    lines = (f"{sha256_of_file(file).removeprefix('sha256:')}  {name}\n" for name, file in files)
    return sha256("".join(lines).encode()).hexdigest()
