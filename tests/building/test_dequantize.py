"""Dequantized weights are what ONNX Runtime really multiplies with."""

from pathlib import Path

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort
import pytest

from edgekit.building.dequantize import (
    PackedWeight,
    quantization_fingerprint,
    quantized_weights,
)
from edgekit.building.weights import load_graph
from edgekit.errors import BuildError
from edgekit_runtime.contract import Socket, SocketContract, SocketPart
from tests.building.conftest import BuiltTarget

NODE = "/model/layers.0/attn/qkv_proj/MatMul_Q4"
SOCKET = "model.layers.0.attn.qkv_proj"
Initializers = dict[str, npt.NDArray[np.generic]]


def contract_of(*sizes: tuple[str, int], k: int) -> SocketContract:
    parts, offset = [], 0
    for name, n in sizes:
        parts.append(SocketPart(module=f"model.layers.0.self_attn.{name}", offset=offset, n=n))
        offset += n
    socket = Socket(name=SOCKET, k=k, n=offset, parts=tuple(parts))
    return SocketContract(dtype="float32", max_rank=8, sockets=(socket,))


def graph(node: str, name: str, x: str, y: str, initializers: Initializers) -> ir.Model:
    model = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>\n'
        f"graph ({x}) => ({y}) {{ {node} }}"
    )
    wanted = {value.name: value for n in model.graph for value in n.inputs if value is not None}
    for key, array in initializers.items():
        value = wanted[key]
        value.const_value = ir.tensor(array, name=key)
        value.type = ir.TensorType(value.const_value.dtype)
        value.shape = ir.Shape(array.shape)
        model.graph.register_initializer(value)
    next(iter(model.graph)).name = name
    return model


def run(model: ir.Model, feeds: Initializers) -> npt.NDArray[np.float32]:
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString())
    return np.asarray(session.run(None, feeds)[0])


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("with_zero_points", [False, True], ids=["symmetric", "zero_points"])
@pytest.mark.parametrize("k", [64, 96], ids=["whole_blocks", "odd_blocks"])
def test_a_matmul_is_read_back_as_onnx_runtime_computes_it(
    bits: int, with_zero_points: bool, k: int
) -> None:
    n, block = 24, 32
    blocks = k // block
    random = np.random.default_rng(bits + k)
    initializers: Initializers = {
        "b": random.integers(0, 256, (n, blocks, block * bits // 8), np.uint8),
        "s": (random.random((n, blocks)) + 0.1).astype(np.float32),
    }
    inputs = "x, b, s"
    if with_zero_points:
        width = (blocks * bits + 7) // 8
        initializers["z"] = random.integers(0, 256, (n, width), np.uint8)
        inputs += ", z"
    model = graph(
        "y = com.microsoft.MatMulNBits"
        f"<K={k}, N={n}, bits={bits}, block_size={block}, accuracy_level=1> ({inputs})",
        NODE,
        f"float[m, {k}] x",
        f"float[m, {n}] y",
        initializers,
    )
    by_identity = run(model, {"x": np.eye(k, dtype=np.float32)}).T
    sizes = (("q_proj", 16), ("k_proj", 4), ("v_proj", 4))
    weights = quantized_weights(model, contract_of(*sizes, k=k))
    parts = [weights[f"model.layers.0.self_attn.{name}.weight"] for name, _ in sizes]
    assert [len(part.values) for part in parts] == [16, 4, 4]
    values = np.concatenate([part.values for part in parts])
    np.testing.assert_allclose(values, by_identity, rtol=1e-5, atol=1e-5)
    steps = np.concatenate([part.steps for part in parts])
    np.testing.assert_array_equal(steps, np.repeat(initializers["s"], block, axis=1))


@pytest.mark.parametrize("table_type", ["int4", "uint4"])
def test_a_quantized_embedding_is_read_back_as_onnx_runtime_looks_it_up(table_type: str) -> None:
    rows, columns, block = 10, 64, 32
    random = np.random.default_rng(3)
    low = -8 if table_type == "int4" else 0
    table = random.integers(low, low + 16, (rows, columns)).astype(getattr(ml_dtypes, table_type))
    initializers: Initializers = {
        "t": table,
        "s": (random.random((rows, columns // block)) + 0.1).astype(np.float32),
        "z": np.zeros((rows, columns // block), table.dtype),
    }
    model = graph(
        "y = com.microsoft.GatherBlockQuantized"
        f"<gather_axis=0, quantize_axis=1, block_size={block}> (t, i, s, z)",
        "/model/embed_tokens/GatherBlockQuantized",
        "int64[m] i",
        f"float[m, {columns}] y",
        initializers,
    )
    looked_up = run(model, {"i": np.arange(rows)})
    weights = quantized_weights(model, contract_of(("q_proj", 4), k=64))
    np.testing.assert_allclose(weights["model.embed_tokens.weight"].values, looked_up, rtol=1e-6)


def test_an_embedding_ends_where_its_last_block_is_padded() -> None:
    rows, columns, block = 10, 48, 32
    random = np.random.default_rng(4)
    initializers: Initializers = {
        "t": random.integers(0, 256, (rows, 32)).astype(np.uint8),
        "s": (random.random((rows, 2)) + 0.1).astype(np.float32),
        "b": np.array([0]),
        "a": np.array([-1]),
    }
    model = graph(
        "g = com.microsoft.GatherBlockQuantized"
        f"<bits=4, gather_axis=0, quantize_axis=1, block_size={block}> (t, i, s) "
        f"e = Constant<value_ints=[{columns}]> () y = Slice(g, b, e, a)",
        "/model/embed_tokens/GatherBlockQuantized",
        "int64[m] i",
        f"float[m, {columns}] y",
        initializers,
    )
    looked_up = run(model, {"i": np.arange(rows)})
    weights = quantized_weights(model, contract_of(("q_proj", 4), k=48))
    assert looked_up.shape == (rows, columns)
    np.testing.assert_allclose(weights["model.embed_tokens.weight"].values, looked_up, rtol=1e-6)


def test_a_tied_embedding_is_read_through_the_reshape_that_shares_the_head(
    built_target: BuiltTarget,
) -> None:
    model = load_graph(built_target.directory / "score.onnx")
    assert any(node.op_type == "Reshape" and "embed" in str(node.name) for node in model.graph)
    weights = quantized_weights(model, built_target.contract)
    head, table = weights["lm_head.weight"], weights["model.embed_tokens.weight"]
    assert head.values.shape == (320, 64)
    np.testing.assert_array_equal(head.values, table.values)


def test_every_decoder_linear_of_a_built_graph_is_read(built_target: BuiltTarget) -> None:
    from safetensors.numpy import load_file

    weights = quantized_weights(
        load_graph(built_target.directory / "score.onnx"), built_target.contract
    )
    stored = load_file(built_target.base.path / "model.safetensors")
    linears = {key for key, value in stored.items() if value.ndim == 2}
    assert set(weights) == linears | {"lm_head.weight"}
    for key in linears:
        error = np.linalg.norm(weights[key].values - stored[key]) / np.linalg.norm(stored[key])
        assert 0.05 < error < 0.12, key  # what rounding to 4 bits costs


def test_a_quantized_matmul_of_no_known_place_is_refused(tmp_path: Path) -> None:
    model = graph(
        "y = com.microsoft.MatMulNBits<K=32, N=2, bits=4, block_size=32> (x, b, s)",
        "/model/vision/proj/MatMul_Q4",
        "float[m, 32] x",
        "float[m, 2] y",
        {"b": np.zeros((2, 1, 16), np.uint8), "s": np.ones((2, 1), np.float32)},
    )
    with pytest.raises(BuildError, match=r"vision/proj/MatMul_Q4: .* no socket and no head"):
        quantized_weights(model, contract_of(("q_proj", 4), k=64))


def test_two_bit_weights_are_refused() -> None:
    model = graph(
        "y = com.microsoft.MatMulNBits<K=32, N=2, bits=2, block_size=32> (x, b, s)",
        "/lm_head/MatMul_Q2",
        "float[m, 32] x",
        "float[m, 2] y",
        {"b": np.zeros((2, 1, 8), np.uint8), "s": np.ones((2, 1), np.float32)},
    )
    with pytest.raises(BuildError, match="2-bit weights cannot be read back; 4 and 8 can"):
        quantized_weights(model, contract_of(("q_proj", 4), k=64))


def test_a_fingerprint_does_not_depend_on_how_a_graph_cuts_a_weight() -> None:
    rng = np.random.default_rng(0)
    whole = PackedWeight(
        codes=rng.integers(0, 256, (6, 2, 16), dtype=np.uint8),
        scales=rng.random((6, 2), dtype=np.float32),
        zero_points=rng.integers(0, 256, (6, 1), dtype=np.uint8),
        bits=4,
        columns=64,
    )
    parts = (whole.rows(0, 2), whole.rows(2, 4))
    fingerprint = quantization_fingerprint({"a": (whole,)})
    assert quantization_fingerprint({"a": parts}) == fingerprint
    assert quantization_fingerprint({"a": parts[::-1]}) != fingerprint
