"""A head of eight bits over layers of four, tied to the embedding or not, through the gate."""

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgekit.bases import resolve_base
from edgekit.building.base_shape import shape_of
from edgekit.building.build import build
from edgekit.building.dequantize import quantized_weights
from edgekit.building.export import export_base
from edgekit.building.inputs import load_profiles
from edgekit.building.memory import disk_bytes
from edgekit.building.reference import torch_reference
from edgekit.building.weights import load_graph
from edgekit.targets import TargetProfile, load_target
from edgekit_runtime import Bundle
from edgekit_runtime.contract import SocketContract
from tests.tiny_models import make_tiny_model


@pytest.fixture(scope="module")
def wide_profile(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, TargetProfile]:
    path = tmp_path_factory.mktemp("profiles") / "wide.yaml"
    path.write_text("name: cpu\nextends: cpu-fast\nquantization: {head_bits: 8}\n")
    return str(path), load_target(str(path))


@pytest.mark.parametrize(("family", "tied"), [("llama", True), ("qwen3", False), ("gemma", True)])
def test_the_head_is_finer_and_the_layers_are_as_they_were(
    family: str, tied: bool, wide_profile: tuple[str, TargetProfile], tmp_path: Path
) -> None:
    base = resolve_base(str(make_tiny_model(tmp_path / family, family, tied=tied)))
    path, profile = wide_profile
    report = build(
        name="wide", base=str(base.path), targets=(path,), output=tmp_path / "bundle", adapters={}
    )
    assert report.parity["cpu"][""].exact_mean_kl < 1e-6
    target = tmp_path / "bundle" / "targets" / "cpu"
    contract = SocketContract.from_dict(json.loads((target / "sockets.json").read_text()), [])
    wide = quantized_weights(load_graph(target / "score.onnx"), contract)
    exported = export_base(base, load_target("cpu-fast"))
    stock = quantized_weights(ir.load(exported / "model.onnx"), contract)
    with torch_reference(base, {}) as reference:
        for name in wide:
            off = np.abs(wide[name].values - reference.weight(name)).mean()
            stock_off = np.abs(stock[name].values - reference.weight(name)).mean()
            if name == "lm_head.weight" or (tied and name == "model.embed_tokens.weight"):
                assert off < stock_off / 8, name
            else:
                assert off == stock_off, name
    told = disk_bytes(shape_of(base), profile) - disk_bytes(shape_of(base), load_target("cpu-fast"))
    grown = (tmp_path / "bundle/weights/cpu.data").stat().st_size
    grown -= (exported / "model.onnx.data").stat().st_size
    assert grown == pytest.approx(told, abs=4096)  # files are padded to pages
    with Bundle.open(tmp_path / "bundle", cache_dir=None).engine(threads=1) as engine:
        assert engine.generate("one", max_new_tokens=4).usage.completion_tokens == 4


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_a_float_embedding_stands_beside_the_head_that_it_was_tied_to(
    target: str, tmp_path: Path
) -> None:
    base = resolve_base(str(make_tiny_model(tmp_path / "llama", "llama", tied=True)))
    text = "tier=fast,embedding=false"
    report = build(
        name="float-table",
        base=str(base.path),
        targets=(target,),
        output=tmp_path / "bundle",
        quantization=text,
    )
    assert report.parity[target][""].exact_mean_kl < 1e-6
    graph = load_graph(tmp_path / "bundle" / "targets" / target / "score.onnx").graph
    assert "GatherBlockQuantized" not in {node.op_type for node in graph}
    written = (tmp_path / "bundle" / "weights" / f"{target}.data").stat().st_size
    told = disk_bytes(shape_of(base), load_profiles((target,), text, None)[target])
    assert written == pytest.approx(told, rel=0.05)
