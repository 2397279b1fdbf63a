"""Read a LoRA adapter in PEFT's directory layout, whoever trained it, and refuse what is inexact.

Everything wrong with an adapter is collected first and raised at once.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.adapters.peft_checks import (
    CONFIG_FILE,
    binding_problems,
    config_problems,
    number_problems,
    record_problems,
    recorded_fingerprint,
    target_problems,
)
from edgekit.adapters.peft_checks import RECORD_FILE as RECORD_FILE
from edgekit.adapters.peft_rules import pattern_value
from edgekit.bases import Base
from edgekit.errors import PeftAdapterError
from edgekit_runtime.digests import sha256_of_bytes, sha256_of_file

WEIGHTS_FILE = "adapter_model.safetensors"

_TENSOR = re.compile(r"^base_model\.model\.(?P<module>.+)\.lora_(?P<half>[AB])\.weight$")
_FLOATS = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
_OTHERS = {"F64": "float64", "I8": "int8", "I32": "int32", "I64": "int64"}

Array = npt.NDArray[np.float32]
Shapes = Mapping[str, tuple[int, int]]

_HIGH_RANK = "Train it with a smaller r, or build with adapters.max_rank of your own profile."


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
    path: Path,
    base: Base,
    *,
    name: str,
    max_rank: int,
    target: str = "",
    assume_base: bool = False,
    shapes: Shapes | None = None,
) -> PeftAdapter:
    """Read and check an adapter against a base.

    Args:
        path: Directory with ``adapter_config.json`` and ``adapter_model.safetensors``.
        base: The base that it must fit.
        name: What messages call it.
        max_rank: Largest rank that the target takes.
        target: What messages call the target; nothing where there is none.
        assume_base: Accept an adapter whose recorded base name contradicts.
        shapes: Shape (out, in) of each of the base's decoder linears, by module path; read from
            its weight files by default.

    Raises:
        PeftAdapterError: With every problem.
    """
    if not path.is_dir():
        raise PeftAdapterError(
            f"adapter '{name}': there is no directory '{path}'",
            hint="Point at the directory that PeftModel.save_pretrained wrote.",
        )
    problems: list[str] = []
    config = _read_json(path / CONFIG_FILE, problems)
    record = _read_json(path / RECORD_FILE, problems) if (path / RECORD_FILE).exists() else {}
    tensors = _read_tensors(path / WEIGHTS_FILE, problems)
    modules: dict[str, LoraPair] = {}
    is_too_large = False
    if config is not None:
        problems += config_problems(config)
        problems += record_problems(record or {})
        problems += binding_problems(config, record or {}, base, assume_base=assume_base)
        shapes = base_linear_shapes(base.path) if shapes is None else shapes
        modules = _modules(config, tensors, shapes, problems)
        ranks = (a.shape[0] for key, a in tensors.items() if ".lora_A." in key and a.ndim == 2)
        largest = max(ranks, default=0)
        if is_too_large := largest > max_rank:
            taker = f"target '{target}'" if target else "the base"
            problems.append(
                f"adapter '{name}' has rank {largest}, {taker} takes at most {max_rank}"
            )
    if problems or config is None or record is None:
        raise PeftAdapterError(
            f"adapter '{name}' does not fit base '{base.name}'",
            problems=problems,
            hint=_HIGH_RANK
            if is_too_large and len(problems) == 1
            else "Retrain it against this base, or choose another base in the recipe.",
        )
    return PeftAdapter(
        path=path,
        config=config,
        modules=modules,
        record=record,
        digest=sha256_of_bytes(
            f"{sha256_of_file(path / CONFIG_FILE)} {sha256_of_file(path / WEIGHTS_FILE)}".encode()
        ),
        binding="recorded" if recorded_fingerprint(record) == base.fingerprint else "assumed",
    )


def check_tensors(path: Path) -> list[str]:
    """What is wrong with an adapter's weight file, whatever its tensors are for: types, NaN."""
    problems: list[str] = []
    _read_tensors(path / WEIGHTS_FILE, problems)
    return problems


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


def _read_json(path: Path, problems: list[str]) -> dict[str, Any] | None:
    """A JSON object, or None and a problem."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        problems.append(f"{path.name}: missing; point at what PeftModel.save_pretrained wrote")
    except (OSError, ValueError, RecursionError) as err:
        problems.append(f"{path.name}: cannot be read: {err}")
    else:
        if isinstance(value, dict):
            return value
        problems.append(f"{path.name}: is no JSON object")
    return None


def _read_tensors(path: Path, problems: list[str]) -> dict[str, Array]:
    """Every tensor as float32; integers and float64 are no LoRA that PEFT writes."""
    from safetensors import SafetensorError, deserialize

    if not path.is_file():
        pickled = path.with_name("adapter_model.bin").is_file()
        note = (
            "; only a pickled adapter_model.bin is there, which is not loaded for safety: save "
            "it again with safe_serialization=True"
        )
        problems.append(f"{path.name}: missing{note if pickled else ''}")
        return {}
    try:
        stored = deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    except (SafetensorError, OSError) as err:
        problems.append(f"{path.name}: cannot be read: {err}")
        return {}
    if not stored:
        problems.append(f"{path.name}: holds no tensors")
    tensors: dict[str, Array] = {}
    for key, tensor in stored:
        if (dtype := tensor["dtype"]) in _FLOATS:
            tensors[key] = array = _as_float32(tensor)
            if bad := int(array.size - np.isfinite(array).sum()):
                problems.append(f"{key}: {bad} of {array.size} values are NaN or infinite")
        else:
            kind = _OTHERS.get(dtype, dtype)
            problems.append(f"{key}: expected float32, float16 or bfloat16, got {kind}")
            tensors[key] = np.zeros(tensor["shape"], np.float32)  # its shape is checked too
    return tensors


def _as_float32(tensor: Mapping[str, Any]) -> Array:
    """A stored tensor; a bfloat16 is the upper half of a float32 (NumPy has no such type)."""
    values = np.frombuffer(tensor["data"], _FLOATS[tensor["dtype"]]).reshape(tensor["shape"])
    if tensor["dtype"] == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def _modules(
    config: Mapping[str, Any],
    tensors: Mapping[str, Array],
    shapes: Shapes,
    problems: list[str],
) -> dict[str, LoraPair]:
    """Match A with B for every module, check the shapes, fold the scaling into B."""
    halves: dict[str, dict[str, Array]] = {}
    for key, tensor in tensors.items():
        match = _TENSOR.match(key)
        if not match and _is_told_of(key, config):
            continue
        if not match:
            problems.append(f"{key}: no LoRA tensor of a linear layer")
        elif match["module"] not in shapes:
            problems.append(f"{key}: the base has no decoder linear '{match['module']}'")
        else:
            halves.setdefault(match["module"], {})[match["half"]] = tensor
    if halves:
        problems += target_problems(config, halves, shapes)
    if wrong_numbers := list(number_problems(config)):
        problems += wrong_numbers
        return {}
    pairs: dict[str, LoraPair] = {}
    for module, found in sorted(halves.items()):
        if wrong := _pair_problems(module, found, config, shapes[module]):
            problems += wrong
        else:
            with np.errstate(over="ignore"):
                scaled = found["B"] * np.float32(_scaling(module, config))
            if np.isfinite(scaled).all():
                pairs[module] = LoraPair(found["A"], scaled)
            else:
                problems.append(f"{module}: lora_B times its scaling is too large for float32")
    return pairs


def _is_told_of(key: str, config: Mapping[str, Any]) -> bool:
    """Whether the config's own problem says already that this tensor fits no socket."""
    if config.get("peft_type") != "LORA" or "lora_magnitude_vector" in key:
        return config.get("peft_type") != "LORA" or bool(config.get("use_dora"))
    return any(f".{name}." in key for name in config.get("modules_to_save") or [])


def _pair_problems(
    module: str,
    halves: Mapping[str, Array],
    config: Mapping[str, Any],
    shape: tuple[int, int],
) -> list[str]:
    """Everything wrong with one module's A and B."""
    for half in "AB":
        if half not in halves:
            return [f"{module}.lora_{half}: missing, its other half is there"]
    out, into = shape
    r = _expected_r(module, config)
    return [
        f"{module}.lora_{half}: expected shape {expected}, got {halves[half].shape}"
        for half, expected in (("A", (r, into)), ("B", (out, r)))
        if halves[half].shape != expected
    ]


def _expected_r(module: str, config: Mapping[str, Any]) -> int:
    return int(pattern_value(config.get("rank_pattern"), module, config.get("r", 8)))


def _scaling(module: str, config: Mapping[str, Any]) -> float:
    """PEFT's ``lora_alpha / r``, or ``lora_alpha / sqrt(r)`` for rsLoRA."""
    r = _expected_r(module, config)
    alpha = float(pattern_value(config.get("alpha_pattern"), module, config.get("lora_alpha", 8)))
    return alpha / math.sqrt(r) if config.get("use_rslora") else alpha / r
