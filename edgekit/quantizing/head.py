"""Give the head, and an embedding tied to it, more bits than the layers have.

The model builder writes graphs that do not load where an 8-bit head is tied to the embedding
(onnxruntime-genai 0.18), so the builder makes both with 4 bits and this pass replaces them.
"""

import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekit.bases import Base
from edgekit.errors import BuildError
from edgekit.quantizing.blocks import Blocks, Floats, round_to_nearest


def replace_head(model: ir.Model, head: Blocks) -> None:
    """Replace the quantized head, and the embedding table where it is the same weight, in place.

    Args:
        model: A decoder whose head is a MatMulNBits node.
        head: The head's weight (vocabulary, hidden).

    Raises:
        BuildError: If the graph has no quantized head.
    """
    graph = model.graph
    node = next((n for n in graph if n.op_type == "MatMulNBits" and "lm_head" in str(n.name)), None)
    if node is None:
        raise BuildError("the graph has no quantized head (MatMulNBits of lm_head)")
    old = node.inputs[1]
    weight = _initializer(graph, f"lm_head.MatMul.weight_Q{head.bits}", head.packed())
    scales = _initializer(graph, "lm_head.MatMul.scales", head.scales)
    for index, value in ((1, weight), (2, scales)):
        node.replace_input_with(index, value)
    _set_bits(node, head)
    rows = _initializer(graph, "model.embed_tokens.shape", np.array([len(head.codes), -1]))
    for gather in [n for n in graph if n.op_type == "GatherBlockQuantized"]:
        reshape = gather.inputs[0].producer() if gather.inputs[0] is not None else None
        if reshape is not None and reshape.inputs[0] is old:
            reshape.replace_input_with(0, weight)
            reshape.replace_input_with(1, rows)
            gather.replace_input_with(2, scales)
            _set_bits(gather, head)
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]


def widen_head(directory: Path, base: Base, *, bits: int, block_size: int) -> None:
    """Round the head of an exported model again from the base's float weight, with more bits.

    Args:
        directory: With model.onnx and model.onnx.data, which are replaced.
        base: Where the float weight is.
        bits: 8.
        block_size: Weights that share a scale.
    """
    head = round_to_nearest(_float_head(base), bits=bits, block_size=block_size)
    source = directory / "model.onnx"
    model = ir.load(source)
    replace_head(model, head)
    with tempfile.TemporaryDirectory(dir=directory, prefix=".head-") as temporary:
        written = Path(temporary) / source.name
        # The new data file is written while the old one is still being read.
        ir.save(model, written, external_data=f"{source.name}.data")
        for file in sorted(Path(temporary).iterdir()):
            file.replace(directory / file.name)


def _float_head(base: Base) -> Floats:
    from safetensors import safe_open

    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        for file in sorted(base.path.glob("*.safetensors")):
            with safe_open(file, framework="pt") as tensors:
                if name in tensors.keys():  # noqa: SIM118 - not a mapping
                    return np.asarray(tensors.get_tensor(name).float().numpy())
    raise BuildError(f"base '{base.name}' has neither lm_head.weight nor model.embed_tokens.weight")


def _set_bits(node: ir.Node, blocks: Blocks) -> None:
    node.attributes["bits"] = ir.AttrInt64("bits", blocks.bits)
    node.attributes["block_size"] = ir.AttrInt64("block_size", blocks.block_size)


def _initializer(graph: ir.Graph, name: str, array: npt.NDArray[np.generic]) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    value = ir.Value(
        name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value
