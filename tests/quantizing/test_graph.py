"""Other weights in an exported graph: every matmul gets the rows that are its own."""

import numpy as np
import onnx_ir as ir
import pytest

from edgekit.building.dequantize import quantized_weights
from edgekit.building.sockets import find_sockets
from edgekit.errors import BuildError
from edgekit.quantizing.blocks import Blocks, round_to_nearest
from edgekit.quantizing.graph import replace_weights

K = 32
FUSED = "model.layers.0.self_attn.qkv_proj.weight"


def cut_up_decoder() -> ir.Model:
    """Phi-3's qkv_proj as DirectML has it: q of 8 outputs, k and v of 4."""
    body, inputs, outputs = [], [f"float[1, s, {K}] x"], []
    for name, n in (("q", 8), ("k", 4), ("v", 4)):
        inputs += [f"uint8[{n}, 1, 16] {name}_b", f"float[{n}, 1] {name}_s"]
        outputs.append(f"float[1, s, {n}] {name}_y")
        body.append(
            f'["/model/layers.0/attn/{name}_proj/MatMul_Q4"] {name}_y = '
            f"com.microsoft.MatMulNBits<K={K}, N={n}, bits=4, block_size=32> "
            f"(x, {name}_b, {name}_s)"
        )
    model = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>\n'
        f"graph ({', '.join(inputs)}) => ({', '.join(outputs)}) {{\n" + "\n".join(body) + "\n}"
    )
    for value in list(model.graph.inputs)[1:]:
        assert value.dtype is not None
        shape = [int(size) for size in value.shape or ()]
        value.const_value = ir.tensor(np.zeros(shape, value.dtype.numpy()), name=value.name)
        model.graph.inputs.remove(value)
        model.graph.register_initializer(value)
    return model


def blocks_of(rows: int) -> Blocks:
    weight = np.random.default_rng(0).standard_normal((rows, K), np.float32)
    return round_to_nearest(weight, bits=4, block_size=32)


def test_a_fused_weight_is_cut_up_where_the_graph_is() -> None:
    model = cut_up_decoder()
    contract = find_sockets(model, max_rank=1, dtype="float32", prefused=True)
    blocks = blocks_of(16)
    replace_weights(model, contract, {FUSED: blocks})
    np.testing.assert_array_equal(quantized_weights(model, contract)[FUSED].values, blocks.values())


def test_a_fused_weight_of_other_rows_is_refused() -> None:
    model = cut_up_decoder()
    contract = find_sockets(model, max_rank=1, dtype="float32", prefused=True)
    with pytest.raises(BuildError) as caught:
        replace_weights(model, contract, {FUSED: blocks_of(20)})
    assert caught.value.problems[0] == (
        "/model/layers.0/attn/q_proj/MatMul_Q4: expected (out, in) (8, 32), got (20, 32)"
    )
