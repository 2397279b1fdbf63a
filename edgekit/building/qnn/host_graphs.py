"""What runs on the host's processor beside the static graphs: the embedding and the head.

Both are tiny ONNX graphs over one weight file, so that a tied table is stored and mapped once.

Source: ONNX Runtime contrib operators GatherBlockQuantized and MatMulNBits.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.building.qnn.architecture import Decoder
from edgekit.building.qnn.graph_writer import OPSET
from edgekit.building.qnn.weight_file import WeightFile
from edgekit.quantizing.blocks import Blocks

HOST_WEIGHTS = "host.onnx.data"


def write_host_graphs(
    directory: Path,
    decoder: Decoder,
    tables: Mapping[str, Blocks],
    *,
    accuracy_level: int,
) -> None:
    """Write ``embed.onnx`` (token ids to inputs_embeds) and ``head.onnx`` (hidden to logits).

    Args:
        directory: Where to.
        decoder: Scale of the embedding, cap on the logits.
        tables: ``embedding`` and ``head`` (vocabulary, hidden); the same object where tied.
        accuracy_level: Compute of the head's matmul; 4 is int8, 1 is float32.
    """
    import onnx

    file = WeightFile(directory / HOST_WEIGHTS)
    onnx.save(_embed(decoder, tables["embedding"], file), directory / "embed.onnx")
    stored_as = "embedding" if tables["head"] is tables["embedding"] else "head"
    head = _head(decoder, tables["head"], file, stored_as, accuracy_level)
    onnx.save(head, directory / "head.onnx")
    file.close()


def _embed(decoder: Decoder, table: Blocks, file: WeightFile) -> Any:
    from onnx import TensorProto, helper

    packed = table.packed().reshape(len(table.codes), -1)
    initializers = [
        file.tensor("embedding.weight", packed, "embedding.weight"),
        file.tensor("embedding.scales", table.scales, "embedding.scales"),
        _scalar("scale", decoder.embedding_scale),
    ]
    nodes = [
        helper.make_node(
            "GatherBlockQuantized",
            ["embedding.weight", "input_ids", "embedding.scales"],
            ["row"],
            name="/model/embed_tokens/Gather",
            domain="com.microsoft",
            bits=table.bits,
            block_size=table.block_size,
            gather_axis=0,
            quantize_axis=1,
        ),
        helper.make_node(
            "Mul", ["row", "scale"], ["inputs_embeds"], name="/model/embed_tokens/Mul"
        ),
    ]
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "n"])
    out = _value("inputs_embeds", decoder.hidden_size)
    return _model("embed", nodes, [ids], [out], initializers)


def _head(
    decoder: Decoder, table: Blocks, file: WeightFile, stored_as: str, accuracy_level: int
) -> Any:
    from onnx import helper

    cap = decoder.logit_softcap
    raw = "raw" if cap else "logits"
    initializers = [
        file.tensor("head.weight", table.packed(), f"{stored_as}.weight"),
        file.tensor("head.scales", table.scales, f"{stored_as}.scales"),
    ]
    nodes = [
        helper.make_node(
            "MatMulNBits",
            ["hidden", "head.weight", "head.scales"],
            [raw],
            name="/lm_head/MatMul",
            domain="com.microsoft",
            K=decoder.hidden_size,
            N=decoder.vocab_size,
            bits=table.bits,
            block_size=table.block_size,
            accuracy_level=accuracy_level,
        )
    ]
    if cap:
        initializers.append(_scalar("cap", cap))
        nodes += [
            helper.make_node("Div", ["raw", "cap"], ["down"], name="/lm_head/Div"),
            helper.make_node("Tanh", ["down"], ["bent"], name="/lm_head/Tanh"),
            helper.make_node("Mul", ["bent", "cap"], ["logits"], name="/lm_head/Mul"),
        ]
    hidden = _value("hidden", decoder.hidden_size)
    return _model("head", nodes, [hidden], [_value("logits", decoder.vocab_size)], initializers)


def _scalar(name: str, value: float) -> Any:
    from onnx import numpy_helper

    return numpy_helper.from_array(np.array(value, np.float32), name)


def _value(name: str, features: int) -> Any:
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, "n", features])


def _model(
    name: str, nodes: list[Any], inputs: list[Any], outputs: list[Any], initializers: list[Any]
) -> Any:
    from onnx import helper

    graph = helper.make_graph(nodes, name, inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)
