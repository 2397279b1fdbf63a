"""The weight store: a tensor that two graphs share lies in the bundle once."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from edgekit.building.weights import WeightStore, load_graph

RANDOM = np.random.default_rng(0)


def noise(*shape: int) -> npt.NDArray[np.uint8]:
    return RANDOM.integers(0, 256, shape, np.uint8)


def graph_of(**tensors: npt.NDArray[np.generic]) -> ir.Model:
    """A graph that holds these initializers and hands the first through."""
    values = [
        ir.Value(name=name, shape=ir.Shape(a.shape), const_value=ir.tensor(a, name=name))
        for name, a in tensors.items()
    ]
    for value, array in zip(values, tensors.values(), strict=True):
        value.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
    node = ir.node("Identity", [values[0]])
    node.outputs[0].name = "out"
    graph = ir.Graph(
        [], node.outputs, nodes=[node], initializers=values, opset_imports={"": 22}, name="g"
    )
    return ir.Model(graph, ir_version=10)


def place(path: Path, name: str) -> tuple[str, int, int]:
    tensor = ir.load(path).graph.initializers[name].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    assert tensor.offset is not None
    assert tensor.length is not None
    return str(tensor.location), tensor.offset, tensor.length


@pytest.fixture
def store(tmp_path: Path) -> WeightStore:
    (tmp_path / "targets" / "a").mkdir(parents=True)
    (tmp_path / "targets" / "b").mkdir()
    return WeightStore(tmp_path)


def read_back(path: Path, store: WeightStore, name: str) -> npt.NDArray[np.generic]:
    location, offset, length = place(path, name)
    tensor = ir.load(path).graph.initializers[name].const_value
    assert tensor is not None
    data = (store.directory / location).read_bytes()[offset : offset + length]
    return np.frombuffer(data, tensor.dtype.numpy()).reshape(tensor.shape.numpy())


def test_equal_tensors_are_stored_once_whatever_they_are_called(
    store: WeightStore, tmp_path: Path
) -> None:
    shared, own = noise(64, 32), noise(64, 32)
    a, b = tmp_path / "targets/a/model.onnx", tmp_path / "targets/b/model.onnx"
    store.save(graph_of(w=shared), a, file="a.data")
    store.save(graph_of(v=shared, u=own), b, file="b.data")
    assert place(b, "v") == place(a, "w")
    assert place(b, "u")[0] == "b.data"
    assert (store.directory / "b.data").stat().st_size == own.nbytes
    assert store.paths_of("b", ["model.onnx"]) == ("weights/a.data", "weights/b.data")
    for path, name, array in ((a, "w", shared), (b, "v", shared), (b, "u", own)):
        np.testing.assert_array_equal(read_back(path, store, name), array)


def test_rows_of_a_packed_tensor_are_found_in_it(store: WeightStore, tmp_path: Path) -> None:
    qkv = noise(96, 2, 16)
    a, b = tmp_path / "targets/a/model.onnx", tmp_path / "targets/b/model.onnx"
    store.save(graph_of(qkv=qkv), a, file="a.data")
    store.save(graph_of(q=qkv[:48], k=qkv[48:]), b, file="b.data")
    assert not (store.directory / "b.data").exists()
    np.testing.assert_array_equal(read_back(b, store, "q"), qkv[:48])
    np.testing.assert_array_equal(read_back(b, store, "k"), qkv[48:])


def test_the_same_first_row_is_not_enough(store: WeightStore, tmp_path: Path) -> None:
    packed = noise(96, 32)
    other = packed[:48].copy()
    other[40, 3] ^= 1
    path = tmp_path / "targets/a/model.onnx"
    store.save(graph_of(packed=packed, other=other), path, file="a.data")
    np.testing.assert_array_equal(read_back(path, store, "other"), other)
    np.testing.assert_array_equal(read_back(path, store, "packed"), packed)


def test_rows_are_found_though_another_matrix_has_the_first_of_them(
    store: WeightStore, tmp_path: Path
) -> None:
    """One base rounded in float32 and in float16: many single rows are equal, the matrices not."""
    packed = noise(96, 32)
    alike = noise(96, 32)
    alike[0] = packed[0]
    a, b = tmp_path / "targets/a/model.onnx", tmp_path / "targets/b/model.onnx"
    store.save(graph_of(alike=alike, packed=packed), a, file="a.data")
    store.save(graph_of(q=packed[:48]), b, file="b.data")
    assert not (store.directory / "b.data").exists()
    np.testing.assert_array_equal(read_back(b, store, "q"), packed[:48])


def test_small_tensors_stay_in_the_graph_and_large_ones_start_on_a_page(
    store: WeightStore, tmp_path: Path
) -> None:
    path = tmp_path / "targets/a/model.onnx"
    store.save(graph_of(odd=noise(1025), large=noise(1024, 1025), small=noise(8)), path, file="d")
    assert place(path, "large")[1] % 65536 == 0
    small = ir.load(path).graph.initializers["small"].const_value
    assert not isinstance(small, ir.ExternalTensor)


def test_a_graph_finds_its_weights_as_its_configuration_says(
    built_tiny_bundle: Path,
) -> None:
    graph = load_graph(built_tiny_bundle / "targets/cpu/model.onnx").graph
    name = "model.layers.0.attn.o_proj.MatMul.weight_Q4"
    tensor = graph.initializers[name].const_value
    assert tensor is not None
    assert tensor.numpy().any()
