"""Read a LoRA adapter in PEFT's directory layout, whoever trained it, and refuse what is inexact.

Everything wrong with an adapter is collected first and raised at once.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.bases import EMBEDDED, Base
from edgekit.errors import PeftAdapterError
from edgekit_runtime.digests import sha256_of_bytes, sha256_of_file

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
RECORD_FILE = "edgekit.json"

_TENSOR = re.compile(r"^base_model\.model\.(?P<module>.+)\.lora_(?P<half>[AB])\.weight$")
_FLOATS = {"torch.float32", "torch.float16", "torch.bfloat16"}

# Fields of PEFT's LoraConfig that do not change what the trained A and B compute, or that this
# module reads itself. Any other field that is set is refused by name: exact or not at all.
_HARMLESS = {
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config",
    "ensure_weight_tying", "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode",
    "init_lora_weights", "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha",
    "lora_dropout", "lora_ga_config", "megatron_core", "modules_to_save", "peft_type",
    "peft_version", "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config",
    "target_modules", "task_type", "use_dora", "use_rslora",
}  # fmt: skip
# Initializations that subtract something from the base: their A and B fit the changed base only.
_BASE_CHANGING_INIT = ("pissa", "olora", "corda", "loftq", "lora_ga")

_WAYS_OUT = {
    "use_dora": "DoRA rescales the merged weight's columns; a LoRA socket cannot express it "
    "exactly. Train with use_dora=False, or merge it into the base and build that.",
    "modules_to_save": "whole retrained modules do not fit a socket. Train without "
    "modules_to_save, or merge into the base and build that.",
    "bias": "trained biases do not fit a socket. Train with bias='none'.",
}

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LoraPair:
    """One adapted projection, in PEFT's orientation.

    Attributes:
        a: float32 (r, in).
        b: float32 (out, r), the scaling already folded in.
    """

    a: Array
    b: Array


@dataclass(frozen=True, kw_only=True, slots=True)
class PeftAdapter:
    """A checked PEFT LoRA.

    Attributes:
        modules: Module path (``model.layers.0.self_attn.q_proj``) to its A and scaled B.
        record: What ``edgekit train`` wrote beside it (``edgekit.json``), or an empty mapping.
        digest: sha256 over config and weights.
        binding: ``recorded`` if the adapter names the base's fingerprint, else ``assumed``.
    """

    path: Path
    config: Mapping[str, Any]
    modules: Mapping[str, LoraPair]
    record: Mapping[str, Any]
    digest: str
    binding: str

    @property
    def target_modules(self) -> tuple[str, ...]:
        """Sorted short names of the adapted projections, e.g. ``q_proj``."""
        return tuple(sorted({module.rpartition(".")[2] for module in self.modules}))

    @property
    def max_r(self) -> int:
        """Largest rank of any projection."""
        return max(int(pair.a.shape[0]) for pair in self.modules.values())


def read_peft_adapter(
    path: Path, base: Base, *, name: str, max_rank: int, assume_base: bool = False
) -> PeftAdapter:
    """Read and check an adapter against a base.

    Args:
        path: Directory with ``adapter_config.json`` and ``adapter_model.safetensors``.
        base: The base that it must fit.
        name: What messages call it.
        max_rank: Largest rank that the target takes.
        assume_base: Accept an adapter whose recorded base name contradicts.

    Raises:
        PeftAdapterError: With every problem.
    """
    config = _read_json(path / CONFIG_FILE, name)
    weights_file = path / WEIGHTS_FILE
    if not weights_file.is_file():
        pickled = (path / "adapter_model.bin").is_file()
        raise PeftAdapterError(
            f"adapter '{name}': {weights_file} is missing",
            hint="Only a pickled adapter_model.bin is there, which is not loaded for safety; save "
            "it again with safe_serialization=True."
            if pickled
            else "Point at the directory that PeftModel.save_pretrained wrote.",
        )
    record = _read_json(path / RECORD_FILE, name) if (path / RECORD_FILE).is_file() else {}
    problems = [*_config_problems(config), *_binding_problems(config, record, base, assume_base)]
    shapes = base_linear_shapes(base.path)
    tensors, tensor_problems = _read_tensors(weights_file)
    problems += tensor_problems
    modules, pair_problems = _pairs(tensors, config, shapes, max_rank)
    problems += pair_problems
    if problems:
        raise PeftAdapterError(
            f"adapter '{name}' does not fit base '{base.name}'",
            problems=problems,
            hint="Retrain it against this base, or choose another base in the recipe.",
        )
    return PeftAdapter(
        path=path,
        config=config,
        modules=modules,
        record=record,
        digest=sha256_of_bytes(
            f"{sha256_of_file(path / CONFIG_FILE)} {sha256_of_file(weights_file)}".encode()
        ),
        binding="recorded" if _recorded_fingerprint(record) else "assumed",
    )


def base_linear_shapes(path: Path) -> dict[str, tuple[int, int]]:
    """Shapes (out, in) of a base's decoder linears by module path, from the files' headers."""
    from safetensors import safe_open

    shapes: dict[str, tuple[int, int]] = {}
    for file in sorted(path.glob("*.safetensors")):
        with safe_open(file, framework="np") as tensors:
            for key in tensors.keys():  # noqa: SIM118 - safe_open is no mapping
                shape = tuple(tensors.get_slice(key).get_shape())
                if ".layers." in key and key.endswith(".weight") and len(shape) == 2:
                    shapes[key.removesuffix(".weight")] = shape
    return shapes


def _read_json(path: Path, name: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise PeftAdapterError(
            f"adapter '{name}': cannot read {path}: {err}",
            hint="Point at the directory that PeftModel.save_pretrained wrote.",
        ) from err
    if not isinstance(value, dict):
        raise PeftAdapterError(f"adapter '{name}': {path} is no JSON object")
    return value


def _config_problems(config: Mapping[str, Any]) -> Iterable[str]:
    """Settings that sockets cannot express exactly."""
    kind = config.get("peft_type")
    if kind != "LORA":
        yield f"{CONFIG_FILE}: peft_type: expected LORA, got {kind}"
    for key, reason in _WAYS_OUT.items():
        value = config.get(key)
        if value and value != "none":
            yield f"{CONFIG_FILE}: {key}={value!r}: {reason}"
    init = str(config.get("init_lora_weights")).lower()
    if init.startswith(_BASE_CHANGING_INIT):
        yield (
            f"{CONFIG_FILE}: init_lora_weights={init!r} changes the base's weights; convert it "
            "with save_pretrained(…, path_initial_model_for_weight_conversion=…) first"
        )
    for key, value in sorted(config.items()):
        if key not in _HARMLESS and value not in (None, False, [], {}, ""):
            yield f"{CONFIG_FILE}: {key}={value!r} is not supported: it changes what LoRA computes"


def _recorded_fingerprint(record: Mapping[str, Any]) -> str | None:
    base = record.get("base")
    return base.get("fingerprint") if isinstance(base, dict) else None


def _binding_problems(
    config: Mapping[str, Any], record: Mapping[str, Any], base: Base, assume_base: bool
) -> Iterable[str]:
    """Does the adapter say that it was made for another base?"""
    recorded = _recorded_fingerprint(record)
    if recorded:
        if recorded != base.fingerprint:
            its = record["base"].get("name", "?")
            yield (
                f"trained on base '{its}' with fingerprint {recorded}, "
                f"this is '{base.name}' with {base.fingerprint}"
            )
        return
    said = str(config.get("base_model_name_or_path") or "")
    if assume_base or not said or _same_base(said, base):
        return
    note = ""
    if base.name in EMBEDDED and said == EMBEDDED[base.name].hub_id:
        note = f" ('{base.name}' holds dequantized weights, '{said}' the Hub's float ones)"
    yield (
        f"{CONFIG_FILE}: base_model_name_or_path: expected '{base.name}', got '{said}'{note}; "
        "if they are the same weights, say so with --assume-base"
    )


def _same_base(said: str, base: Base) -> bool:
    """A matching name, or a path, which says nothing on another machine."""
    if said.lower() == base.name.lower():
        return True
    if Path(said).is_absolute() or said.startswith((".", "~")) or Path(said).exists():
        return True
    return base.name not in EMBEDDED and Path(said).name.lower() == base.path.name.lower()


def _read_tensors(path: Path) -> tuple[dict[str, Array], list[str]]:
    """Every tensor as float32; integers and float64 are no LoRA that PEFT writes."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        stored = load_file(path)
    except (SafetensorError, OSError) as err:
        return {}, [f"{path.name}: cannot be read: {err}"]
    problems = [
        f"{key}: expected float32, float16 or bfloat16, got {str(tensor.dtype)[6:]}"
        for key, tensor in stored.items()
        if str(tensor.dtype) not in _FLOATS
    ]
    if not stored:
        problems.append(f"{path.name}: holds no tensors")
    tensors = {key: tensor.to(torch.float32).numpy() for key, tensor in stored.items()}
    for key, array in tensors.items():
        if bad := int(array.size - np.isfinite(array).sum()):
            problems.append(f"{key}: {bad} of {array.size} values are NaN or infinite")
    return tensors, problems


def _pairs(
    tensors: Mapping[str, Array],
    config: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, int]],
    max_rank: int,
) -> tuple[dict[str, LoraPair], list[str]]:
    """Match A with B for every module, check the shapes, fold the scaling into B."""
    problems: list[str] = []
    halves: dict[str, dict[str, Array]] = {}
    for key, tensor in tensors.items():
        match = _TENSOR.match(key)
        if not match:
            problems.append(f"{key}: no LoRA tensor of a linear layer")
        elif match["module"] not in shapes:
            problems.append(f"{key}: the base has no decoder linear '{match['module']}'")
        else:
            halves.setdefault(match["module"], {})[match["half"]] = tensor
    pairs: dict[str, LoraPair] = {}
    for module, found in sorted(halves.items()):
        wrong = _pair_problems(module, found, config, shapes[module], max_rank)
        problems += wrong
        if not wrong:
            scaled = found["B"] * np.float32(_scaling(module, config))
            pairs[module] = LoraPair(found["A"], scaled)
    return pairs, problems


def _pair_problems(
    module: str,
    halves: Mapping[str, Array],
    config: Mapping[str, Any],
    shape: tuple[int, int],
    max_rank: int,
) -> list[str]:
    """Everything wrong with one module's A and B."""
    for half in "AB":
        if half not in halves:
            return [f"{module}.lora_{half}: missing, its other half is there"]
    out, into = shape
    r = _expected_r(module, config)
    problems = [
        f"{module}.lora_{half}: expected shape {expected}, got {halves[half].shape}"
        for half, expected in (("A", (r, into)), ("B", (out, r)))
        if halves[half].shape != expected
    ]
    if r > max_rank:
        problems.append(f"{module}: rank {r} is over the target's max_rank {max_rank}")
    return problems


def _expected_r(module: str, config: Mapping[str, Any]) -> int:
    return int(_pattern_value(config.get("rank_pattern"), module, config.get("r", 8)))


def _scaling(module: str, config: Mapping[str, Any]) -> float:
    """PEFT's ``lora_alpha / r``, or ``lora_alpha / sqrt(r)`` for rsLoRA."""
    r = _expected_r(module, config)
    alpha = float(_pattern_value(config.get("alpha_pattern"), module, config.get("lora_alpha", 8)))
    return alpha / math.sqrt(r) if config.get("use_rslora") else alpha / r


def _pattern_value(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """PEFT's own rule for ``rank_pattern`` and ``alpha_pattern``."""
    from peft.utils.other import get_pattern_key

    patterns = patterns or {}
    return patterns.get(get_pattern_key(patterns.keys(), module), default)
