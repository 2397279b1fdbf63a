"""Sockets: found by name and packing, added so that empty ones change nothing."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort
import pytest

from edgekit.building.sockets import add_sockets, find_sockets
from edgekit.errors import BuildError
from edgekit_runtime.contract import SocketContract, SocketPart

K, N, BLOCK = 32, 48, 16


def decoder(*nodes: tuple[str, int], attention: str = "num_heads=4, kv_num_heads=1") -> ir.Model:
    """A decoder as ONNX text: each (name, N) is a MatMulNBits of the same input x."""
    inputs = ["float[1, s, 32] x"]
    body, outputs = [], []
    for index, (name, n) in enumerate(nodes):
        inputs += [f"uint8[{n}, 2, 8] b{index}", f"float[{n * 2}] s{index}"]
        outputs.append(f"float[1, s, {n}] y{index}")
        body.append(
            f'["{name}"] y{index} = com.microsoft.MatMulNBits'
            f"<K=32, N={n}, bits=4, block_size=16> (x, b{index}, s{index})"
        )
    body += [
        f'["/model/layers.{layer}/attn/GroupQueryAttention"] a{layer} = '
        f"com.microsoft.GroupQueryAttention<{attention}> (x)"
        for layer in (0, 1)
    ]
    return ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>\n'
        f"graph ({', '.join(inputs)}) => ({', '.join(outputs)}) {{\n" + "\n".join(body) + "\n}"
    )


def parts(model: ir.Model) -> dict[str, list[tuple[str, int, int]]]:
    contract = find_sockets(model, max_rank=8, dtype="float32")
    return {
        socket.name: [(part.module, part.offset, part.n) for part in socket.parts]
        for socket in contract.sockets
    }


def test_packed_attention_is_split_by_its_heads() -> None:
    model = decoder(("/model/layers.1/attn/qkv_proj/MatMul_Q4", 48))
    assert parts(model) == {
        "model.layers.1.attn.qkv_proj": [
            ("model.layers.1.self_attn.q_proj", 0, 32),
            ("model.layers.1.self_attn.k_proj", 32, 8),
            ("model.layers.1.self_attn.v_proj", 40, 8),
        ]
    }


def test_gate_and_up_are_halves() -> None:
    model = decoder(("/model/layers.0/mlp/gate_up_proj/MatMul_Q4", 64))
    assert parts(model) == {
        "model.layers.0.mlp.gate_up_proj": [
            ("model.layers.0.mlp.gate_proj", 0, 32),
            ("model.layers.0.mlp.up_proj", 32, 32),
        ]
    }


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("/model/layers.0/attn/o_proj/MatMul_Q4", "model.layers.0.self_attn.o_proj"),
        ("/model/layers.11/mlp/down_proj/MatMulNBits", "model.layers.11.mlp.down_proj"),
        ("model.layers.3.self_attn.k_proj.MatMul", "model.layers.3.self_attn.k_proj"),
    ],
)
def test_other_projections_are_one_part_by_their_peft_name(name: str, module: str) -> None:
    assert list(parts(decoder((name, N))).values()) == [[(module, 0, N)]]


def test_the_unpacked_layout_of_directml_has_a_socket_for_each_projection() -> None:
    model = decoder(
        ("/model/layers.0/attn/q_proj/MatMul_Q4", 32),
        ("/model/layers.0/attn/k_proj/MatMul_Q4", 16),
        ("/model/layers.0/attn/v_proj/MatMul_Q4", 16),
        ("/model/layers.0/mlp/gate_proj/MatMul_Q4", 48),
        ("/model/layers.0/mlp/up_proj/MatMul_Q4", 48),
    )
    contract = find_sockets(model, max_rank=8, dtype="float16")
    assert [(socket.name, socket.k, socket.n) for socket in contract.sockets] == [
        ("model.layers.0.attn.q_proj", 32, 32),
        ("model.layers.0.attn.k_proj", 32, 16),
        ("model.layers.0.attn.v_proj", 32, 16),
        ("model.layers.0.mlp.gate_proj", 32, 48),
        ("model.layers.0.mlp.up_proj", 32, 48),
    ]
    add_sockets(model, contract)
    added = {value.name: value.dtype for value in model.graph.inputs if "lora" in str(value.name)}
    assert len(added) == 10
    assert set(added.values()) == {ir.DataType.FLOAT16}


def test_a_fused_checkpoint_keeps_its_own_names_packed() -> None:
    model = decoder(
        ("/model/layers.0/attn/qkv_proj/MatMul_Q4", 48),
        ("/model/layers.0/mlp/gate_up_proj/MatMul_Q4", 64),
        ("/model/layers.0/mlp/down_proj/MatMul_Q4", 32),
    )
    contract = find_sockets(model, max_rank=8, dtype="float32", prefused=True)
    assert [socket.parts for socket in contract.sockets] == [
        (SocketPart(module="model.layers.0.self_attn.qkv_proj", offset=0, n=48),),
        (SocketPart(module="model.layers.0.mlp.gate_up_proj", offset=0, n=64),),
        (SocketPart(module="model.layers.0.mlp.down_proj", offset=0, n=32),),
    ]


def test_a_fused_checkpoint_that_the_graph_cuts_up_is_told_by_its_rows() -> None:
    model = decoder(
        ("/model/layers.1/attn/q_proj/MatMul_Q4", 99),
        ("/model/layers.0/attn/q_proj/MatMul_Q4", 32),
        ("/model/layers.0/attn/k_proj/MatMul_Q4", 16),
        ("/model/layers.0/attn/v_proj/MatMul_Q4", 8),
        ("/model/layers.0/mlp/gate_proj/MatMul_Q4", 48),
        ("/model/layers.0/mlp/up_proj/MatMul_Q4", 48),
    )
    contract = find_sockets(model, max_rank=8, dtype="float32", prefused=True)
    parts = [part for socket in contract.sockets[1:] for part in socket.parts]
    assert [(part.module.rpartition(".")[2], part.start, part.n) for part in parts] == [
        ("qkv_proj", 0, 32),
        ("qkv_proj", 32, 16),
        ("qkv_proj", 48, 8),
        ("gate_up_proj", 0, 48),
        ("gate_up_proj", 48, 48),
    ]
    problems: list[str] = []
    assert SocketContract.from_dict(contract.to_dict(), problems) == contract
    assert problems == []


def test_the_head_gets_no_socket() -> None:
    model = decoder(("/lm_head/MatMul_Q4", N), ("/model/layers.0/attn/o_proj/MatMul_Q4", N))
    assert list(parts(model)) == ["model.layers.0.attn.o_proj"]


def test_an_unknown_block_is_refused() -> None:
    with pytest.raises(BuildError, match=r"unknown block 'moe' \(known: attn, self_attn, mlp\)"):
        parts(decoder(("/model/layers.0/moe/up_proj/MatMul_Q4", N)))


def test_a_graph_without_quantized_layers_is_refused() -> None:
    with pytest.raises(BuildError, match="no MatMulNBits node in a decoder layer"):
        parts(decoder(("/lm_head/MatMul_Q4", N)))


def test_packed_attention_without_an_attention_node_is_refused() -> None:
    model = decoder(("/model/layers.7/attn/qkv_proj/MatMul_Q4", 48))
    with pytest.raises(BuildError, match="layer 7: q/k/v are packed, but there is no Group"):
        parts(model)


def test_heads_that_do_not_divide_the_matmul_are_refused() -> None:
    model = decoder(("/model/layers.0/attn/qkv_proj/MatMul_Q4", 50))
    with pytest.raises(BuildError, match="its parts have 48 outputs, the matmul has 50"):
        parts(model)


def run(model: ir.Model, feeds: dict[str, npt.NDArray[np.generic]]) -> npt.NDArray[np.float32]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    return np.asarray(session.run(["y0"], feeds)[0])


def test_a_socket_computes_the_matmul_plus_x_a_b_and_nothing_when_empty() -> None:
    model = decoder(("/model/layers.0/attn/o_proj/MatMul_Q4", N))
    for node in list(model.graph):
        if node.op_type == "GroupQueryAttention":
            model.graph.remove(node)
    random = np.random.default_rng(0)
    feeds: dict[str, npt.NDArray[np.generic]] = {
        "x": random.standard_normal((1, 3, K), np.float32),
        "b0": random.integers(0, 256, (N, 2, 8), np.uint8),
        "s0": random.random(N * 2, np.float32),
    }
    plain = run(model, feeds)
    add_sockets(model, find_sockets(model, max_rank=8, dtype="float32"))
    assert np.array_equal(run(model, feeds), plain)
    a, b = (random.standard_normal(shape, np.float32) for shape in ((K, 5), (5, N)))
    name = "model.layers.0.attn.o_proj"
    plugged = run(model, feeds | {f"{name}.lora_A": a, f"{name}.lora_B": b})
    np.testing.assert_allclose(plugged, plain + feeds["x"] @ a @ b, rtol=1e-4, atol=1e-4)


def test_the_pass_needs_no_torch(tmp_path: Path) -> None:
    ir.save(decoder(("/model/layers.0/attn/o_proj/MatMul_Q4", N)), tmp_path / "model.onnx")
    code = (
        "import sys, onnx_ir as ir\n"
        "from edgekit.building.sockets import add_sockets, find_sockets\n"
        "model = ir.load('model.onnx')\n"
        "add_sockets(model, find_sockets(model, max_rank=8, dtype='float32'))\n"
        "print(sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
