"""Does a base fit a target and this machine? Asked before any work is done."""

import shutil
from pathlib import Path
from typing import Any

from edgekit.adapters.peft_dir import PeftAdapter
from edgekit.bases import Base, default_cache_dir
from edgekit.errors import BaseModelError, BuildError
from edgekit.quantizing.weights import EMBEDDING, budget_bytes, weight_sizes, widths
from edgekit.quiet import quiet_libraries
from edgekit.targets import TargetProfile

_GIB = 1 << 30


def check_fit(
    base: Base,
    profile: TargetProfile,
    adapters: list[PeftAdapter],
    output: Path,
    *,
    parity: bool,
) -> None:
    """Refuse a base that cannot fit the target's memory or this machine's disk and memory.

    Raises:
        BuildError: With every shortage, in GiB.
    """
    import psutil

    weights = weight_bytes(base, profile)
    cache = key_value_cache_bytes(base, profile)
    plugged = sum(
        4 * (pair.a.size + 2 * pair.b.size) for a in adapters for pair in a.modules.values()
    )
    problems = []
    needed = weights + cache + plugged
    if needed > profile.memory_budget_bytes:
        problems.append(
            f"target '{profile.name}': needs {needed / _GIB:.2f} GiB "
            f"(weights {weights / _GIB:.2f}, key-value cache for {profile.context_length} tokens "
            f"{cache / _GIB:.2f}, adapters {plugged / _GIB:.2f}), its memory_budget_bytes is "
            f"{profile.memory_budget_bytes / _GIB:.2f} GiB"
        )
    float_bytes = sum(file.stat().st_size for file in base.path.glob("*.safetensors"))
    disk_needed = 3 * weights + plugged
    for place in (output, default_cache_dir()):
        free = shutil.disk_usage(_existing_parent(place)).free
        if free < disk_needed:
            problems.append(
                f"disk: needs {disk_needed / _GIB:.2f} GiB at '{place}', "
                f"{free / _GIB:.2f} GiB are free"
            )
    memory_needed = 2 * float_bytes + weights if parity else float_bytes + weights
    available = psutil.virtual_memory().available
    if available < memory_needed:
        problems.append(
            f"memory: needs about {memory_needed / _GIB:.2f} GiB to build and check, "
            f"{available / _GIB:.2f} GiB are available"
        )
    if problems:
        raise BuildError(
            f"base '{base.name}' does not fit",
            problems=problems,
            hint="Take a smaller base, a shorter context_length in your own target profile, "
            "or a machine with more room.",
        )


def weight_bytes(base: Base, profile: TargetProfile) -> int:
    """Size of the quantized weights: packed values and one float32 scale a block."""
    quantization = profile.quantization
    scale = 4 / quantization.block_size
    sizes = weight_sizes(base)
    bits = widths(sizes, quantization)
    if _load_config(base).tie_word_embeddings:
        bits.pop(EMBEDDING, None)
    size = sum(sizes[name] * (width / 8 + scale) for name, width in bits.items())
    return int(size + budget_bytes(sizes, quantization))


def key_value_cache_bytes(base: Base, profile: TargetProfile) -> int:
    """Size of the float32 key-value cache for the target's whole context."""
    from optimum.utils import NormalizedTextConfigWithGQA

    config = _load_config(base)
    sizes = NormalizedTextConfigWithGQA(config)
    head_size = getattr(config, "head_dim", None) or sizes.hidden_size // sizes.num_attention_heads
    elements = 2 * sizes.num_layers * sizes.num_key_value_heads * head_size
    return int(elements * 4 * profile.context_length)


def _load_config(base: Base) -> Any:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        with quiet_libraries():
            return AutoConfig.from_pretrained(base.path)
    except (OSError, ValueError, TypeError, StrictDataclassError) as err:
        raise BaseModelError(f"base '{base.name}': config.json makes no sense: {err}") from err


def _existing_parent(path: Path) -> Path:
    path = path.resolve()
    while not path.exists():
        path = path.parent
    return path
