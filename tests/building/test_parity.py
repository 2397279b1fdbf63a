"""The gate has teeth: each planted fault fails it, with the figures in the message."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgekit.adapters.convert import to_sockets, write_onnx_adapter
from edgekit.adapters.peft_dir import LoraPair, PeftAdapter, read_peft_adapter
from edgekit.building.comparing import MIN_POSITIONS
from edgekit.building.parity import check_parity
from edgekit.building.parity_figures import AdapterFiles, ParityFigures
from edgekit.building.weights import load_graph, weights_folder
from edgekit.errors import ParityError
from edgekit.targets import ParityBounds
from tests.building.conftest import BuiltTarget
from tests.peft_adapters import make_peft_adapter
from tests.tiny_models import ADDS_BOS

Modules = Mapping[str, LoraPair]
BOUNDS = ParityBounds()


@pytest.fixture(scope="module")
def alpha(built_target: BuiltTarget, alpha_adapter: Path) -> PeftAdapter:
    return read_peft_adapter(alpha_adapter, built_target.base, name="alpha", max_rank=256)


def convert(modules: Modules, built_target: BuiltTarget, path: Path) -> Path:
    write_onnx_adapter(to_sockets(modules, built_target.contract), built_target.contract, path)
    return path


def scale(factor: float) -> Callable[[Modules], Modules]:
    return lambda modules: {
        name: LoraPair(pair.a, pair.b * np.float32(factor)) for name, pair in modules.items()
    }


def swap_q_and_k(modules: Modules) -> Modules:
    """Each gets the other's A, as packing in the wrong order would do."""
    changed = dict(modules)
    for layer in (0, 1):
        q, k = (f"model.layers.{layer}.self_attn.{name}_proj" for name in "qk")
        changed[q] = LoraPair(modules[k].a, modules[q].b)
        changed[k] = LoraPair(modules[q].a, modules[k].b)
    return changed


def shift_layers(modules: Modules) -> Modules:
    other = {".0.": ".1.", ".1.": ".0."}
    return {
        name.replace(key, value): pair
        for name, pair in modules.items()
        for key, value in other.items()
        if key in name
    }


FAULTS: dict[str, Callable[[Modules], Modules]] = {
    "twice-scaled": scale(2.0),
    "alpha-forgotten": scale(0.5),  # lora_alpha / r is 2
    "q-k-swapped": swap_q_and_k,
    "layers-shifted": shift_layers,
    "layer-missing": lambda modules: {n: p for n, p in modules.items() if ".1." not in n},
    "one-module-missing": lambda modules: {
        n: p for n, p in modules.items() if n != "model.layers.1.self_attn.v_proj"
    },
    "one-percent-off": scale(1.01),
}


@pytest.fixture(scope="module")
def verdict(
    built_target: BuiltTarget, alpha: PeftAdapter, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """What one run of the gate says of all faults."""
    directory = tmp_path_factory.mktemp("faults")
    files = {
        name: AdapterFiles(
            peft=alpha.path, onnx=convert(break_it(alpha.modules), built_target, directory / name)
        )
        for name, break_it in FAULTS.items()
    }
    with pytest.raises(ParityError) as caught:
        check_parity(
            built_target.directory,
            built_target.base,
            built_target.contract,
            files,
            BOUNDS,
            check_base=False,
        )
    return str(caught.value)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_conversion_fails_with_its_figures(fault: str, verdict: str) -> None:
    (line,) = (
        line
        for line in verdict.splitlines()
        if line.startswith(f"  adapter '{fault}': conversion is not exact: mean KL ")
    )
    kl, bound = line.rpartition("mean KL ")[2].split(", bound ")
    assert float(kl) > 1e-4
    assert bound == "1e-06"


def test_the_verdict_says_what_to_do(verdict: str) -> None:
    assert verdict.startswith("the parity gate failed: the built target does not agree with")
    assert "`--no-parity` builds it all the same, marked as unchecked." in verdict


@pytest.fixture(scope="module")
def good_and_idle(
    built_target: BuiltTarget, alpha: PeftAdapter, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, ParityFigures]:
    """Figures of the right conversion, of PEFT's own zero B, and of the base."""
    directory = tmp_path_factory.mktemp("good")
    idle = make_peft_adapter(built_target.base.path, directory / "peft", strength=0.0)
    read = read_peft_adapter(idle, built_target.base, name="idle", max_rank=8)
    files = {
        "good": AdapterFiles(
            peft=alpha.path,
            onnx=convert(alpha.modules, built_target, directory / "good"),
            prompts=("Q: where is my card\nA:", "x"),
        ),
        "idle": AdapterFiles(peft=idle, onnx=convert(read.modules, built_target, directory / "i")),
    }
    files["idle-on-device"] = replace(files["idle"], on_device_weights=True)
    return check_parity(
        built_target.directory, built_target.base, built_target.contract, files, BOUNDS, threads=1
    )


def test_the_right_conversion_passes(good_and_idle: dict[str, ParityFigures]) -> None:
    figures = good_and_idle["good"]
    assert figures.positions >= MIN_POSITIONS
    assert figures.exact_mean_kl < 1e-9
    assert figures.exact_top1 == 1.0
    assert 0 < figures.shipping_mean_kl < 1e-2
    assert figures.effect_kl is not None
    assert figures.effect_kl > 0.1


def test_an_adapter_that_does_nothing_is_reported_as_such(
    good_and_idle: dict[str, ParityFigures],
) -> None:
    assert good_and_idle["idle"].effect_kl == 0.0
    assert good_and_idle["idle"].nll_torch == good_and_idle[""].nll_torch
    assert good_and_idle[""].effect_kl is None


def test_an_adapter_of_the_targets_weights_is_compared_with_torch_on_them(
    good_and_idle: dict[str, ParityFigures],
) -> None:
    """What is left of the cost is int8 activations."""
    assert good_and_idle["idle-on-device"].nll_shipping == good_and_idle["idle"].nll_shipping
    assert abs(good_and_idle["idle-on-device"].nll_increase) < 4e-3
    assert abs(good_and_idle["idle"].nll_increase) > 5e-3


def test_figures_are_written_with_four_digits(good_and_idle: dict[str, ParityFigures]) -> None:
    figures = replace(good_and_idle["good"], nll_torch=1.0, nll_shipping=1.23456789)
    assert figures.to_dict()["nll_increase"] == 0.2346
    assert good_and_idle[""].to_dict()["effect_kl"] is None


def edit_graph(path: Path, edit: Callable[[ir.Model], None]) -> None:
    model = ir.load(path)
    edit(model)
    data = ir.to_proto(model).SerializeToString()
    path.write_bytes(data)


def run_gate(
    target: BuiltTarget,
    adapter: PeftAdapter,
    bounds: ParityBounds = BOUNDS,
    *,
    check_base: bool = False,
) -> list[str]:
    onnx = convert(adapter.modules, target, target.directory.parent / "adapter")
    files = {"alpha": AdapterFiles(peft=adapter.path, onnx=onnx)}
    with pytest.raises(ParityError) as caught:
        check_parity(
            target.directory, target.base, target.contract, files, bounds, check_base=check_base
        )
    return list(caught.value.problems)


def test_crossed_sockets_in_the_graph_fail(
    built_target: BuiltTarget, alpha: PeftAdapter, tmp_path: Path
) -> None:
    target = built_target.copy(tmp_path / "target")

    def cross(model: ir.Model) -> None:
        """The down projections of both layers take each other's B."""
        ups = [n for n in model.graph if str(n.name).endswith("down_proj/MatMul_Q4_lora_B")]
        first, second = ups
        b0, b1 = first.inputs[1], second.inputs[1]
        first.replace_input_with(1, b1)
        second.replace_input_with(1, b0)

    for graph in ("score.onnx", "model.onnx"):
        edit_graph(target.directory / graph, cross)
    found = run_gate(target, alpha)
    assert any(
        line.startswith("adapter 'alpha': conversion is not exact: mean KL") for line in found
    )


def test_a_generating_graph_that_differs_from_the_scoring_graph_fails(
    built_target: BuiltTarget, alpha: PeftAdapter, tmp_path: Path
) -> None:
    target = built_target.copy(tmp_path / "target")

    def unplug(model: ir.Model) -> None:
        add = next(n for n in model.graph if str(n.name).endswith("o_proj/MatMul_Q4_lora_Add"))
        zero = ir.node("Sub", [add.inputs[1], add.inputs[1]])
        add.replace_input_with(1, zero.outputs[0])
        model.graph.insert_before(add, zero)

    edit_graph(target.directory / "model.onnx", unplug)
    (line,) = run_gate(target, alpha)
    assert line.startswith("adapter 'alpha': generating graph against scoring graph: mean KL ")


def test_empty_sockets_that_change_the_base_fail(
    built_target: BuiltTarget, alpha: PeftAdapter, tmp_path: Path
) -> None:
    target = built_target.copy(tmp_path / "target")

    def double(model: ir.Model) -> None:
        add = next(n for n in model.graph if str(n.name).endswith("down_proj/MatMul_Q4_lora_Add"))
        twice = ir.node("Add", [add.inputs[0], add.inputs[0]])
        add.replace_input_with(0, twice.outputs[0])
        model.graph.insert_before(add, twice)

    edit_graph(target.directory / "model.onnx", double)
    found = run_gate(target, alpha)
    assert found[0].startswith(
        "empty sockets differ from the plain graph on row 0: logits by up to "
    )


def test_one_changed_int4_weight_fails_and_is_named(
    built_target: BuiltTarget, alpha: PeftAdapter, tmp_path: Path
) -> None:
    target = built_target.copy(tmp_path / "target")
    model = load_graph(target.directory / "score.onnx")
    name = "model.layers.1.attn.o_proj.MatMul.weight_Q4"
    tensor = model.graph.initializers[name].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    assert tensor.offset is not None
    with (weights_folder(target.directory) / "cpu.data").open("r+b") as file:
        # Row 3 of 128 inputs (64 bytes a row), the second byte's high nibble: column 3.
        file.seek(tensor.offset + 3 * 64 + 1)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 0x80]))
    # Only with the base: for an adapter that is added later, digests have proven the weights.
    (line,) = run_gate(target, alpha, check_base=True)
    assert line.startswith("model.layers.1.self_attn.o_proj.weight[3, 3]: ")
    assert line.endswith(" quantization steps from the float weight, bound 1.01")


def test_max_nll_increase_is_enforced(
    built_target: BuiltTarget, alpha: PeftAdapter, tmp_path: Path
) -> None:
    target = built_target.copy(tmp_path / "target")
    bounds = BOUNDS.model_copy(update={"max_nll_increase": -9.0})
    (line,) = run_gate(target, alpha, bounds)
    assert line.startswith("adapter 'alpha': quantization costs ")
    assert line.endswith(" nats a token, bound -9.000")


def test_the_gate_writes_nothing_to_the_target(
    built_target: BuiltTarget, good_and_idle: dict[str, ParityFigures]
) -> None:
    assert sorted(path.name for path in built_target.directory.iterdir()) == [
        "base.onnx",
        "chat_template.jinja",
        "genai_config.json",
        "health.json",
        "model.onnx",
        "score.onnx",
        "sockets.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_the_gate_prints_nothing(
    built_target: BuiltTarget, alpha: PeftAdapter, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    onnx = convert(alpha.modules, built_target, tmp_path / "adapter")
    capfd.readouterr()
    files = {"alpha": AdapterFiles(peft=alpha.path, onnx=onnx)}
    check_parity(
        built_target.directory,
        built_target.base,
        built_target.contract,
        files,
        BOUNDS,
        check_base=False,
    )
    assert capfd.readouterr() == ("", "")


def test_a_tokenizer_that_differs_fails_and_is_shown(
    built_target: BuiltTarget, alpha: PeftAdapter, tmp_path: Path
) -> None:
    target = built_target.copy(tmp_path / "target")
    file = target.directory / "tokenizer.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    tokenizer["post_processor"] = ADDS_BOS
    file.write_text(json.dumps(tokenizer), encoding="utf-8")
    found = run_gate(target, alpha)
    assert found[0].startswith("tokens of '  leading, trailing  ': expected …[")
    assert " at 0, got …[1, " in found[0]


def test_a_chat_template_that_differs_fails_and_is_shown(
    built_target: BuiltTarget, alpha: PeftAdapter, tmp_path: Path
) -> None:
    target = built_target.copy(tmp_path / "target")
    file = target.directory / "chat_template.jinja"
    file.write_text(file.read_text(encoding="utf-8").replace("assistant\n", "assistant: "))
    found = run_gate(target, alpha)
    assert found[0].startswith("chat template with 1 messages: expected …")
