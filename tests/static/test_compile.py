"""Compiling for QNN: one context and nothing else, or a refusal that says which, where and why."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgekit.bases import default_cache_dir, resolve_base
from edgekit.building.agreement import Agreement
from edgekit.building.build import build
from edgekit.building.qnn import compile as compiling
from edgekit.building.qnn.compile import compile_contexts
from edgekit.building.qnn.export import BARE, export_static, provider_options_of
from edgekit.building.qnn.runners import open_runners
from edgekit.building.qnn.target_dir import write_static_target
from edgekit.bundling.adapters import AdapterSource
from edgekit.errors import BuildError
from edgekit.targets import load_target
from edgekit_runtime import Bundle
from tests.static.profiles import compiled_changes, static_profile, write_profile
from tests.static.test_families import FAMILIES
from tests.tiny_models import VOCAB_SIZE, make_tiny_model

QNN = pytest.importorskip("onnxruntime_qnn", reason="onnxruntime-qnn has no wheel for this machine")
CHIP = provider_options_of(load_target("qnn"))


@pytest.fixture(scope="module")
def source(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    profile = static_profile(tmp_path_factory.mktemp("profile"))
    return export_static(resolve_base(str(tiny_base)), profile)


@pytest.fixture(scope="module")
def compiled_bundle(
    tiny_base: Path, alpha_adapter: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A bundle that passed the gate on the simulator (or an NPU)."""
    directory = tmp_path_factory.mktemp("compiled")
    build(
        name="tiny-qnn",
        base=str(tiny_base),
        output=directory / "bundle",
        targets=(str(write_profile(directory, "qnn", **compiled_changes())),),
        adapters={"alpha": AdapterSource(path=alpha_adapter)},
    )
    return directory / "bundle"


def test_each_graph_is_one_context_and_no_other_node(compiled_bundle: Path) -> None:
    target = compiled_bundle / "targets" / "qnn"
    for name in ("prefill", "decode"):
        nodes = onnx.load(target / f"{name}.onnx", load_external_data=False).graph.node
        assert [node.op_type for node in nodes] == ["EPContext"]
        assert (target / f"{name}_qnn.bin").stat().st_size > 10_000
    assert not (target / "decoder.onnx.data").exists()


def test_the_gate_ran_on_compiled_graphs_with_and_without_the_adapter(
    compiled_bundle: Path,
) -> None:
    base = json.loads((compiled_bundle / "reports" / "parity.json").read_text())["qnn"]["base"]
    card = json.loads((compiled_bundle / "adapters" / "alpha" / "adapter.json").read_text())
    for figures in (base, card["parity"]["qnn"]):
        assert figures["compiled"]["positions"] == 40
        assert figures["compiled"]["top1"] >= 0.9
        assert figures["compiled"]["mean_kl"] < 1e-3
        assert figures["placement"] == {"QNNExecutionProvider": 2}
    verified_on = Bundle.open(compiled_bundle, cache_dir=None).manifest.targets["qnn"].verified_on
    assert verified_on == base["compiled"]["device"]
    assert verified_on is not None and "onnxruntime-qnn" in verified_on


def test_the_engine_runs_compiled_graphs_when_asked(compiled_bundle: Path) -> None:
    with Bundle.open(compiled_bundle, cache_dir=None).engine("qnn", threads=1) as engine:
        off = engine.generate("where is the card", temperature=0.0, max_new_tokens=4)
        on = engine.generate(
            "where is the card", adapter="alpha", temperature=0.0, max_new_tokens=4
        )
        again = engine.generate("where is the card", temperature=0.0, max_new_tokens=4)
    assert off.token_ids == again.token_ids != on.token_ids


def test_where_a_graph_lies_does_not_change_its_context(source: Path, tmp_path: Path) -> None:
    graphs = {"decode": BARE["decode"]}
    contexts = [
        compile_contexts(source, graphs, CHIP, cache_dir=tmp_path / name) for name in ("one", "two")
    ]
    digests = [(context / "digests.json").read_bytes() for context in contexts]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "llama"])
def test_every_family_computes_the_same_when_compiled(family: str, tmp_path: Path) -> None:
    """Without a node of its own falling back; the compiler took norms of q and k, and erred."""
    base = resolve_base(str(make_tiny_model(tmp_path / "base", family)))
    profile = static_profile(tmp_path, **compiled_changes())
    contract = write_static_target(tmp_path / "target", base, profile)
    row = [int(token) for token in np.random.default_rng(0).integers(3, VOCAB_SIZE, 40)]
    provider, source = profile.execution_provider, export_static(base, profile)
    with open_runners(tmp_path / "target", source, provider, {}, contract, 1) as runners:
        assert runners.compiled is not None
        same = Agreement()
        same.add(runners.shipping.logits("", row), runners.compiled.logits("", row))
    assert same.mean_kl < 1e-3
    assert same.top1 >= 0.95


def test_int4_compiles_to_one_context(tiny_base: Path, tmp_path: Path) -> None:
    profile = static_profile(tmp_path, quantization={"bits": 4}, precision="int4")
    source = export_static(resolve_base(str(tiny_base)), profile)
    compile_contexts(source, {"decode": BARE["decode"]}, CHIP, cache_dir=tmp_path)


@pytest.fixture
def graph_with_erf(source: Path, tmp_path: Path) -> Path:
    """The decode graph with an operator in layer 1 that QNN does not have."""
    model = onnx.load(source / BARE["decode"], load_external_data=False)
    place, target = next(
        (index, node)
        for index, node in enumerate(model.graph.node)
        if node.name == "/model/layers.1/self_attn/q_proj/MatMul"
    )
    odd = onnx.helper.make_node("Erf", [target.input[0]], ["odd"], "/model/layers.1/self_attn/Erf")
    target.input[0] = "odd"
    model.graph.node.insert(place, odd)
    onnx.save(model, tmp_path / "odd.onnx")
    os.link(source / "decoder.onnx.data", tmp_path / "decoder.onnx.data")
    return tmp_path / "odd.onnx"


def test_an_operator_that_qnn_lacks_is_named_with_its_place_and_the_reason(
    graph_with_erf: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    with pytest.raises(BuildError, match=r"1 nodes of odd\.onnx would run on the processor") as err:
        compile_contexts(graph_with_erf.parent, {"decode": "odd.onnx"}, CHIP, cache_dir=cache)
    (problem,) = err.value.problems
    assert problem.startswith("/model/layers.1/self_attn/Erf: Erf: Operators of type `Erf` are not")
    assert "operators that the NPU has" in err.value.hint
    assert not [path for path in (cache / "contexts").iterdir() if path.is_dir()]


@pytest.mark.parametrize(
    ("chip", "problem"),
    [
        (CHIP | {"htp_arch": "999"}, "htp_arch: asked for 999, the context is for 0"),
        (CHIP | {"soc_model": "x1"}, "soc_model: asked for x1, the context is for 0"),
        ({"htp_arch": "73"}, "soc_model: asked for missing, the context is for 0"),
    ],
)
def test_a_chip_that_the_compiler_takes_for_another_is_refused(
    chip: dict[str, str], problem: str, source: Path, tmp_path: Path
) -> None:
    with pytest.raises(BuildError, match="does not know the chip") as caught:
        compile_contexts(source, {"decode": BARE["decode"]}, chip, cache_dir=tmp_path)
    assert caught.value.problems == (problem,)


def test_what_the_compiler_says_is_passed_on(source: Path, tmp_path: Path) -> None:
    chip = CHIP | {"soc_model": "99999"}
    with pytest.raises(BuildError, match=r"the QNN compiler failed on decode\.bare\.onnx") as err:
        compile_contexts(source, {"decode": BARE["decode"]}, chip, cache_dir=tmp_path)
    assert "QNN_DEVICE_ERROR_INVALID_CONFIG" in str(err.value)
    assert "check htp_arch and soc_model in the profile" in err.value.hint


def test_an_old_npu_that_lacks_block_quantization_is_refused(source: Path, tmp_path: Path) -> None:
    chip = {"htp_arch": "68", "soc_model": "30"}
    with pytest.raises(BuildError, match="14 nodes of decode") as caught:
        compile_contexts(source, {"decode": BARE["decode"]}, chip, cache_dir=tmp_path)
    assert all("MatMulNBits" in problem for problem in caught.value.problems)


@pytest.fixture
def _without_the_package(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(compiling, "QNN_PACKAGE", "onnxruntime-qnn-that-nobody-has")
    yield


@pytest.mark.usefixtures("_without_the_package")
def test_without_the_package_a_build_says_what_to_install_where(
    tiny_base: Path, tmp_path: Path
) -> None:
    with pytest.raises(BuildError, match="which is not installed") as caught:
        build(
            name="tiny",
            base=str(tiny_base),
            output=tmp_path / "bundle",
            targets=(str(write_profile(tmp_path, "qnn", **compiled_changes())),),
        )
    assert "pip install 'edgekit[qnn]'" in caught.value.hint
    assert not (tmp_path / "bundle").exists()


def test_compiling_leaves_nothing_in_the_users_cache_but_whole_contexts(
    compiled_bundle: Path,
) -> None:
    contexts = default_cache_dir() / "contexts"
    kept = [path for path in contexts.iterdir() if path.is_dir()]
    assert kept
    assert all((path / "digests.json").is_file() for path in kept)


def test_the_compiler_is_a_program_of_its_own(source: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edgekit.building.qnn.compile_child"]
    done = subprocess.run(
        [*command, str(source / "nowhere.onnx"), str(tmp_path / "x.onnx"), json.dumps(CHIP)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "nowhere.onnx" in done.stderr
