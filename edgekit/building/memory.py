"""The memory model: what a target needs on its device, and what a bundle takes on the disk.

Every term is counted from the base's sizes and the profile. The few constants that are measured
say from what; ``tests/real/test_memory.py`` holds the sum to 15 % of a real process.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import numpy as np

from edgekit.adapters.peft_dir import LoraPair
from edgekit.building.base_shape import BaseShape
from edgekit.quantizing.weights import (
    EMBEDDING,
    block_size_of,
    has_zero_points,
    narrow_bytes,
    widths,
)
from edgekit.targets import TargetProfile
from edgekit_runtime.bundle import DEFAULT_ADAPTER_BUDGET_BYTES
from edgekit_runtime.decoder import PREFILL_CHUNK_TOKENS
from edgekit_runtime.static_graph import QNN

CPU = "CPUExecutionProvider"

# Resident memory of a process on a tiny base of two layers: the interpreter with numpy and genai
# (40 MB), the libraries' pages and an empty session. Linux x86-64, Python 3.11, genai 0.18.
_PROCESS_BYTES = 66_000_000
# Nodes, small constants and the allocator's rounding; (30-layer - 2-layer process) / 28, and the
# same from 12 layers.
_LAYER_BYTES = 500_000
# A parsed tokenizer over its tokenizer.json: 6.6 times for SmolLM2's, 5.8 for Gemma 3's.
_TOKENIZER_RATIO = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryNeed:
    """What one target needs on its device, in bytes.

    Attributes:
        weights_bytes: As the execution provider holds them.
        cache_bytes: Keys and values of the whole context.
        adapter_bytes: All adapters of the bundle, at most what the runtime keeps loaded.
        activation_bytes: What one piece of a prompt computes with.
        runtime_bytes: Interpreter, libraries, tokenizer, graph. Counted where the CPU computes;
            a GPU's budget is its own memory, and its provider's share of that is not known here.
    """

    weights_bytes: int
    cache_bytes: int
    adapter_bytes: int
    activation_bytes: int
    runtime_bytes: int

    @property
    def total_bytes(self) -> int:
        """The sum."""
        return sum(asdict(self).values())

    def to_dict(self) -> dict[str, int]:
        """The JSON form."""
        return asdict(self) | {"total_bytes": self.total_bytes}


def memory_need(
    shape: BaseShape, profile: TargetProfile, adapters: Iterable[Mapping[str, LoraPair]] = ()
) -> MemoryNeed:
    """Say what a target needs on its device.

    Args:
        shape: The base's sizes.
        profile: The target.
        adapters: Module path to A and B, for each adapter.
    """
    sizes = [adapter_bytes(modules, shape, profile) for modules in adapters]
    is_cpu = profile.execution_provider == CPU
    weights_bytes = _packed_weight_bytes if is_cpu else disk_bytes
    return MemoryNeed(
        weights_bytes=weights_bytes(shape, profile),
        cache_bytes=_cache_bytes(shape, profile),
        # The runtime unloads what was not used for long, but never the one in use.
        adapter_bytes=min(sum(sizes), max([DEFAULT_ADAPTER_BUDGET_BYTES, *sizes])),
        activation_bytes=_activation_bytes(shape, profile, has_adapters=bool(sizes)),
        runtime_bytes=_runtime_bytes(shape) if is_cpu else 0,
    )


def context_length(shape: BaseShape, profile: TargetProfile) -> int:
    """The base's own limit, capped by the profile, in tokens."""
    return min(shape.max_positions or profile.context_length, profile.context_length)


def disk_bytes(shape: BaseShape, profile: TargetProfile) -> int:
    """Size of a target's weight files: packed values, scales, embedding, rotary tables.

    Compiled graphs have no weights in common: the one for prompts and the one for single tokens
    each hold the layers (115 MB each of SmolLM2-135M at 8 bits, compiled for QNN).
    """
    if shape.stored_bytes is not None:
        return shape.stored_bytes
    quantization = profile.quantization
    number = _number_bytes(profile)
    if profile.builder == "static":
        # The tables stay on the host, with float32 scales.
        copies = 2 if profile.execution_provider == QNN else 1
        layers = _linear_blocks(shape, profile, number)
        table = _table_blocks(shape, quantization.head_bits, profile, 4)
        return copies * layers + table * (1 if shape.is_tied else 2)
    size = _linear_blocks(shape, profile, number)
    size += _table_blocks(shape, quantization.head_bits, profile, number)
    if _has_float_table(shape, profile):
        size += shape.n_table_weights * number
    elif not shape.is_tied:
        size += _table_blocks(shape, quantization.bits, profile, number)
    return size + shape.max_positions * shape.head_size * number


def adapter_bytes(modules: Mapping[str, LoraPair], shape: BaseShape, profile: TargetProfile) -> int:
    """Size of a converted adapter: A's side by side, B's on a block diagonal, in every socket.

    Args:
        modules: Module path to A (r, in) and B (out, r).
        shape: The base's sizes.
        profile: Its builder decides what is packed, its mechanism whether ranks are padded.
    """
    widths: dict[str, int] = {}
    for module, (out, _) in shape.linears.items():
        socket = _socket_of(module, profile)
        widths[socket] = widths.get(socket, 0) + out
    elements = 0
    for module, pair in modules.items():
        r, into = pair.a.shape
        if profile.adapters.mechanism == "static_inputs":
            r = profile.adapters.max_rank
        elements += r * (into + widths[_socket_of(module, profile)])
    return elements * _number_bytes(profile)


def adapter_layout(profile: TargetProfile) -> tuple[object, ...]:
    """What a converted adapter depends on: targets of one layout share its file."""
    packs_mlp = profile.builder != "static"
    packs_qkv = profile.builder not in {"dml", "static"}
    return (profile.io_dtype, profile.adapters.mechanism, packs_qkv, packs_mlp)


def _socket_of(module: str, profile: TargetProfile) -> str:
    """The graph's linear that holds a projection: DirectML's and static graphs pack no q/k/v."""
    block, _, projection = module.rpartition(".")
    *_, packs_qkv, packs_mlp = adapter_layout(profile)
    if projection in {"gate_proj", "up_proj"} and packs_mlp:
        return f"{block}.gate_up_proj"
    if projection in {"q_proj", "k_proj", "v_proj"} and packs_qkv:
        return f"{block}.qkv_proj"
    return module


def _packed_weight_bytes(shape: BaseShape, profile: TargetProfile) -> int:
    """What the CPU provider holds: every matrix in the layout of its kernel, in private memory.

    With int8 activations that is the values, a float32 scale and a float32 sum for each block;
    without, the values (their scales stay in the mapped file). The file's pages of packed weights
    are given back; those of the embedding stay, and so do the rotary rows in use.

    Source: ONNX Runtime's MLAS, MlasQNBitGemmPackQuantBDataSize (x86-64).
    """
    quantization = profile.quantization
    per_block = 8 if quantization.accuracy_level == 4 else 4
    if shape.stored_bytes is not None:
        return shape.stored_bytes
    packed = _linear_blocks(shape, profile, per_block)
    packed += _table_blocks(shape, quantization.head_bits, profile, per_block)
    rotary = context_length(shape, profile) * shape.head_size * 4
    if _has_float_table(shape, profile):
        return packed + rotary  # of a float table, only the rows that are looked up are read
    bits = quantization.head_bits if shape.is_tied else quantization.bits
    return packed + _table_blocks(shape, bits, profile, 4) + rotary


def _linear_blocks(shape: BaseShape, profile: TargetProfile, per_block_bytes: int) -> int:
    """Size of the layers' weights, and all that 8 bits for the most sensitive may add."""
    bits = widths(
        {f"{module}.weight": out * into for module, (out, into) in shape.linears.items()},
        profile.quantization,
    )
    options = profile.quantization
    budget = int(options.eight_bit_budget * shape.n_weights * narrow_bytes(options))
    return budget + sum(
        _blocks(f"{module}.weight", (out, into), bits[f"{module}.weight"], profile, per_block_bytes)
        for module, (out, into) in shape.linears.items()
    )


def _has_float_table(shape: BaseShape, profile: TargetProfile) -> bool:
    """Whether the embedding is not quantized: the builder's k_quant knows matmuls only."""
    quantization = profile.quantization
    is_k_quant = quantization.algorithm == "k_quant" and not shape.is_tied
    return is_k_quant or not quantization.embedding


def _table_blocks(shape: BaseShape, bits: int, profile: TargetProfile, per_block_bytes: int) -> int:
    """Size of a quantized embedding or head."""
    return _blocks(EMBEDDING, (shape.vocab_size, shape.hidden_size), bits, profile, per_block_bytes)


def _blocks(
    name: str, out_in: tuple[int, int], bits: int, profile: TargetProfile, per_block_bytes: int
) -> int:
    """Size of a quantized weight with what stands beside each block; zero points beside a row."""
    out, into = out_in
    # Static graphs have one size of blocks.
    as_narrow = 4 if profile.builder == "static" else bits
    size = block_size_of(into, as_narrow, profile.quantization)
    is_k_quant = profile.quantization.algorithm == "k_quant" and bits == 4
    has_zeros = is_k_quant or has_zero_points(name, into, bits, profile.quantization)
    zeros = out * -(-into // size // 2) if has_zeros else 0
    return out * into * bits // 8 + out * into // size * per_block_bytes + zeros


def _cache_bytes(shape: BaseShape, profile: TargetProfile) -> int:
    per_token = 2 * shape.n_layers * shape.n_key_value_heads * shape.head_size
    return per_token * _number_bytes(profile) * context_length(shape, profile)


def _activation_bytes(shape: BaseShape, profile: TargetProfile, *, has_adapters: bool) -> int:
    """The widest place of a layer, for one piece of a prompt, and one row of logits.

    In the feed-forward part gate and up (twice as wide), both halves and their product live
    together, beside the residual, its norm and the next one; a socket adds its own gate and up.
    """
    width = 5 * shape.mlp_size + 4 * shape.hidden_size
    if has_adapters:
        width += 2 * shape.mlp_size + shape.hidden_size
    rows = PREFILL_CHUNK_TOKENS * width * _number_bytes(profile)
    return rows + 2 * shape.vocab_size * 4  # logits as computed, and as the sampler changes them


def _runtime_bytes(shape: BaseShape) -> int:
    structure = _LAYER_BYTES * shape.n_layers
    return _PROCESS_BYTES + structure + _TOKENIZER_RATIO * shape.tokenizer_bytes


def _number_bytes(profile: TargetProfile) -> int:
    return int(np.dtype(profile.io_dtype).itemsize)


def show_bytes(n_bytes: int) -> str:
    """A size for people, in the powers of two of memory budgets: ``1.25 GiB``, ``93.1 MiB``."""
    if abs(n_bytes) >= 1 << 30:
        return f"{n_bytes / (1 << 30):.2f} GiB"
    return f"{n_bytes / (1 << 20):.1f} MiB"
