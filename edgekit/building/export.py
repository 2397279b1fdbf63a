"""Export a base to int4 ONNX with onnxruntime-genai's model builder, once per quantization.

The builder runs in a child process with pinned options, never with ``adapter_path`` (that would
bake the adapter in). Its output is kept in a content-addressed cache.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from edgekit.bases import Base, default_cache_dir
from edgekit.errors import BuildError
from edgekit.targets import TargetProfile

# Architectures that are built and checked in edgekit's tests; the builder knows more.
SUPPORTED_ARCHITECTURES = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "GemmaForCausalLM",
    "Gemma2ForCausalLM",
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
    exports = (cache_dir or default_cache_dir()) / "exports"
    target = exports / _export_key(base, profile)
    if (target / "genai_config.json").is_file():
        on_message("int4 graph found in the cache")
        return target
    on_message("exporting the base to int4 ONNX (model builder)")
    exports.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=exports, prefix=".export-") as temporary:
        out = Path(temporary) / "model"
        _run_builder(base, profile, out, Path(temporary) / "cache")
        shutil.rmtree(target, ignore_errors=True)
        out.replace(target)
    return target


def refuse_unsupported(base: Base) -> None:
    """Raise if a base's architecture is none that edgekit builds and checks."""
    if base.architecture not in SUPPORTED_ARCHITECTURES:
        raise BuildError(
            f"base '{base.name}' has the architecture {base.architecture}, "
            "which cannot be built yet",
            hint=f"Supported: {', '.join(SUPPORTED_ARCHITECTURES)}.",
        )


def builder_options(profile: TargetProfile) -> dict[str, str]:
    """The model builder's ``--extra_options`` for a profile, all pinned."""
    quantization = profile.quantization
    options = {
        "accuracy_level": str(quantization.accuracy_level),
        "algo_config": quantization.algorithm,
        "block_size": str(quantization.block_size),
        "is_symmetric": str(quantization.is_symmetric).lower(),
        "fuse_mlp_gate_up": "true",
    }
    if quantization.embedding:
        options["op_types_to_quantize"] = "MatMul/Gather"
    return options


def _export_key(base: Base, profile: TargetProfile) -> str:
    """Everything that the exported bytes depend on."""
    facts = {
        "base": base.fingerprint,
        "builder": profile.builder,
        "precision": profile.precision,
        "options": builder_options(profile),
        "versions": {
            name: version(name)
            for name in ("onnxruntime-genai", "onnxruntime", "onnx-ir", "transformers", "torch")
        },
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


def _run_builder(base: Base, profile: TargetProfile, out: Path, cache: Path) -> None:
    options = [f"{key}={value}" for key, value in builder_options(profile).items()]
    command = [
        *(sys.executable, "-m", "onnxruntime_genai.models.builder"),
        *("-i", os.fspath(base.path), "-o", os.fspath(out)),
        *("-p", profile.precision, "-e", profile.builder, "-c", os.fspath(cache)),
        *("--extra_options", *options),
    ]
    environment = os.environ | {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
        raise BuildError(
            f"the model builder failed on base '{base.name}' (exit {done.returncode})",
            problems=lines[-6:],
            hint="To see all of it, run: " + " ".join(command[1:]),
        )
