"""Graph pass: put a socket beside every quantized matmul of the decoder layers.

A socket turns ``y = MatMulNBits(x)`` into ``y = MatMulNBits(x) + (x @ A) @ B``. A and B are graph
inputs that also have an initializer of rank 0 (or 1, of zeros), so that a session without an
adapter computes the base.
Projections that the builder packed (q/k/v, gate/up) keep one packed socket.

Needs no torch: any int4 ONNX model of this shape will do, whoever built it.

Source: ONNX Runtime contrib operator MatMulNBits; ONNX IR spec on inputs with initializers.
"""

import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from edgekit.errors import BuildError
from edgekit_runtime.contract import Socket, SocketContract, SocketPart

_LAYER_MATMUL = re.compile(
    r"^/?(?P<path>model[/.]layers[/.](?P<layer>\d+)[/.](?P<block>[\w]+)[/.](?P<proj>[\w]+))[/.]MatMul"
)
# The builder's block names and PEFT's (the cause of Olive #2277).
_PEFT_BLOCK = {"attn": "self_attn", "self_attn": "self_attn", "mlp": "mlp"}


# What one linear of a checkpoint like Phi-3's holds, in order; PEFT adapts it as one.
_FUSED = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}


def find_sockets(
    model: ir.Model, *, max_rank: int, dtype: str, prefused: bool = False
) -> SocketContract:
    """Describe the sockets that a graph offers, without changing it.

    Args:
        model: A decoder whose linear layers are MatMulNBits nodes.
        max_rank: Largest rank of one projection's adapter.
        dtype: NumPy name of the graph's activation type.
        prefused: The checkpoint itself has q/k/v and gate/up in one linear each, as Phi-3's has;
            the graph may hold them packed or not.

    Raises:
        BuildError: If there is no quantized matmul in a decoder layer, or one is packed in a
            way that this pass does not know.
    """
    sockets = tuple(_describe(model, node, prefused) for node in _matmuls(model))
    if not sockets:
        raise BuildError(
            "the graph has no MatMulNBits node in a decoder layer: nothing to plug adapters into",
            hint="Build with int4 weights; names like /model/layers.0/attn/q_proj/MatMul are read.",
        )
    return SocketContract(dtype=dtype, max_rank=max_rank, sockets=sockets)


def add_sockets(model: ir.Model, contract: SocketContract, *, empty_rank: int = 0) -> None:
    """Add the contract's sockets to a graph, in place.

    Args:
        model: The graph.
        contract: Its sockets.
        empty_rank: Rank of an empty socket; 1 (of zeros) where a provider cannot take tensors
            without elements.
    """
    by_name = {socket.name: socket for socket in contract.sockets}
    for node in list(_matmuls(model)):
        socket = by_name[_socket_name(node)]
        _add_socket(model.graph, node, socket, np.dtype(contract.dtype), empty_rank)


def _add_socket(
    graph: ir.Graph, node: ir.Node, socket: Socket, dtype: np.dtype, empty_rank: int
) -> None:
    """``out = MatMulNBits(x)`` becomes ``out = MatMulNBits(x) + MatMul(MatMul(x, A), B)``."""
    a = _optional_input(graph, socket.a_name, (socket.k, None), dtype, empty_rank)
    b = _optional_input(graph, socket.b_name, (None, socket.n), dtype, empty_rank)
    base, x = node.outputs[0], node.inputs[0]
    down = ir.Node("", "MatMul", [x, a], name=f"{node.name}_lora_A")
    up = ir.Node("", "MatMul", [down.outputs[0], b], name=f"{node.name}_lora_B")
    total = ir.Node("", "Add", [base, up.outputs[0]], name=f"{node.name}_lora_Add")
    out = total.outputs[0]
    out.name, base.name = base.name, f"{base.name}_base"
    out.type, out.shape = base.type, base.shape
    down.outputs[0].name, up.outputs[0].name = f"{out.name}_lora_A", f"{out.name}_lora_B"
    ir.convenience.replace_all_uses_with(base, out, replace_graph_outputs=True)
    total.replace_input_with(0, base)
    graph.insert_after(node, [down, up, total])


def _optional_input(
    graph: ir.Graph,
    name: str,
    shape: tuple[int | None, int | None],
    dtype: np.dtype,
    empty_rank: int,
) -> ir.Value:
    """A graph input of free rank whose default is all zeros."""
    empty = np.zeros([size or empty_rank for size in shape], dtype)
    rank = f"{name.rpartition('.')[0]}.rank"
    value = ir.Value(
        name=name,
        shape=ir.Shape([rank if size is None else size for size in shape]),
        type=ir.TensorType(ir.DataType.from_numpy(dtype)),
        const_value=ir.tensor(empty, name=name),
    )
    graph.inputs.append(value)
    graph.initializers[name] = value
    return value


def is_layer_matmul(node: ir.Node) -> bool:
    """Whether a node is a quantized matmul that gets a socket."""
    return node.op_type == "MatMulNBits" and bool(_LAYER_MATMUL.match(node.name or ""))


def _matmuls(model: ir.Model) -> Iterator[ir.Node]:
    for node in model.graph:
        if is_layer_matmul(node):
            yield node


def _match(node: ir.Node) -> re.Match[str]:
    match = _LAYER_MATMUL.match(node.name or "")
    assert match  # _matmuls yields no other node
    return match


def _socket_name(node: ir.Node) -> str:
    return _match(node)["path"].replace("/", ".")


def _describe(model: ir.Model, node: ir.Node, prefused: bool) -> Socket:
    match = _match(node)
    block = match["block"]
    if block not in _PEFT_BLOCK:
        raise BuildError(f"{node.name}: unknown block '{block}' (known: {', '.join(_PEFT_BLOCK)})")
    prefix = f"model.layers.{match['layer']}.{_PEFT_BLOCK[block]}"
    parts = tuple(
        replace(part, module=f"{prefix}.{part.module}")
        for part in (_fused_part if prefused else _parts)(model, node)
    )
    n = _outputs(node)
    if (covered := sum(part.n for part in parts)) != n:
        raise BuildError(f"{node.name}: its parts have {covered} outputs, the matmul has {n}")
    return Socket(name=_socket_name(node), k=node.attributes["K"].as_int(), n=n, parts=parts)


def _parts(model: ir.Model, node: ir.Node) -> list[SocketPart]:
    """The projections inside a (packed) matmul, by their own names."""
    match, n = _match(node), _outputs(node)
    projection = match["proj"]
    sizes = [n]
    if projection == "gate_up_proj":
        sizes = [n // 2, n // 2]
    elif projection == "qkv_proj":
        heads, kv_heads = _attention_heads(model, match["layer"])
        head_size = n // (heads + 2 * kv_heads)
        sizes = [heads * head_size, kv_heads * head_size, kv_heads * head_size]
    names = _FUSED.get(projection, (projection,))
    offsets = [sum(sizes[:index]) for index in range(len(sizes))]
    return [
        SocketPart(module=name, offset=offset, n=size)
        for name, offset, size in zip(names, offsets, sizes, strict=True)
    ]


def _fused_part(model: ir.Model, node: ir.Node) -> list[SocketPart]:
    """The part of a fused linear that a matmul holds: all of it, or one projection's rows."""
    match = _match(node)
    for fused, names in _FUSED.items():
        if match["proj"] in names:
            before = names[: names.index(match["proj"])]
            start = sum(
                _outputs(other)
                for other in _matmuls(model)
                if _match(other)["layer"] == match["layer"] and _match(other)["proj"] in before
            )
            return [SocketPart(module=fused, offset=0, n=_outputs(node), start=start)]
    return [SocketPart(module=match["proj"], offset=0, n=_outputs(node))]


def _outputs(node: ir.Node) -> int:
    return node.attributes["N"].as_int()


def _attention_heads(model: ir.Model, layer: str) -> tuple[int, int]:
    """(query heads, key-value heads) of a layer's attention node."""
    place = re.compile(rf"layers[/.]{layer}[/.]")
    for node in model.graph:
        if node.op_type == "GroupQueryAttention" and place.search(node.name or ""):
            return node.attributes["num_heads"].as_int(), node.attributes["kv_num_heads"].as_int()
    raise BuildError(f"layer {layer}: q/k/v are packed, but there is no GroupQueryAttention node")
