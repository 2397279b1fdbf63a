"""Read back the float weights that a quantized graph really computes with.

Source: ONNX Runtime contrib operators MatMulNBits and GatherBlockQuantized.
"""

from dataclasses import dataclass
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

    def rows(self, start: int, n: int) -> "QuantizedWeight":
        """The weight of some output features."""
        return QuantizedWeight(self.values[start : start + n], self.steps[start : start + n])


def quantized_weights(model: ir.Model, contract: SocketContract) -> dict[str, QuantizedWeight]:
    """Every quantized weight of a graph, by its Hugging Face name.

    Args:
        model: The graph with its external data in reach.
        contract: Says which projections a packed matmul holds.

    Returns:
        ``model.layers.0.self_attn.q_proj.weight`` etc.; the head as ``lm_head.weight``, the
        embedding as ``model.embed_tokens.weight`` where quantized.

    Raises:
        BuildError: If a weight cannot be read, or belongs to no known place.
    """
    sockets = {socket.name: socket for socket in contract.sockets}
    weights: dict[str, QuantizedWeight] = {}
    pieces: dict[str, dict[int, QuantizedWeight]] = {}
    for node in model.graph:
        path = (node.name or "").strip("/").replace("/", ".").rpartition(".")[0]
        if node.op_type == "GatherBlockQuantized":
            weights["model.embed_tokens.weight"] = _embedding_weight(node)
        elif node.op_type == "MatMulNBits" and path in sockets:
            weight = matmul_weight(node)
            for part in sockets[path].parts:
                rows = weight.rows(part.offset, part.n)
                pieces.setdefault(part.module, {})[part.start] = rows
        elif node.op_type == "MatMulNBits" and path == "lm_head":
            weights["lm_head.weight"] = matmul_weight(node)
        elif node.op_type == "MatMulNBits":
            raise BuildError(f"{node.name}: a quantized matmul that is no socket and no head")
    for module, by_start in pieces.items():
        weights[f"{module}.weight"] = _stacked([by_start[start] for start in sorted(by_start)])
    return weights


def _stacked(parts: list[QuantizedWeight]) -> QuantizedWeight:
    """One linear of the checkpoint, which the graph may have cut up by output features."""
    if len(parts) == 1:
        return parts[0]
    values = np.concatenate([part.values for part in parts])
    return QuantizedWeight(values, np.concatenate([part.steps for part in parts]))


def matmul_weight(node: ir.Node) -> QuantizedWeight:
    """MatMulNBits: B is uint8 (N, blocks, block_size * bits / 8), scales (N, blocks)."""
    attributes = {key: attribute.as_int() for key, attribute in node.attributes.items()}
    k, n, block = attributes["K"], attributes["N"], attributes["block_size"]
    bits = attributes.get("bits", 4)
    values = _unpack(_tensor(node, 1).reshape(n, -1, block * bits // 8), bits)
    scales = _tensor(node, 2).astype(np.float32).reshape(n, -1, 1)
    zero = _zero_points(_optional_tensor(node, 3), bits, scales.shape)
    return _affine(values, scales, zero, columns=k)


def _embedding_weight(node: ir.Node) -> QuantizedWeight:
    """GatherBlockQuantized: the table is int4/uint4 (V, H) or packed uint8, scales (V, blocks)."""
    block = node.attributes["block_size"].as_int()
    bits = node.attributes["bits"].as_int() if "bits" in node.attributes else 4
    scales = _tensor(node, 2).astype(np.float32)[..., None]
    table = _tensor(node, 0)
    rows = table.shape[0]
    if table.dtype == np.uint8:
        values = _unpack(table.reshape(rows, -1, block * bits // 8), bits)
    else:
        values = table.astype(np.float32).reshape(rows, -1, block)
    stored = _optional_tensor(node, 3)
    is_signed = table.dtype.name in {"int4", "int8"}
    zero = 0.0 if is_signed and stored is None else _zero_points(stored, bits, scales.shape)
    return _affine(values, scales, zero, columns=scales.shape[1] * block)


def _affine(
    values: npt.NDArray[Any], scales: Array, zero: Array | float, *, columns: int
) -> QuantizedWeight:
    rows = values.shape[0]
    weight = ((values.astype(np.float32) - zero) * scales).reshape(rows, -1)[:, :columns]
    steps = np.broadcast_to(scales, values.shape).reshape(rows, -1)[:, :columns]
    return QuantizedWeight(np.asarray(weight, np.float32), steps)


def _unpack(packed: npt.NDArray[Any], bits: int) -> npt.NDArray[Any]:
    """(…, bytes) to (…, values); the low nibble comes first."""
    if bits == 8:
        return packed
    if bits != 4:
        raise BuildError(f"{bits}-bit weights cannot be read back; 4 and 8 can")
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
