"""Write a base's static graphs, once per quantization and shape, into a content-addressed cache."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx_ir as ir
from filelock import FileLock

from edgekit.bases import Base, default_cache_dir
from edgekit.building.export import DIGESTS_FILE, digests_of, is_intact
from edgekit.building.passes import set_accuracy_level
from edgekit.building.qnn.architecture import Decoder, Weights, load_decoder
from edgekit.building.qnn.graph import DecoderWriter, contract_of
from edgekit.building.qnn.host_graphs import write_host_graphs
from edgekit.building.qnn.passes import give_defaults, write_float32_twin
from edgekit.building.qnn.weight_file import WeightFile
from edgekit.building.target_dir import SOCKETS_FILE, STATIC_GRAPHS, context_length
from edgekit.bundling.write import write_json
from edgekit.errors import BuildError
from edgekit.quantizing.blocks import Blocks, round_to_nearest, round_to_positive_scales
from edgekit.targets import StaticGraphs, TargetProfile
from edgekit_runtime.static_layout import LAYOUT_FILE, StaticLayout

BARE = {name: f"{name}.bare.onnx" for name in ("prefill", "decode")}
EXACT = {name: f"{name}.float32.onnx" for name in ("prefill", "decode", "head")} | {
    "embed": "embed.onnx"
}
FLOAT32_WEIGHTS = "float32.data"
DECODER_WEIGHTS = "decoder.onnx.data"
# Raise it when the graphs that are written change.
_WRITER_VERSION = 2


def export_static(
    base: Base,
    profile: TargetProfile,
    *,
    cache_dir: Path | None = None,
    on_message: Callable[[str], None] = lambda _: None,
) -> Path:
    """Return a directory with a base's static graphs, written or from the cache.

    Prefill and decode lie there three times over one file of quantized weights: as a compiler
    takes them (`BARE`), as they run without an adapter (`STATIC_GRAPHS`), and with float32
    compute for the gate (`EXACT`). Beside them: embedding and head for the host, the layout, the
    sockets, the tokenizer, and what genai needs to read it.

    Raises:
        BuildError: If the base has no static form.
    """
    exports = (cache_dir or default_cache_dir()) / "static"
    exports.mkdir(parents=True, exist_ok=True)
    target = exports / _export_key(base, profile)
    with FileLock(exports / f"{target.name}.lock"):
        if is_intact(target):
            on_message("static graphs found in the cache")
            return target
        on_message("writing the static graphs")
        shutil.rmtree(target, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=exports, prefix=f".{target.name}-") as temporary:
            out = Path(temporary) / "model"
            out.mkdir()
            _write(out, base, profile)
            (out / DIGESTS_FILE).write_text(json.dumps(digests_of(out)), encoding="utf-8")
            out.replace(target)
    return target


def static_section(profile: TargetProfile) -> StaticGraphs:
    """The profile's section on static graphs.

    Raises:
        BuildError: If it has none.
    """
    if profile.static is None:
        raise BuildError(
            f"target '{profile.name}' has static graphs, but its profile has no `static:` section",
            hint="See targets/qnn.yaml.",
        )
    return profile.static


def provider_options_of(profile: TargetProfile) -> dict[str, str]:
    """What the compiler and the runtime are told about the chip."""
    return {key: value for key, value in profile.provider_options.items() if value is not None}


def _write(out: Path, base: Base, profile: TargetProfile) -> None:
    decoder, weights = load_decoder(base)
    static, context = static_section(profile), context_length(base, profile)
    if not static.chunk_tokens < context:
        raise BuildError(
            f"target '{profile.name}': static.chunk_tokens is {static.chunk_tokens}, "
            f"which leaves no room in a context of {context} tokens"
        )
    linears = _quantize(weights, profile)
    file = WeightFile(out / DECODER_WEIGHTS)
    for name, n_tokens in (("prefill", static.chunk_tokens), ("decode", 1)):
        writer = DecoderWriter(
            decoder,
            weights,
            linears,
            file,
            n_tokens=n_tokens,
            context_tokens=context,
            rank=profile.adapters.max_rank,
        )
        (out / BARE[name]).write_bytes(writer.model().SerializeToString(deterministic=True))
    file.close()
    write_host_graphs(
        out,
        decoder,
        _tables(weights, profile),
        accuracy_level=profile.quantization.accuracy_level,
    )
    _write_variants(out)
    write_json(out / LAYOUT_FILE, _layout(decoder, profile, context).to_dict())
    write_json(out / SOCKETS_FILE, contract_of(linears, profile.adapters.max_rank).to_dict())
    _write_tokenizer(out, base, decoder, context)


def _write_variants(out: Path) -> None:
    """The graphs with defaults for an adapter, and their twins with float32 compute."""
    float32 = WeightFile(out / FLOAT32_WEIGHTS)
    for name, bare in BARE.items():
        give_defaults(out / bare, out / STATIC_GRAPHS[name])
        twin = out / EXACT[name]
        write_float32_twin(out / bare, twin, float32)
        give_defaults(twin, twin)
    float32.close()
    head = ir.load(out / STATIC_GRAPHS["head"])
    set_accuracy_level(head, 1)
    ir.save(head, out / EXACT["head"])


def _quantize(weights: Weights, profile: TargetProfile) -> dict[str, Blocks]:
    """Every linear layer of the decoder, in blocks whose scales float16 holds exactly."""
    quantization = profile.quantization
    names = [name for name, w in weights.items() if ".layers." in name and w.ndim == 2]
    odd = [
        f"{name}: {weights[name].shape[1]} inputs"
        for name in names
        if weights[name].shape[1] % quantization.block_size
    ]
    if odd:
        raise BuildError(
            f"blocks of {quantization.block_size} weights do not fill every layer",
            problems=odd,
            hint="Set quantization.block_size to a divisor in your own target profile.",
        )
    return {
        name.removesuffix(".weight"): round_to_positive_scales(
            weights[name], bits=quantization.bits, block_size=quantization.block_size
        )
        for name in names
    }


def _tables(weights: Weights, profile: TargetProfile) -> dict[str, Blocks]:
    """Embedding and head; one object where they are tied."""
    quantization = profile.quantization
    embedding, head = weights["model.embed_tokens.weight"], weights["lm_head.weight"]
    rounded = [
        round_to_nearest(table, bits=quantization.head_bits, block_size=quantization.block_size)
        for table in ([embedding] if np.array_equal(embedding, head) else [embedding, head])
    ]
    return {"embedding": rounded[0], "head": rounded[-1]}


def _layout(decoder: Decoder, profile: TargetProfile, context: int) -> StaticLayout:
    return StaticLayout(
        chunk_tokens=static_section(profile).chunk_tokens,
        context_tokens=context,
        hidden_size=decoder.hidden_size,
        layers=len(decoder.layers),
        kv_heads=decoder.kv_heads,
        head_dim=decoder.head_dim,
        windows=decoder.windows,
        ropes=decoder.ropes,
        provider_options=provider_options_of(profile),
    )


def _write_tokenizer(out: Path, base: Base, decoder: Decoder, context: int) -> None:
    """The tokenizer's files, and the configuration by which genai finds them."""
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    AutoTokenizer.from_pretrained(base.path).save_pretrained(out)
    config = AutoConfig.from_pretrained(base.path)
    generation = (
        GenerationConfig.from_pretrained(base.path)
        if (base.path / "generation_config.json").is_file()
        else config
    )
    ids: dict[str, object] = {}
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = getattr(generation, key, None)
        ids[key] = getattr(config, key, None) if value is None else value
    eos = ids["eos_token_id"]
    first_eos = eos[0] if isinstance(eos, list) and eos else eos
    ids["pad_token_id"] = first_eos if ids["pad_token_id"] is None else ids["pad_token_id"]
    ids["bos_token_id"] = first_eos if ids["bos_token_id"] is None else ids["bos_token_id"]
    model: Mapping[str, object] = {
        "type": config.model_type,
        "vocab_size": decoder.vocab_size,
        "context_length": context,
        **ids,
    }
    write_json(out / "genai_config.json", {"model": model, "search": {"max_length": context}})


def _export_key(base: Base, profile: TargetProfile) -> str:
    """Everything that the written bytes depend on."""
    beside_weights = sorted(file for file in base.path.iterdir() if file.suffix != ".safetensors")
    facts = {
        "writer": _WRITER_VERSION,
        "base": base.fingerprint,
        "files": {file.name: digest for file, digest in _digests(beside_weights)},
        "quantization": profile.quantization.model_dump(),
        "static": static_section(profile).model_dump(),
        "provider_options": provider_options_of(profile),
        "rank": profile.adapters.max_rank,
        "context": context_length(base, profile),
        "versions": {name: version(name) for name in ("onnx", "transformers", "torch")},
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


def _digests(files: list[Path]) -> list[tuple[Path, str]]:
    from edgekit_runtime.digests import sha256_of_file

    return [(file, sha256_of_file(file)) for file in files if file.is_file()]
