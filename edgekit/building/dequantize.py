"""Read back the float weights that a quantized graph really computes with.

Source: ONNX Runtime contrib operators MatMulNBits and GatherBlockQuantized.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekit.errors import BuildError
from edgekit_runtime.contract import SocketContract

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """A quantized weight, read back.

    Attributes:
        values: float32 (out, in).
        steps: What one quantization step is worth at each value, same shape.
    """

    values: Array
    steps: Array


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedWeight:
    """Rows of a quantized weight as the graph stores them.

    Attributes:
        codes: uint8 (out, blocks, block_size * bits / 8), the low nibble first.
        scales: (out, blocks), in the graph's own float type.
        zero_points: uint8 (out, blocks * bits / 8), rows padded to whole bytes; or floats (out,
            blocks); None where it is the middle of the range.
        bits: 4 or 8.
        columns: Inputs; the last block may be padded beyond them.
        input_scale: What the graph multiplies the matmul's input with first.
    """

    codes: npt.NDArray[np.uint8]
    scales: npt.NDArray[Any]
    zero_points: npt.NDArray[Any] | None
    bits: int
    columns: int
    input_scale: float = 1.0

    @property
    def n_rows(self) -> int:
        """Output features."""
        return len(self.codes)

    @property
    def block_size(self) -> int:
        """Inputs that share a scale."""
        return int(self.codes.shape[-1]) * 8 // self.bits

    @property
    def n_bytes(self) -> int:
        """Of codes, scales and zero points."""
        zeros = 0 if self.zero_points is None else self.zero_points.nbytes
        return self.codes.nbytes + self.scales.nbytes + zeros

    def rows(self, start: int, n: int) -> "PackedWeight":
        """The weight of some output features."""
        own = slice(start, start + n)
        zeros = None if self.zero_points is None else self.zero_points[own]
        return replace(self, codes=self.codes[own], scales=self.scales[own], zero_points=zeros)

    def dequantized(self) -> QuantizedWeight:
        """What the stored numbers stand for."""
        rows = self.n_rows
        scales = (self.scales.astype(np.float32) * np.float32(self.input_scale))[..., None]
        codes = _unpack(self.codes, self.bits)
        zero = _zero_points(self.zero_points, self.bits, scales.shape)
        weight = ((codes.astype(np.float32) - zero) * scales).reshape(rows, -1)
        steps = np.broadcast_to(scales, codes.shape).reshape(rows, -1)
        columns = slice(0, self.columns)
        return QuantizedWeight(np.asarray(weight[:, columns], np.float32), steps[:, columns])


def quantized_weights(model: ir.Model, contract: SocketContract) -> dict[str, QuantizedWeight]:
    """Every quantized weight of a graph in floats; names and errors as :func:`packed_weights`."""
    return dequantized(packed_weights(model, contract))


def dequantized(
    weights: Mapping[str, Sequence[PackedWeight]],
) -> dict[str, QuantizedWeight]:
    """Packed weights in floats."""
    return {
        name: _stacked([part.dequantized() for part in parts]) for name, parts in weights.items()
    }


def packed_weights(
    model: ir.Model, contract: SocketContract
) -> dict[str, tuple[PackedWeight, ...]]:
    """Every quantized weight of a graph as it is stored, by its Hugging Face name.

    Args:
        model: The graph with its external data in reach.
        contract: Says which projections a packed matmul holds.

    Returns:
        ``model.layers.0.self_attn.q_proj.weight`` etc.; the head as ``lm_head.weight``, the
        embedding as ``model.embed_tokens.weight`` where quantized. A weight that the graph has cut
        up by output features comes in its parts, one below the other.

    Raises:
        BuildError: If a weight cannot be read, or belongs to no known place.
    """
    sockets = {socket.name: socket for socket in contract.sockets}
    weights: dict[str, tuple[PackedWeight, ...]] = {}
    pieces: dict[str, dict[int, PackedWeight]] = {}
    for node in model.graph:
        path = (node.name or "").strip("/").replace("/", ".").rpartition(".")[0]
        if node.op_type == "GatherBlockQuantized":
            weights["model.embed_tokens.weight"] = (_embedding_weight(node),)
        elif node.op_type == "MatMulNBits" and path in sockets:
            weight = _packed_matmul(node)
            for part in sockets[path].parts:
                rows = weight.rows(part.offset, part.n)
                pieces.setdefault(part.module, {})[part.start] = rows
        elif node.op_type == "MatMulNBits" and path == "lm_head":
            head = replace(_packed_matmul(node), input_scale=_input_scale(node))
            weights["lm_head.weight"] = (head,)
        elif node.op_type == "MatMulNBits":
            raise BuildError(f"{node.name}: a quantized matmul that is no socket and no head")
    for module, by_start in pieces.items():
        weights[f"{module}.weight"] = tuple(by_start[start] for start in sorted(by_start))
    return weights


def quantization_fingerprint(weights: Mapping[str, Sequence[PackedWeight]]) -> str:
    """Name a quantization by its numbers: ``sha256:…`` over names, codes, scales, zero points.

    What a head's input is multiplied with counts where it is not 1.

    Scales count to float16's precision, so that the float32 graph and the float16 graph of the
    same rounding have one fingerprint; of blocks that are all zero they do not count. How a graph
    packs or cuts its matmuls plays no part.
    """
    digest = hashlib.sha256()
    for name, parts in sorted(weights.items()):
        # A weight in several parts counts as the whole, unless its parts are quantized unlike.
        for kind, group in groupby(parts, lambda one: (one.columns, one.bits, one.block_size)):
            alike = list(group)
            n_rows = sum(part.n_rows for part in alike)
            scaled = [scale] if (scale := alike[0].input_scale) != 1 else []
            digest.update(json.dumps([name, n_rows, *kind, *scaled]).encode())
            for arrays in zip(*map(_numbers_of, alike), strict=True):
                for array in arrays:
                    digest.update(array.tobytes())
    return "sha256:" + digest.hexdigest()


def _numbers_of(part: PackedWeight) -> tuple[npt.NDArray[Any], ...]:
    """Codes, scales and zero points as a fingerprint counts them."""
    codes = _unpack(part.codes, part.bits)
    zeros = _zero_points(part.zero_points, part.bits, (*part.scales.shape, 1))
    with np.errstate(over="ignore"):
        scales = np.where((codes == zeros).all(-1), 0, part.scales).astype("<f2")
    stored = np.broadcast_to(np.asarray(zeros, "<f4"), (*part.scales.shape, 1))
    return part.codes, scales, stored


def _stacked(parts: list[QuantizedWeight]) -> QuantizedWeight:
    """One linear of the checkpoint, which the graph may have cut up by output features."""
    if len(parts) == 1:
        return parts[0]
    values = np.concatenate([part.values for part in parts])
    return QuantizedWeight(values, np.concatenate([part.steps for part in parts]))


def matmul_weight(node: ir.Node) -> QuantizedWeight:
    """What a MatMulNBits multiplies with."""
    return _packed_matmul(node).dequantized()


def _packed_matmul(node: ir.Node) -> PackedWeight:
    """MatMulNBits: B is uint8 (N, blocks, block_size * bits / 8), scales (N, blocks)."""
    attributes = {key: attribute.as_int() for key, attribute in node.attributes.items()}
    k, n, block = attributes["K"], attributes["N"], attributes["block_size"]
    bits = _checked_bits(attributes.get("bits", 4))
    zeros = _optional_tensor(node, 3)
    return PackedWeight(
        codes=_tensor(node, 1).reshape(n, -1, block * bits // 8),
        scales=_tensor(node, 2).reshape(n, -1),
        zero_points=None if zeros is None else _as_stored(zeros, n),
        bits=bits,
        columns=k,
    )


def input_scale_name(head: ir.Node) -> str:
    """The initializer that a head's input is multiplied with, where it is."""
    return f"{(head.name or 'head').strip('/').replace('/', '.')}.input_scale"


def _input_scale(head: ir.Node) -> float:
    """What a graph multiplies its head's input with; the last position may be taken out between."""
    value, name = head.inputs[0], input_scale_name(head)
    for _ in range(2):
        node = value.producer() if value is not None else None
        if node is None:
            break
        factor = next((one for one in node.inputs if one is not None and one.name == name), None)
        if factor is not None and factor.const_value is not None:
            return float(factor.const_value.numpy())
        value = node.inputs[0]
    return 1.0


def _embedding_weight(node: ir.Node) -> PackedWeight:
    """GatherBlockQuantized: the table is int4/uint4 (V, H) or packed uint8, scales (V, blocks)."""
    block = node.attributes["block_size"].as_int()
    bits = _checked_bits(node.attributes["bits"].as_int() if "bits" in node.attributes else 4)
    table = _tensor(node, 0)
    rows = table.shape[0]
    scales = _tensor(node, 2).reshape(rows, -1)
    stored = _optional_tensor(node, 3)
    zeros = None if stored is None else _as_stored(stored, rows)
    if table.dtype != np.uint8:
        middle = 1 << (bits - 1) if table.dtype.name in {"int4", "int8"} else 0
        # From zero up, as a matmul stores them; a signed table's own zero is the middle then.
        values = (table.astype(np.int16) + middle).astype(np.uint8)
        table = values if bits == 8 else values[..., 0::2] | values[..., 1::2] << 4
        zeros = zeros + middle if zeros is not None and middle else zeros
    return PackedWeight(
        codes=table.reshape(rows, -1, block * bits // 8),
        scales=scales,
        zero_points=zeros,
        bits=bits,
        columns=_columns_kept(node, scales.shape[1] * block),
    )


def _columns_kept(node: ir.Node, padded: int) -> int:
    """Width of an embedding: a Slice behind the lookup cuts off what fills the last block."""
    for user, _ in node.outputs[0].uses():
        end = user.inputs[2] if user.op_type == "Slice" else None
        known = None if end is None else ir.convenience.get_const_tensor(end)
        if known is not None:
            return int(known.numpy().item())
    return padded


def _checked_bits(bits: int) -> int:
    if bits not in {4, 8}:
        raise BuildError(f"{bits}-bit weights cannot be read back; 4 and 8 can")
    return bits


def _as_stored(zero_points: npt.NDArray[Any], rows: int) -> npt.NDArray[Any]:
    """Packed bytes stay packed; every other type becomes floats."""
    stored = zero_points.reshape(rows, -1)
    return stored if stored.dtype == np.uint8 else stored.astype(np.float32)


def _unpack(packed: npt.NDArray[Any], bits: int) -> npt.NDArray[Any]:
    """(…, bytes) to (…, values); the low nibble comes first."""
    if bits == 8:
        return packed
    return np.stack([packed & 0x0F, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)


def _zero_points(
    stored: npt.NDArray[Any] | None, bits: int, shape: tuple[int, ...]
) -> Array | float:
    """Zero points (N, blocks, 1); absent ones are the middle of the range."""
    if stored is None:
        return float(1 << (bits - 1))
    if stored.dtype != np.uint8:
        return np.asarray(stored.astype(np.float32).reshape(shape), np.float32)
    values = _unpack(stored.reshape(shape[0], -1), bits)[:, : shape[1]]
    return np.asarray(values.astype(np.float32)[..., None], np.float32)


def _optional_tensor(node: ir.Node, index: int) -> npt.NDArray[Any] | None:
    if index >= len(node.inputs) or node.inputs[index] is None:
        return None
    return _tensor(node, index)


def _tensor(node: ir.Node, index: int) -> npt.NDArray[Any]:
    """A constant input; looks through the Reshape that shares a head with the embedding."""
    value = node.inputs[index]
    while value is not None and value.const_value is None and value.producer() is not None:
        producer = value.producer()
        value = producer.inputs[0] if producer and producer.op_type == "Reshape" else None
    if value is None or value.const_value is None:
        raise BuildError(f"{node.name}: input {index} is no constant, its weight cannot be read")
    return value.const_value.numpy()
