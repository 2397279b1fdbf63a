"""Blocks with zero points: what ONNX Runtime reads of them, and graphs that have them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from edgekit.bases import Base, resolve_base
from edgekit.building.base_shape import shape_of
from edgekit.building.build import build
from edgekit.building.dequantize import QuantizedWeight, quantized_weights
from edgekit.building.device_weights import use_device_weights
from edgekit.building.inputs import load_profiles
from edgekit.building.memory import disk_bytes
from edgekit.building.weights import load_graph
from edgekit.errors import BuildError, RecipeError
from edgekit.quantizing.blocks import (
    Blocks,
    round_to_nearest,
    round_with_zero_points,
    stack_blocks,
)
from edgekit.quantizing.options import Quantization, change
from edgekit.quantizing.quantize import quantize_base
from edgekit.quantizing.weights import (
    EMBEDDING,
    HEAD,
    budget_bytes,
    float_weight,
    has_zero_points,
    widening_bytes,
)
from edgekit_runtime import Bundle
from edgekit_runtime.contract import SocketContract
from tests.tiny_models import make_tiny_model

CALIBRATED = (
    "algorithm=gptq,is_symmetric=false,eight_bit_budget=0.2,calibration.source=self,"
    "calibration.rows=6,calibration.row_tokens=64"
)


def some_weight(rows: int, columns: int) -> np.ndarray:
    """Blocks on both sides of zero, on one side only, and of nothing but zeros."""
    weight = np.random.default_rng(columns).normal(0.1, 1, (rows, columns)).astype(np.float32)
    weight[1] = np.abs(weight[1]) + 3
    weight[2] = -np.abs(weight[2])
    weight[3] = 0
    return weight


def run(body: str, arrays: Mapping[str, np.ndarray], inputs: str, output: str) -> np.ndarray:
    """Run one node of ONNX Runtime; arrays that are no inputs are initializers."""
    model = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>\n'
        f"graph ({inputs}) => ({output}) {{ y = com.microsoft.{body} }}"
    )
    fed = {value.name for value in model.graph.inputs}
    for value in next(iter(model.graph)).inputs:
        if value is not None and value.name not in fed:
            value.const_value = ir.tensor(arrays[str(value.name)], name=value.name)
            value.type = ir.TensorType(value.const_value.dtype)
            value.shape = ir.Shape(value.const_value.shape)
            model.graph.register_initializer(value)
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString())
    feeds = {name: array for name, array in arrays.items() if name in fed}
    return np.asarray(session.run(None, feeds)[0])


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("columns", [64, 96], ids=["even_blocks", "odd_blocks"])
def test_onnx_runtime_reads_what_was_packed(bits: int, columns: int) -> None:
    rows = 9
    blocks = round_with_zero_points(some_weight(rows, columns), bits=bits, block_size=32)
    zeros = blocks.packed_zero_points()
    assert zeros is not None
    assert zeros.shape == (rows, -(-columns // 32 * bits // 8))
    arrays = {"b": blocks.packed(), "s": blocks.scales, "z": zeros}
    multiplied = run(
        f"MatMulNBits<K={columns}, N={rows}, bits={bits}, block_size=32, accuracy_level=1>"
        "(x, b, s, z)",
        arrays | {"x": np.eye(columns, dtype=np.float32)},
        f"float[m, {columns}] x",
        f"float[m, {rows}] y",
    )
    np.testing.assert_allclose(multiplied.T, blocks.values(), rtol=1e-6, atol=1e-6)
    looked_up = run(
        f"GatherBlockQuantized<gather_axis=0, quantize_axis=1, bits={bits}, block_size=32>"
        "(b, i, s, z)",
        arrays | {"b": blocks.packed().reshape(rows, -1), "i": np.arange(rows)},
        "int64[m] i",
        f"float[m, {columns}] y",
    )
    np.testing.assert_allclose(looked_up, blocks.values(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bits", [4, 8])
def test_no_weight_moves_by_more_than_half_a_step(bits: int) -> None:
    weight = some_weight(64, 256)
    blocks = round_with_zero_points(weight, bits=bits, block_size=32)
    steps = np.abs(blocks.values() - weight) / np.repeat(blocks.scales, 32, axis=1)
    assert 0.45 < steps.max() < 0.501
    assert not blocks.values()[3].any()  # zeros stay zeros
    symmetric = round_to_nearest(weight, bits=bits, block_size=32)
    off, symmetric_off = (np.abs(b.values()[1] - weight[1]).mean() for b in (blocks, symmetric))
    assert off < 0.6 * symmetric_off  # all above zero: twice as many codes serve


def test_parts_of_one_matmul_all_have_zero_points_or_none() -> None:
    weight = some_weight(4, 64)
    uneven = round_with_zero_points(weight, bits=4, block_size=32)
    both = stack_blocks([uneven, uneven.rows(1, 2)])
    np.testing.assert_array_equal(both.values()[4:], uneven.values()[1:3])
    with pytest.raises(ValueError, match=r"differ in \(bits, block size, zero points\)"):
        stack_blocks([uneven, round_to_nearest(weight, bits=4, block_size=32)])


def test_tables_with_an_odd_number_of_blocks_have_none() -> None:
    """CUDA and WebGPU take the rows of an embedding's zero points as if they had no padding."""
    options = Quantization(is_symmetric=False)
    layer = "model.layers.0.mlp.up_proj.weight"
    assert has_zero_points(HEAD, 64, 4, options)
    assert not has_zero_points(HEAD, 96, 4, options)
    assert not has_zero_points(EMBEDDING, 96, 4, options)
    assert has_zero_points(layer, 96, 4, options)
    assert not has_zero_points(layer, 64, 8, options)
    assert not has_zero_points(layer, 64, 4, Quantization())


def test_the_budget_counts_zero_points() -> None:
    even = Quantization(eight_bit_budget=0.5)
    uneven = Quantization(eight_bit_budget=0.5, is_symmetric=False)
    layer = "model.layers.0.mlp.up_proj.weight"
    sizes = {layer: 64 * 64}
    zero_points = 64 * 64 / 32 / 2
    assert budget_bytes(sizes, uneven) - budget_bytes(sizes, even) == zero_points / 2
    grown = [widening_bytes(layer, 64 * 64, 64, options) for options in (even, uneven)]
    assert grown[0] - grown[1] == zero_points


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> Base:
    return resolve_base(str(tiny_base))


def shipped(target: Path) -> dict[str, QuantizedWeight]:
    contract = SocketContract.from_dict(json.loads((target / "sockets.json").read_text()), [])
    return quantized_weights(load_graph(target / "score.onnx"), contract)


def nodes_with_zero_points(target: Path) -> dict[str, int]:
    """How many nodes of a kind have zero points."""
    graph = load_graph(target / "score.onnx").graph
    found: dict[str, int] = {}
    for node in graph:
        if node.op_type in {"MatMulNBits", "GatherBlockQuantized"}:
            has_zeros = len(node.inputs) > 3 and node.inputs[3] is not None
            found[node.op_type] = found.get(node.op_type, 0) + has_zeros
    return found


@pytest.mark.parametrize(("family", "tied"), [("llama", True), ("qwen3", False), ("gemma", True)])
def test_a_target_with_zero_points_ships(family: str, tied: bool, tmp_path: Path) -> None:
    base = resolve_base(str(make_tiny_model(tmp_path / family, family, tied=tied)))
    text = "is_symmetric=false"
    report = build(
        name="uneven", base=str(base.path), output=tmp_path / "bundle", quantization=text
    )
    assert report.parity["cpu"][""].exact_mean_kl < 1e-6
    target = tmp_path / "bundle" / "targets" / "cpu"
    assert nodes_with_zero_points(target) == {"MatMulNBits": 9, "GatherBlockQuantized": 1}
    weights = shipped(target)
    for name, weight in weights.items():
        original = float_weight(base, name)
        steps = np.abs(weight.values - original) / weight.steps
        assert steps.max() < 0.501, name
    if tied:
        np.testing.assert_array_equal(weights[HEAD].values, weights[EMBEDDING].values)
    profile = load_profiles(("cpu",), text, None)["cpu"]
    written = (tmp_path / "bundle" / "weights" / "cpu.data").stat().st_size
    symmetric = load_profiles(("cpu",), "tier=fast", None)["cpu"]
    told = disk_bytes(shape_of(base), profile)
    assert told - disk_bytes(shape_of(base), symmetric) == shape_of(base).n_weights // 64
    assert written == pytest.approx(told, rel=0.05)
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    assert manifest["targets"]["cpu"]["quantization"]["is_symmetric"] == "false"
    with Bundle.open(tmp_path / "bundle", cache_dir=None).engine(threads=1) as engine:
        assert engine.generate("one", max_new_tokens=4).usage.completion_tokens == 4


def test_calibrated_zero_points_ship_on_two_targets(base: Base, tmp_path: Path) -> None:
    report = build(
        name="uneven",
        base=str(base.path),
        targets=("cpu", "cuda"),
        output=tmp_path / "bundle",
        quantization=CALIBRATED,
    )
    assert report.parity["cpu"][""].exact_mean_kl < 1e-6
    assert report.parity["cuda"][""].exact_mean_kl < 1e-6
    blocks = quantize_base(base, change(Quantization(), CALIBRATED))
    assert {weight.bits for weight in blocks.values()} == {4, 8}
    for name, weight in blocks.items():
        assert (weight.zero_points is None) == (weight.bits == 8), name
    for target, tolerance in (("cpu", 0), ("cuda", 2e-3)):
        weights = shipped(tmp_path / "bundle" / "targets" / target)
        shared = weights[EMBEDDING].values * np.float32(blocks[HEAD].input_scale)
        np.testing.assert_allclose(weights[HEAD].values, shared, rtol=1e-6)
        for name, weight in blocks.items():
            np.testing.assert_allclose(
                weights[name].values, weight.values(), rtol=tolerance, err_msg=name
            )
    with Bundle.open(tmp_path / "bundle", cache_dir=None).engine("cpu", threads=1) as engine:
        assert engine.generate("one", max_new_tokens=4).usage.completion_tokens == 4
    # The second target reads the first one's codes and zero points.
    data = tmp_path / "bundle" / "weights"
    assert (data / "cuda.data").stat().st_size < 0.5 * (data / "cpu.data").stat().st_size


def relative_error(base: Base, blocks: Mapping[str, Blocks]) -> float:
    """Of the layers' 4-bit weights."""
    errors = [
        np.linalg.norm(blocks[name].values() - weight) / np.linalg.norm(weight)
        for name in blocks
        if ".layers." in name
        for weight in [float_weight(base, name)]
    ]
    return float(np.mean(errors))


def test_tuning_keeps_zero_points_and_the_cache_keeps_all(base: Base, tmp_path: Path) -> None:
    calibration = {"source": "self", "rows": 2, "row_tokens": 32, "steps": 3}
    options = Quantization.model_validate(
        {"algorithm": "tuned", "is_symmetric": False, "calibration": calibration}
    )
    tuned = quantize_base(base, options, cache_dir=tmp_path)
    cached = quantize_base(base, options, cache_dir=tmp_path)
    start = quantize_base(base, Quantization(is_symmetric=False))
    assert tuned.keys() == start.keys()
    for name, weight in tuned.items():
        np.testing.assert_array_equal(weight.zero_points, start[name].zero_points)
        np.testing.assert_array_equal(cached[name].values(), weight.values())
    assert any(not np.array_equal(tuned[name].scales, start[name].scales) for name in tuned)
    assert relative_error(base, tuned) < 1.2 * relative_error(base, start)


def test_qlora_trains_on_weights_with_zero_points(base: Base, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    path = tmp_path / "uneven.yaml"
    path.write_text("extends: cpu-fast\nquantization: {is_symmetric: false}\n", encoding="utf-8")
    model = AutoModelForCausalLM.from_pretrained(base.path)
    use_device_weights(model, base, load_profiles((str(path),), None, None)["uneven"])
    used = {name: value.detach().numpy() for name, value in model.named_parameters()}
    for name, weight in quantize_base(base, Quantization(is_symmetric=False)).items():
        values = used[EMBEDDING if name == HEAD else name]
        np.testing.assert_array_equal(values, weight.values(), err_msg=name)


@pytest.mark.parametrize("tied", [True, False])
def test_the_builders_mixed_k_quant(tied: bool, tmp_path: Path) -> None:
    """``k_quant_mixed``: 8 bits for the head, and for q/k/v and down in some of the layers."""
    family = "llama" if tied else "qwen3"
    base = resolve_base(str(make_tiny_model(tmp_path / family, family, tied=tied)))
    text = "algorithm=k_quant,head_bits=8,eight_bit=*layers.0.*.v_proj+*layers.0.*.down_proj"
    report = build(name="mixed", base=str(base.path), output=tmp_path / "bundle", quantization=text)
    assert report.parity["cpu"][""].exact_mean_kl < 1e-6
    target = tmp_path / "bundle" / "targets" / "cpu"
    widths: dict[str, Any] = {
        str(node.name): node.attributes["bits"].as_int()
        for node in load_graph(target / "score.onnx").graph
        if node.op_type == "MatMulNBits"
    }
    wide = sorted(name for name, bits in widths.items() if bits == 8)
    assert [name.rpartition("/MatMul")[0] for name in wide] == [
        "/lm_head",
        "/model/layers.0/attn/qkv_proj",
        "/model/layers.0/mlp/down_proj",
    ]
    # The rest is the builder's, with its zero points; a tied embedding follows the head.
    embedding = {"GatherBlockQuantized": 0} if tied else {}  # k_quant leaves one of its own float
    assert nodes_with_zero_points(target) == {"MatMulNBits": 6} | embedding
    profile = load_profiles(("cpu",), text, None)["cpu"]
    written = (tmp_path / "bundle" / "weights" / "cpu.data").stat().st_size
    assert written == pytest.approx(disk_bytes(shape_of(base), profile), rel=0.05)
    with Bundle.open(tmp_path / "bundle", cache_dir=None).engine(threads=1) as engine:
        assert engine.generate("one", max_new_tokens=4).usage.completion_tokens == 4


def test_zero_points_that_a_gpu_would_misread_are_refused(base: Base, tmp_path: Path) -> None:
    with pytest.raises(BuildError) as caught:
        build(
            name="odd",
            base=str(base.path),
            targets=("cpu", "cuda", "webgpu"),
            output=tmp_path / "bundle",
            quantization="algorithm=k_quant,block_size=64",
        )
    assert caught.value.problems == tuple(
        f"target '{name}': 64 inputs of the embedding are an odd number of blocks of 64, "
        "whose zero points the device misreads"
        for name in ("cuda", "webgpu")
    )


def test_k_quant_is_refused_without_symmetry() -> None:
    with pytest.raises(RecipeError) as caught:
        change(Quantization(), "algorithm=k_quant,is_symmetric=false")
    assert caught.value.problems == (
        "is_symmetric: expected true with k_quant, which has zero points of its own, or the "
        "algorithm rtn, gptq or tuned, got false",
    )
