"""The float weights of a base that are quantized, by their Hugging Face names."""

import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

import numpy as np

from edgekit.bases import Base
from edgekit.errors import BuildError
from edgekit.quantizing.blocks import Floats
from edgekit.quantizing.options import Quantization

HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"
_LAYER_WEIGHT = re.compile(r"^(?P<site>model\.layers\.\d+\.\w+)\.(?P<projection>\w+)\.weight$")
# Projections of one input, which a graph may pack into one matmul: they share their width.
_PACKED = {
    "q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "gate_up", "up_proj": "gate_up"
}  # fmt: skip


def weight_sizes(base: Base) -> dict[str, int]:
    """Elements of each weight: the layers' linears, the head (tied or not), the embedding."""
    shapes = dict(_shapes(base))
    sizes = {
        name: rows * columns
        for name, (rows, columns) in shapes.items()
        if name in {HEAD, EMBEDDING} or _LAYER_WEIGHT.match(name)
    }
    if EMBEDDING not in sizes:
        raise BuildError(f"base '{base.name}' has no {EMBEDDING}")
    return {HEAD: sizes[EMBEDDING]} | sizes


def has_own_head(base: Base) -> bool:
    """Whether the head is a weight of its own, not the embedding's."""
    return any(name == HEAD for name, _ in _shapes(base))


def site_of(name: str) -> str:
    """The matmul that a layer's weight may be packed into."""
    match = _LAYER_WEIGHT.match(name)
    if match is None:
        return name
    projection = match["projection"]
    return f"{match['site']}.{_PACKED.get(projection, projection)}"


def is_layer_weight(name: str) -> bool:
    """Whether a weight is a linear of a decoder layer."""
    return _LAYER_WEIGHT.match(name) is not None


def widths(
    sizes: Mapping[str, int], options: Quantization, sensitive_sites: Sequence[str] = ()
) -> dict[str, int]:
    """Bits of each weight.

    Args:
        sizes: From :func:`weight_sizes`.
        options: What was chosen.
        sensitive_sites: Sites that get 8 bits as well.

    Raises:
        BuildError: If a pattern of ``eight_bit`` fits no weight.
    """
    layers = [name for name in sizes if is_layer_weight(name)]
    wide = set(sensitive_sites)
    problems = []
    for pattern in options.eight_bit:
        hits = {site_of(name) for name in layers if _fits(name, pattern)}
        wide |= hits
        if not hits:
            problems.append(f"eight_bit: '{pattern}' fits no weight such as {layers[0]}")
    if problems:
        raise BuildError(
            "quantization names weights that the base does not have", problems=problems
        )
    bits: dict[str, int] = {name: 8 if site_of(name) in wide else options.bits for name in layers}
    bits[HEAD] = 8 if HEAD in wide else options.head_bits
    if options.embedding and EMBEDDING in sizes:
        bits[EMBEDDING] = options.bits
    return bits


def block_size_of(n_inputs: int, bits: int, options: Quantization) -> int:
    """Weights that share a scale, in a weight of so many inputs.

    Kernels want whole blocks: CUDA's for 8 bits compute nothing else.
    """
    size: int = options.block_size
    while bits == 8 and size < options.eight_bit_block_size and n_inputs % (2 * size) == 0:
        size *= 2
    return size


def has_zero_points(name: str, n_inputs: int, bits: int, options: Quantization) -> bool:
    """Whether a weight's blocks have zero points.

    Embeddings, and heads that they may be tied to, have none where a row has an odd number of
    blocks: there CUDA looks up a neighbour's zero point, and WebGPU refuses the graph.

    Source: ONNX Runtime's gather_block_quantized.cu and gather_block_quantized.cc (WebGPU), which
    take rows of 4-bit zero points as if they were not padded to whole bytes.
    """
    if options.is_symmetric or bits != 4:
        return False
    return name not in {HEAD, EMBEDDING} or n_inputs // options.block_size % 2 == 0


def budget_bytes(sizes: Mapping[str, int], options: Quantization) -> float:
    """What 8-bit weights may add to 4 bits everywhere."""
    stored = [name for name in sizes if name != EMBEDDING]
    return options.eight_bit_budget * sum(sizes[name] for name in stored) * narrow_bytes(options)


def narrow_bytes(options: Quantization) -> float:
    """Bytes of a 4-bit weight with its share of what 32 weights have in common.

    That is a float32 scale and, where blocks are not symmetric, half a byte of zero point.
    """
    return 4 / 8 + (4 if options.is_symmetric else 4.5) / 32


def widening_bytes(name: str, n_weights: int, n_inputs: int, options: Quantization) -> float:
    """What 8 bits instead of 4 add to a weight, float32 scales and zero points counted."""
    narrow, wide = (block_size_of(n_inputs, bits, options) for bits in (4, 8))
    of_block = 4.5 if has_zero_points(name, n_inputs, 4, options) else 4
    return n_weights * ((8 / 8 + 4 / wide) - (4 / 8 + of_block / narrow))


def float_weight(base: Base, name: str) -> Floats:
    """Read one weight; the head is the embedding where they are tied.

    Raises:
        BuildError: If the base has no such weight.
    """
    from safetensors import safe_open

    for stored in (name, EMBEDDING) if name == HEAD else (name,):
        for file in sorted(base.path.glob("*.safetensors")):
            with safe_open(file, framework="pt") as tensors:
                if stored in tensors.keys():  # noqa: SIM118 - not a mapping
                    return np.asarray(tensors.get_tensor(stored).float().numpy())
    raise BuildError(f"base '{base.name}' has no weight {name}")


def _shapes(base: Base) -> Iterator[tuple[str, tuple[int, int]]]:
    from safetensors import safe_open

    for file in sorted(base.path.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a mapping
                shape = tensors.get_slice(name).get_shape()
                if len(shape) == 2:
                    yield name, (shape[0], shape[1])


def _fits(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name.removesuffix(".weight"), pattern)
