"""One target's directory: three small graphs over the bundle's weights, and genai's settings."""

import json
import shutil
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx_ir as ir

from edgekit.bases import Base
from edgekit.building.export import DIGESTS_FILE, export_base
from edgekit.building.parity_figures import ParityFigures
from edgekit.building.passes import keep_last_logits, keep_whole_cache
from edgekit.building.prebuilt import context_limits, decoder_graph, quantization_of
from edgekit.building.sockets import add_sockets, find_sockets
from edgekit.building.weights import FOLDER_FROM_TARGET, FOLDER_OPTION, WeightStore
from edgekit.bundling.write import write_json
from edgekit.quantizing.options import as_texts
from edgekit.targets import TargetProfile
from edgekit_runtime.contract import SocketContract
from edgekit_runtime.manifest import TargetRecord
from edgekit_runtime.providers import BY_NAME

GRAPHS = {"base": "base.onnx", "model": "model.onnx", "score": "score.onnx"}
STATIC_GRAPHS = {name: f"{name}.onnx" for name in ("prefill", "decode", "embed", "head")}
SOCKETS_FILE = "sockets.json"
# genai's configuration and the tokenizer's files.
_BESIDE_A_GRAPH = {".json", ".jinja", ".model", ".txt"}
_NOT_FOR_DEVICES = {DIGESTS_FILE, "config.json", "LICENSE.txt", "requirements.txt"}


def write_target(
    directory: Path,
    base: Base,
    profile: TargetProfile,
    store: WeightStore,
    on_message: Callable[[str], None] = lambda _: None,
) -> SocketContract:
    """Export a base for a target and derive its graphs.

    ``base.onnx`` has no sockets, ``model.onnx`` has them, ``score.onnx`` has them and keeps the
    logits of every position. All three read the bundle's weights. Static targets have graphs of
    their own, see `edgekit.building.qnn.target_dir`.
    """
    if profile.builder == "static":
        from edgekit.building.qnn.target_dir import write_static_target

        return write_static_target(directory, base, profile, on_message)
    exported = base.path if base.is_prebuilt else export_base(base, profile, on_message=on_message)
    directory.mkdir(parents=True)
    for file in sorted(exported.iterdir()):
        if file.suffix in _BESIDE_A_GRAPH and file.name not in _NOT_FOR_DEVICES:
            shutil.copyfile(file, directory / file.name)
    on_message("adding sockets")
    contract = _write_graphs(
        decoder_graph(exported), directory, profile, store, prefused=base.is_prefused
    )
    write_json(directory / SOCKETS_FILE, contract.to_dict())
    _write_genai_config(directory / "genai_config.json", profile, context_length(base, profile))
    return contract


def target_record(
    base: Base, profile: TargetProfile, store: WeightStore, *, verified_on: str | None
) -> TargetRecord:
    """The manifest's entry of a target whose directory was written."""
    quantization = quantization_of(base) if base.is_prebuilt else as_texts(profile.quantization)
    path = f"targets/{profile.name}"
    graphs = graphs_of(profile)
    return TargetRecord(
        execution_provider=profile.execution_provider,
        path=path,
        graphs=graphs,
        weights=store.paths_of(profile.name, graphs.values()) if graphs is GRAPHS else (),
        sockets=f"{path}/{SOCKETS_FILE}",
        dtype=profile.io_dtype,
        adapter_mechanism=profile.adapters.mechanism,
        context_length=context_length(base, profile),
        quantization=quantization,
        requires=profile.requires,
        packages={key: text for key, text in profile.packages.items() if text},
        verified_on=verified_on,
    )


def graphs_of(profile: TargetProfile) -> Mapping[str, str]:
    """Graph name to file name of a target."""
    return STATIC_GRAPHS if profile.builder == "static" else GRAPHS


def verified_on(figures: ParityFigures) -> str:
    """Where the gate ran: the providers that its nodes were given to, and the library."""
    if figures.compiled is not None:
        return figures.compiled.device
    library = f"onnxruntime {version('onnxruntime')}"
    if figures.nll_torch is None:
        library += ", without the float model"
    if len(figures.placement) == 1:
        return f"{next(iter(figures.placement))} {library}"
    shares = [f"{name} ({count} nodes)" for name, count in sorted(figures.placement.items())]
    return f"{', '.join(shares)} {library}"


def context_length(base: Base, profile: TargetProfile) -> int:
    """The base's own limit, capped by the profile.

    Beyond ``original_max_position_embeddings`` longrope (Phi-3, Phi-4-mini) turns every key by
    other factors, those of the past too, and a key-value cache holds them as they were.
    """
    if base.is_prebuilt:
        return min(profile.context_length, *context_limits(base))
    config = json.loads((base.path / "config.json").read_text(encoding="utf-8"))
    own = (config.get(f"{kind}max_position_embeddings") for kind in ("", "original_"))
    return min(profile.context_length, *(int(limit) for limit in own if limit))


def _write_graphs(
    source: Path, directory: Path, profile: TargetProfile, store: WeightStore, *, prefused: bool
) -> SocketContract:
    plain = _load(source)
    contract = find_sockets(
        plain, max_rank=profile.adapters.max_rank, dtype=profile.io_dtype, prefused=prefused
    )
    keep_last_logits(plain)
    file = f"{profile.name}.data"
    store.save(plain, directory / GRAPHS["base"], file=file)
    socketed = _load(source)
    add_sockets(socketed, contract, empty_rank=profile.adapters.empty_rank)
    store.save(socketed, directory / GRAPHS["score"], file=file)
    keep_last_logits(socketed)
    store.save(socketed, directory / GRAPHS["model"], file=file)
    return contract


def _load(source: Path) -> ir.Model:
    """The builder's graph with whole caches, without the commit of the working directory."""
    model = ir.load(source)
    model.producer_version = version("onnxruntime-genai")
    keep_whole_cache(model)
    return model


def _write_genai_config(path: Path, profile: TargetProfile, context: int) -> None:
    """Say where the weights and the provider are; cap the context, for which a cache is made."""
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    config["model"]["context_length"] = context
    config["search"]["max_length"] = context
    decoder = config["model"]["decoder"]
    decoder.pop("sliding_window", None)  # no cache is a ring
    decoder["filename"] = GRAPHS["model"]
    options = decoder.setdefault("session_options", {})
    options |= profile.session_options
    options[FOLDER_OPTION] = FOLDER_FROM_TARGET
    options["provider_options"] = _provider_options(profile)
    write_json(path, config)


def _provider_options(profile: TargetProfile) -> list[dict[str, dict[str, str]]]:
    """Say it in the form of genai: one entry with the provider's short name, none for the CPU."""
    key = BY_NAME[profile.execution_provider].key
    options = {name: value for name, value in profile.provider_options.items() if value is not None}
    return [{key: options}] if key else []
