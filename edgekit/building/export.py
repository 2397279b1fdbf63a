"""Export a base to int4 ONNX with onnxruntime-genai's model builder, once per quantization.

The builder runs in a child process with pinned options, never with ``adapter_path`` (that would
bake the adapter in). Its output is kept in a content-addressed cache.
"""

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock

from edgekit.bases import Base, default_cache_dir
from edgekit.errors import BuildError
from edgekit.quantizing.graph import replace_weights_in
from edgekit.quantizing.quantize import quantization_facts, quantize_base
from edgekit.targets import TargetProfile
from edgekit_runtime.digests import sha256_of_file

DIGESTS_FILE = "digests.json"

# Architectures that are built and checked in edgekit's tests; the builder knows more.
SUPPORTED_ARCHITECTURES = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "GemmaForCausalLM",
    "Gemma2ForCausalLM",
    "Gemma3ForCausalLM",
    "Phi3ForCausalLM",
)


def export_base(
    base: Base,
    profile: TargetProfile,
    *,
    cache_dir: Path | None = None,
    on_message: Callable[[str], None] = lambda _: None,
) -> Path:
    """Return a directory with the builder's int4 model of a base, built or from the cache.

    Raises:
        BuildError: If the architecture is unsupported, or the builder fails (with its last words).
    """
    refuse_unsupported(base)
    target = export_path(base, profile, cache_dir=cache_dir)
    exports = target.parent
    exports.mkdir(parents=True, exist_ok=True)
    with FileLock(exports / f"{target.name}.lock"):  # a second build of it waits for the first
        if is_intact(target):
            on_message("int4 graph found in the cache")
            return target
        on_message("exporting the base to int4 ONNX (model builder)")
        prefix = f".{target.name}-"
        for leftover in (target, *exports.glob(f"{prefix}*")):
            shutil.rmtree(leftover, ignore_errors=True)
        # A name of its own: a killed build's child may still be writing to the old one.
        with tempfile.TemporaryDirectory(dir=exports, prefix=prefix) as temporary:
            out = Path(temporary) / "model"
            _run_builder(base, profile, out, Path(temporary) / "cache")
            weights = quantize_base(
                base,
                profile.quantization,
                every=_rounds_everything(profile),
                cache_dir=cache_dir,
                on_message=on_message,
            )
            if weights:
                on_message("putting the quantized weights into the graph")
                replace_weights_in(out, weights, prefused=base.is_prefused)
            (out / DIGESTS_FILE).write_text(json.dumps(digests_of(out)), encoding="utf-8")
            out.replace(target)
    return target


def export_path(base: Base, profile: TargetProfile, *, cache_dir: Path | None = None) -> Path:
    """Where the cache keeps a base's export for a profile, there or not (:func:`is_intact`)."""
    return (cache_dir or default_cache_dir()) / "exports" / _export_key(base, profile)


def refuse_unsupported(base: Base) -> None:
    """Raise if a base's architecture is none that edgekit builds and checks."""
    if base.architecture not in SUPPORTED_ARCHITECTURES:
        raise BuildError(
            f"base '{base.name}' has the architecture {base.architecture}, "
            "which cannot be built yet",
            hint=f"Supported: {', '.join(SUPPORTED_ARCHITECTURES)}.",
        )
    if base.architecture == "Gemma3ForCausalLM" and (kind := _scaled_rope(base)):
        raise BuildError(
            f"base '{base.name}' cannot be built yet: its rope is scaled ({kind}) in some layers "
            "only, and the model builder scales the positions of all layers or of none",
            hint="Gemma 3 270M and 1B have no scaled rope.",
        )


def _scaled_rope(base: Base) -> str | None:
    """How Gemma 3's full-attention layers scale positions, in the config's new or old words."""
    config = json.loads((base.path / "config.json").read_text(encoding="utf-8"))
    rope = (config.get("rope_parameters") or {}).get("full_attention") or {}
    kinds = (key.get("rope_type") for key in (rope, config.get("rope_scaling") or {}))
    return next((kind for kind in kinds if kind not in (None, "default")), None)


def rounds_here(profile: TargetProfile) -> bool:
    """Whether edgekit rounds a target's weights itself, rather than the model builder."""
    options = profile.quantization
    if profile.builder == "static" or options.needs_text or options.eight_bit:
        return True
    return options.head_bits != 4 or not options.is_symmetric or _rounds_everything(profile)


def _rounds_everything(profile: TargetProfile) -> bool:
    """Float16 builders round what is float16 already, so their numbers are replaced by ours."""
    return profile.io_dtype == "float16" and profile.quantization.algorithm != "k_quant"


def builder_options(profile: TargetProfile) -> dict[str, str]:
    """The model builder's ``--extra_options`` for a profile, all pinned."""
    quantization = profile.quantization
    options = {
        "accuracy_level": str(quantization.accuracy_level),
        "algo_config": "k_quant" if quantization.algorithm == "k_quant" else "default",
        "block_size": str(quantization.block_size),
        # Zero points are put in afterwards: with its own, tied embeddings do not load (0.18).
        "is_symmetric": "true",
        "fuse_mlp_gate_up": "true",
    }
    if quantization.embedding:
        options["op_types_to_quantize"] = "MatMul/Gather"
    else:
        options["shared_embeddings"] = "false"  # by default a tied one reads the head's 4 bits
    if profile.builder in {"cuda", "webgpu"}:
        # The gate's CPU provider has no norms of q and k inside GroupQueryAttention.
        options["fuse_qk_norm_gqa"] = "false"
    if profile.builder == "webgpu" and profile.io_dtype == "float32":
        options["use_webgpu_fp32"] = "true"
    return options


def _export_key(base: Base, profile: TargetProfile) -> str:
    """Everything that the exported bytes depend on."""
    beside_weights = [
        file for file in base.path.iterdir() if file.suffix in {".json", ".jinja", ".model", ".txt"}
    ]
    facts = {
        "base": base.fingerprint,
        "tokenizer": {file.name: sha256_of_file(file) for file in beside_weights},
        "builder": profile.builder,
        "precision": profile.precision,
        "options": builder_options(profile),
        "quantization": quantization_facts(profile.quantization),
        "versions": {
            name: version(name)
            for name in ("onnxruntime-genai", "onnxruntime", "onnx-ir", "transformers", "torch")
        },
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


def digests_of(export: Path) -> dict[str, str]:
    """Digest of every file of an export, by its path in it."""
    files = sorted(export.rglob("*"))
    return {
        file.relative_to(export).as_posix(): sha256_of_file(file)
        for file in files
        if file.is_file() and file.name != DIGESTS_FILE
    }


def is_intact(export: Path) -> bool:
    """Whether a cached export is there and is what was written."""
    try:
        stored = json.loads((export / DIGESTS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(stored == digests_of(export))


def _run_builder(base: Base, profile: TargetProfile, out: Path, cache: Path) -> None:
    options = [f"{key}={value}" for key, value in builder_options(profile).items()]
    command = [
        *(sys.executable, "-m", "edgekit.building.model_builder"),
        *("-i", os.fspath(base.path), "-o", os.fspath(out)),
        *("-p", profile.precision, "-e", profile.builder, "-c", os.fspath(cache)),
        *("--extra_options", *options),
    ]
    environment = os.environ | {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env=environment,
        check=False,
    )
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise BuildError(
            f"the model builder failed on base '{base.name}' (exit {done.returncode})",
            problems=lines[-6:],
            hint="To see all of it, run: " + shlex.join(command),
        )
