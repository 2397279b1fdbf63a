"""One target's directory: three small graphs over one weight file, and genai's configuration."""

import json
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx_ir as ir

from edgekit.bases import Base
from edgekit.building.export import DIGESTS_FILE, export_base
from edgekit.building.passes import keep_last_logits, keep_whole_cache
from edgekit.building.sockets import add_sockets, find_sockets
from edgekit.bundling.write import write_json
from edgekit.targets import TargetProfile
from edgekit_runtime.contract import SocketContract
from edgekit_runtime.manifest import TargetRecord

GRAPHS = {"base": "base.onnx", "model": "model.onnx", "score": "score.onnx"}
SOCKETS_FILE = "sockets.json"
_EXPORTED = "exported.onnx"
_WEIGHTS = "model.onnx.data"


def write_target(
    directory: Path,
    base: Base,
    profile: TargetProfile,
    on_message: Callable[[str], None] = lambda _: None,
) -> SocketContract:
    """Export a base for a target and derive its graphs.

    ``base.onnx`` has no sockets, ``model.onnx`` has them, ``score.onnx`` has them and keeps the
    logits of every position. All three read ``model.onnx.data``. Static targets have graphs of
    their own, see `edgekit.building.qnn.target_dir`.
    """
    if profile.builder == "static":
        from edgekit.building.qnn.target_dir import write_static_target

        return write_static_target(directory, base, profile, on_message)
    exported = export_base(base, profile, on_message=on_message)
    directory.mkdir(parents=True)
    for file in sorted(exported.iterdir()):
        if file.name not in {"model.onnx", DIGESTS_FILE}:
            shutil.copyfile(file, directory / file.name)
    on_message("adding sockets")
    source = directory / _EXPORTED
    shutil.copyfile(exported / "model.onnx", source)
    contract = _write_graphs(source, directory, profile)
    source.unlink()
    write_json(directory / SOCKETS_FILE, contract.to_dict())
    _write_genai_config(directory / "genai_config.json", context_length(base, profile))
    return contract


def target_record(base: Base, profile: TargetProfile, *, verified: bool) -> TargetRecord:
    """The manifest's entry of a target."""
    quantization = profile.quantization.model_dump()
    path = f"targets/{profile.name}"
    record = TargetRecord(
        execution_provider=profile.execution_provider,
        path=path,
        graphs=GRAPHS,
        sockets=f"{path}/{SOCKETS_FILE}",
        dtype=profile.io_dtype,
        adapter_mechanism=profile.adapters.mechanism,
        context_length=context_length(base, profile),
        quantization={key: str(value) for key, value in quantization.items()},
        requires=profile.requires,
        verified_on=(
            f"{profile.verify.execution_provider} onnxruntime {version('onnxruntime')}"
            if verified
            else None
        ),
    )
    if profile.builder == "static":
        from edgekit.building.qnn.target_dir import static_record

        return static_record(record)
    return record


def context_length(base: Base, profile: TargetProfile) -> int:
    """The base's own limit, capped by the profile."""
    config = json.loads((base.path / "config.json").read_text(encoding="utf-8"))
    own = int(config.get("max_position_embeddings") or profile.context_length)
    return min(own, profile.context_length)


def _write_graphs(source: Path, directory: Path, profile: TargetProfile) -> SocketContract:
    plain = _load(source)
    contract = find_sockets(plain, max_rank=profile.adapters.max_rank, dtype=profile.io_dtype)
    keep_last_logits(plain)
    ir.save(plain, directory / GRAPHS["base"])
    socketed = _load(source)
    add_sockets(socketed, contract)
    ir.save(socketed, directory / GRAPHS["score"])
    keep_last_logits(socketed)
    ir.save(socketed, directory / GRAPHS["model"])
    return contract


def _load(source: Path) -> ir.Model:
    """The builder's graph with whole caches, without the commit of the working directory."""
    model = ir.load(source)
    model.producer_version = version("onnxruntime-genai")
    keep_whole_cache(model)
    return model


def _write_genai_config(path: Path, context: int) -> None:
    """Cap the context, for which genai allocates the key-value cache; no cache is a ring."""
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    config["model"]["context_length"] = context
    config["search"]["max_length"] = context
    config["model"]["decoder"].pop("sliding_window", None)
    write_json(path, config)
