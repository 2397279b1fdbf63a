"""Graph pass: give quantized matmuls of an exported decoder other weights.

The model builder rounds once; what a better algorithm made of the same float weights, or a part
with more bits, is put in here. It also gives a head 8 bits, which the builder cannot do where an
embedding is tied to it (its graphs do not load, onnxruntime-genai 0.18).
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekit.building.dequantize import input_scale_name
from edgekit.building.sockets import find_sockets
from edgekit.errors import BuildError
from edgekit.quantizing.blocks import Blocks, stack_blocks
from edgekit.quantizing.weights import EMBEDDING, HEAD
from edgekit_runtime.contract import SocketContract, SocketPart


def replace_weights(
    model: ir.Model, contract: SocketContract, weights: Mapping[str, Blocks]
) -> None:
    """Replace quantized weights of a graph, in place; a packed matmul takes all its parts.

    Args:
        model: A decoder whose linear layers are MatMulNBits nodes.
        contract: Says which projections a matmul holds, see ``find_sockets``.
        weights: By Hugging Face name: any of the layers' projections, ``lm_head.weight``, and
            ``model.embed_tokens.weight`` where the graph has the embedding on its own. An
            embedding that reads the head's bytes follows the head.

    Raises:
        BuildError: If a weight finds no place, or does not fit it; every one is listed.
    """
    sockets = {socket.name: socket for socket in contract.sockets}
    left, problems = set(weights), []
    for node in list(model.graph):
        path = (node.name or "").strip("/").replace("/", ".").rpartition(".")[0]
        if node.op_type == "MatMulNBits" and path in sockets:
            rows = {f"{part.module}.weight": part for part in sockets[path].parts}
            names = list(rows)
        elif node.op_type == "MatMulNBits" and path == "lm_head":
            rows, names = {}, [HEAD]
        elif node.op_type == "GatherBlockQuantized" and EMBEDDING in left:
            rows, names = {}, [EMBEDDING]
        else:
            continue
        parts = [
            _own_rows(weights[name], rows.get(name), contract) for name in names if name in weights
        ]
        left -= set(names)
        if not parts:
            continue
        if len(parts) != len(names):
            problems.append(f"{node.name}: only some of its parts were given: {', '.join(names)}")
            continue
        _replace(model.graph, node, stack_blocks(parts), problems)
    problems += [f"{name}: the graph has no such quantized weight" for name in left]
    if problems:
        raise BuildError("quantized weights do not fit the exported graph", problems=problems)
    for name in [name for name, value in model.graph.initializers.items() if not value.uses()]:
        del model.graph.initializers[name]


def _own_rows(blocks: Blocks, part: SocketPart | None, contract: SocketContract) -> Blocks:
    """The rows of a weight that one matmul holds, where the graph cuts up what was one linear."""
    if part is None:
        return blocks
    same = (p for socket in contract.sockets for p in socket.parts if p.module == part.module)
    if sum(p.n for p in same) != len(blocks.codes):
        return blocks  # it does not fit, and that is said with its shape
    return blocks.rows(part.start, part.n)


def replace_weights_in(
    directory: Path, weights: Mapping[str, Blocks], *, prefused: bool = False
) -> None:
    """Replace quantized weights of an exported model, on disk.

    Args:
        directory: With model.onnx and model.onnx.data, which are replaced.
        weights: See :func:`replace_weights`.
        prefused: See :func:`edgekit.building.sockets.find_sockets`.
    """
    source = directory / "model.onnx"
    model = ir.load(source)
    replace_weights(
        model, find_sockets(model, max_rank=1, dtype="float32", prefused=prefused), weights
    )
    with tempfile.TemporaryDirectory(dir=directory, prefix=".weights-") as temporary:
        written = Path(temporary) / source.name
        # The new data file is written while the old one is still being read.
        ir.save(model, written, external_data=f"{source.name}.data")
        for file in sorted(Path(temporary).iterdir()):
            file.replace(directory / file.name)


def _replace(graph: ir.Graph, node: ir.Node, blocks: Blocks, problems: list[str]) -> None:
    """One MatMulNBits, or a GatherBlockQuantized with a table of its own."""
    table = 1 if node.op_type == "MatMulNBits" else 0
    old, old_scales = node.inputs[table], node.inputs[2]
    assert old is not None and old_scales is not None and old_scales.dtype is not None
    rows, columns = len(blocks.codes), blocks.codes.shape[1] * blocks.block_size
    if table == 1:
        fits = (node.attributes["N"].as_int(), node.attributes["K"].as_int())
    else:
        fits = (rows, columns) if old.shape is None or old.shape[0] == rows else (-1, -1)
    if fits != (rows, columns):
        problems.append(f"{node.name}: expected (out, in) {fits}, got {(rows, columns)}")
        return
    stem = (old.name or node.name or "weight").removesuffix("_Q4")
    weight = _initializer(graph, f"{stem}_int{blocks.bits}", blocks.packed())
    scales = _initializer(
        graph, f"{stem}_block_scales", blocks.scales.astype(old_scales.dtype.numpy())
    )
    stored = blocks.packed_zero_points()
    zeros = None if stored is None else _initializer(graph, f"{stem}_zero_points", stored)
    if table == 0:
        node.replace_input_with(0, _initializer(graph, f"{stem}_table", _flat(blocks)))
    else:
        node.replace_input_with(1, weight)
        _follow(graph, old, weight, (scales, zeros), blocks)
        if blocks.input_scale != 1:
            _scale_input(graph, node, blocks.input_scale)
    _set_block_inputs(node, (scales, zeros), blocks)


def _follow(
    graph: ir.Graph,
    old: ir.Value,
    weight: ir.Value,
    scales_and_zeros: tuple[ir.Value, ir.Value | None],
    blocks: Blocks,
) -> None:
    """Let an embedding that reads the head's bytes read the new ones."""
    for gather in [node for node in graph if node.op_type == "GatherBlockQuantized"]:
        reshape = gather.inputs[0].producer() if gather.inputs[0] is not None else None
        if reshape is not None and reshape.inputs[0] is old:
            rows = _initializer(
                graph, "model.embed_tokens.shape", np.array([len(blocks.codes), -1])
            )
            reshape.replace_input_with(0, weight)
            reshape.replace_input_with(1, rows)
            _set_block_inputs(gather, scales_and_zeros, blocks)


def _scale_input(graph: ir.Graph, node: ir.Node, scale: float) -> None:
    """Multiply what a matmul reads."""
    hidden = node.inputs[0]
    assert hidden is not None and hidden.dtype is not None and node.name is not None
    factor = _initializer(
        graph, input_scale_name(node), np.array(scale, dtype=hidden.dtype.numpy())
    )
    scaled = ir.Node("", "Mul", [hidden, factor], name=node.name.rpartition("/")[0] + "/scale/Mul")
    scaled.outputs[0].name = f"{scaled.name}/output_0"
    scaled.outputs[0].type, scaled.outputs[0].shape = hidden.type, hidden.shape
    graph.insert_before(node, scaled)
    node.replace_input_with(0, scaled.outputs[0])


def _flat(blocks: Blocks) -> npt.NDArray[np.uint8]:
    return blocks.packed().reshape(len(blocks.codes), -1)


def _set_block_inputs(
    node: ir.Node, scales_and_zeros: tuple[ir.Value, ir.Value | None], blocks: Blocks
) -> None:
    """Both operators take scales and zero points third and fourth."""
    scales, zeros = scales_and_zeros
    node.replace_input_with(2, scales)
    if zeros is not None and len(node.inputs) < 4:
        node.resize_inputs(4)
    if len(node.inputs) > 3:
        node.replace_input_with(3, zeros)  # without them, the middle of the range is zero
    node.attributes["bits"] = ir.AttrInt64("bits", blocks.bits)
    node.attributes["block_size"] = ir.AttrInt64("block_size", blocks.block_size)


def _initializer(graph: ir.Graph, name: str, array: npt.NDArray[np.generic]) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    value = ir.Value(
        name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value
