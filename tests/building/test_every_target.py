"""One bundle for every generic target: built from one base, checked here, its weights shared."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgekit.building.build import BuildReport, build
from edgekit.building.sessions import float32_logits, open_sessions
from edgekit.building.weights import load_graph
from edgekit.bundling.adapters import AdapterSource, file_stems
from edgekit.bundling.edit import add_adapter
from edgekit.cli.build import print_report
from edgekit_runtime import Bundle
from edgekit_runtime.contract import Socket, SocketContract, SocketPart
from edgekit_runtime.errors import TargetError
from edgekit_runtime.providers import BY_NAME, provider_problem
from tests.peft_adapters import make_peft_adapter
from tests.runtime.bundle_edits import replace_file, seal

TARGETS = ("cpu", "cuda", "webgpu", "directml", "openvino")


@pytest.fixture(scope="module")
def report(
    tiny_base: Path, alpha_adapter: Path, tmp_path_factory: pytest.TempPathFactory
) -> BuildReport:
    return build(
        name="every",
        base=str(tiny_base),
        output=tmp_path_factory.mktemp("every") / "bundle",
        targets=TARGETS,
        adapters={"alpha": AdapterSource(path=alpha_adapter)},
    )


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_passes_the_gate_on_this_machine(report: BuildReport, target: str) -> None:
    base, alpha = report.parity[target][""], report.parity[target]["alpha"]
    assert max(base.exact_mean_kl, alpha.exact_mean_kl) < 1e-6
    assert alpha.effect_kl is not None
    assert alpha.effect_kl > 0.1
    verified = report.manifest.targets[target].verified_on
    assert verified is not None
    assert verified.startswith("CPUExecutionProvider onnxruntime ")


@pytest.mark.parametrize("columns", [80, 120])
def test_the_tables_fit_the_terminal(
    report: BuildReport,
    columns: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    print_report(report)
    *lines, _ = capsys.readouterr().out.splitlines()  # the last has the bundle's path
    assert all(len(line) <= columns for line in lines)
    assert not any("…" in line for line in lines)
    adapters = [line.split()[0] for line in lines if line.startswith((" (base)", " alpha"))]
    assert adapters == ["(base)", "alpha"] * len(report.parity)
    for target in report.seconds:
        (row,) = (line for line in lines if line.startswith(f" {target} "))
        assert " MB " in row or " kB " in row


def test_what_targets_share_lies_in_the_bundle_once(report: BuildReport) -> None:
    records = report.manifest.targets
    sizes = {file.path: file.size_bytes for file in report.manifest.files}
    assert records["openvino"].weights == records["cpu"].weights == ("weights/cpu.data",)
    assert records["webgpu"].weights == records["cuda"].weights
    own = sizes.get("weights/directml.data", 0)
    assert own < 0.2 * sizes["weights/cuda.data"]
    tokenizers = [path for path in sizes if path.endswith("/tokenizer.json")]
    assert len(tokenizers) == len(TARGETS) + 1
    assert len({(report.output / path).stat().st_ino for path in tokenizers}) == 1


def test_adapters_are_stored_by_layout(report: BuildReport) -> None:
    assert dict(report.manifest.adapters["alpha"].files) == {
        "cpu": "adapters/alpha/float32.onnx_adapter",
        "openvino": "adapters/alpha/float32.onnx_adapter",
        "cuda": "adapters/alpha/float16.onnx_adapter",
        "webgpu": "adapters/alpha/float16.onnx_adapter",
        "directml": "adapters/alpha/float16-directml.onnx_adapter",
    }


def test_the_graphs_compute_alike(report: BuildReport) -> None:
    row = [1, 5, 9, 33, 80, 4, 7, 120]
    logits = {
        target: float32_logits(report.output / "targets" / target / "score.onnx", [row], 1)[0]
        for target in TARGETS
    }
    np.testing.assert_array_equal(logits["cpu"], logits["openvino"])
    np.testing.assert_array_equal(logits["cuda"], logits["webgpu"])
    np.testing.assert_allclose(logits["directml"], logits["cuda"], atol=1e-3)


def test_empty_sockets_of_gpu_graphs_have_elements(report: BuildReport) -> None:
    def ranks(target: str) -> set[int]:
        graph = load_graph(report.output / "targets" / target / "model.onnx").graph
        empty = [graph.initializers[i.name] for i in graph.inputs if i.name.endswith("lora_A")]
        return {value.const_value.numpy().shape[1] for value in empty if value.const_value}

    assert ranks("cpu") == {0}
    assert ranks("cuda") == ranks("webgpu") == ranks("directml") == {1}


def test_the_engine_takes_what_works_here_and_says_why(report: BuildReport) -> None:
    with Bundle.open(report.output, cache_dir=None).engine() as engine:
        assert engine.target in {"cpu", "openvino", "cuda"}
        if engine.target == "cpu":
            assert "cuda: this build of onnxruntime-genai has no CUDA" in engine.target_reason
        assert engine.generate("the card", adapter="alpha", max_new_tokens=4).token_ids


@pytest.mark.parametrize("target", ["cuda", "directml"])
def test_a_target_without_its_device_is_refused(report: BuildReport, target: str) -> None:
    import onnxruntime_genai as og

    if getattr(og, {"cuda": "is_cuda_available", "directml": "is_dml_available"}[target])():
        pytest.skip("the device may be here")
    with pytest.raises(TargetError) as caught:
        Bundle.open(report.output, cache_dir=None).engine(target)
    assert caught.value.what == f"target '{target}' of bundle 'every' does not work here"
    assert caught.value.hint.startswith("Leave --target out to run '")


def test_an_adapter_is_added_to_every_target(
    report: BuildReport, tiny_base: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(report.output, bundle)
    peft = make_peft_adapter(tiny_base, tmp_path / "gamma", seed=3)
    figures = add_adapter(bundle, "gamma", AdapterSource(path=peft), base=str(tiny_base))
    assert set(figures) == set(TARGETS)
    files = Bundle.open(bundle, cache_dir=None).manifest.adapters["gamma"].files
    assert files["directml"] == "adapters/gamma/float16-directml.onnx_adapter"


def test_a_float16_graph_with_a_wrong_weight_fails_the_gate(
    report: BuildReport, tiny_base: Path, tmp_path: Path
) -> None:
    from edgekit.bases import resolve_base
    from edgekit.building.inputs import load_profiles
    from edgekit.building.parity import check_parity
    from edgekit.errors import ParityError

    bundle = tmp_path / "bundle"
    shutil.copytree(report.output, bundle)
    path = bundle / "targets/cuda/score.onnx"
    model = ir.load(path)
    node = next(n for n in model.graph if str(n.name).endswith("o_proj/MatMul_Q4_lora_Add"))
    twice = ir.node("Add", [node.outputs[0], node.outputs[0]])
    twice.outputs[0].name = "twice"
    ir.convenience.replace_all_uses_with(node.outputs[0], twice.outputs[0])
    twice.replace_input_with(0, node.outputs[0])
    twice.replace_input_with(1, node.outputs[0])
    model.graph.insert_after(node, twice)
    ir.save(model, path)
    contract = contract_of(bundle / "targets/cuda/sockets.json")
    with pytest.raises(ParityError) as caught:
        check_parity(
            bundle / "targets/cuda",
            resolve_base(str(tiny_base)),
            contract,
            {},
            load_profiles(("cuda",), None, None)["cuda"].parity,
        )
    assert caught.value.problems[0].startswith("base: conversion is not exact: mean KL ")


def contract_of(path: Path) -> SocketContract:
    problems: list[str] = []
    contract = SocketContract.from_dict(json.loads(path.read_text(encoding="utf-8")), problems)
    assert not problems
    return contract


def a_contract(dtype: str, *names: str) -> SocketContract:
    sockets = tuple(
        Socket(name=name, k=4, n=4, parts=(SocketPart(module=name, offset=0, n=4),))
        for name in names
    )
    return SocketContract(dtype=dtype, max_rank=8, sockets=sockets)


def test_file_stems_do_not_depend_on_the_order_of_targets() -> None:
    contracts: dict[str, Any] = {
        "cuda": a_contract("float16", "qkv"),
        "directml": a_contract("float16", "q", "k", "v"),
        "webgpu": a_contract("float16", "qkv"),
        "cpu": a_contract("float32", "qkv"),
    }
    stems = file_stems(contracts)
    assert stems == file_stems(dict(reversed(contracts.items())))
    assert stems == {
        "cpu": "float32",
        "cuda": "float16",
        "directml": "float16-directml",
        "webgpu": "float16",
    }


def test_a_float16_target_runs_through_the_engine(report: BuildReport, tmp_path: Path) -> None:
    """The CUDA target as this machine can run it: the same files, computed by the CPU provider."""
    bundle = tmp_path / "bundle"
    shutil.copytree(report.output, bundle)
    config_path = bundle / "targets/cuda/genai_config.json"
    config = json.loads(config_path.read_text(encoding="utf-8"))
    config["model"]["decoder"]["session_options"]["provider_options"] = []
    replace_file(bundle, "targets/cuda/genai_config.json", json.dumps(config).encode())
    seal(bundle, lambda m: m["targets"]["cuda"].update(execution_provider="CPUExecutionProvider"))
    tokens = [1, 5, 9, 33, 80, 7]
    with (
        Bundle.open(bundle, cache_dir=None) as opened,
        opened.engine("cuda", threads=1) as half,
        opened.engine("cpu", threads=1) as full,
    ):
        for adapter in (None, "alpha"):
            np.testing.assert_allclose(
                half.token_log_probs(tokens, adapter=adapter),
                full.token_log_probs(tokens, adapter=adapter),
                atol=0.5,  # other rounding of weights and activations; logits reach 10
            )
        answer = half.generate("the card", adapter="alpha", max_new_tokens=4)
        assert len(answer.token_ids) == 4


def test_a_device_that_cannot_compute_the_graph_leaves_the_gate_to_the_cpu(
    report: BuildReport,
) -> None:
    provider = "WebGpuExecutionProvider"
    if provider_problem(BY_NAME[provider]) is None:
        pytest.skip("a device is here")
    told: list[str] = []
    target = report.output / "targets/webgpu"
    sessions = open_sessions(target, 1, provider, [1, 5, 9], told.append)
    assert set(sessions.placement()) == {"CPUExecutionProvider"}
    (line,) = told
    assert line.startswith(f"parity: {provider} cannot compute the graph here, the CPU does: ")
