"""An int4 ONNX model that somebody else built becomes a bundle, without torch; or says why not."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgekit.building import prebuilt_parity
from edgekit.building.build import BuildReport, build
from edgekit.building.prebuilt import linear_shapes, resolve_prebuilt
from edgekit.building.sessions import TargetSessions
from edgekit.bundling.adapters import AdapterSource
from edgekit.bundling.edit import add_adapter
from edgekit.errors import BaseModelError, BuildError, ParityError, PeftAdapterError
from edgekit_runtime.bundle import Bundle
from tests.peft_adapters import make_peft_adapter
from tests.tiny_models import make_tiny_model

# Other options than edgekit's own: (family, the builder's -e, its extra options).
MODELS: dict[str, tuple[str, str, dict[str, str]]] = {
    "packed": ("llama", "cpu", {"op_types_to_quantize": "MatMul/Gather"}),
    "cut-asymmetric": ("qwen3", "cpu", {"fuse_qkv": "false", "is_symmetric": "false"}),
    "half-block128": ("qwen2", "cuda", {"block_size": "128", "fuse_mlp_gate_up": "true"}),
    "fused-longrope": ("phi4", "cpu", {"algo_config": "k_quant", "accuracy_level": "1"}),
}


@dataclass(frozen=True)
class Foreign:
    """A model of somebody else's, the float base that it was made from, and an adapter."""

    folder: Path
    base: Path
    adapter: Path


def export(base: Path, folder: Path, provider: str, options: dict[str, str]) -> Path:
    """What the model builder writes for somebody who calls it himself."""
    command = [sys.executable, "-m", "edgekit.building.model_builder"]
    command += ["-i", str(base), "-o", str(folder), "-p", "int4", "-e", provider]
    command += ["-c", str(folder.parent / "cache"), "--extra_options"]
    command += [f"{key}={value}" for key, value in (options | {"hf_token": "false"}).items()]
    subprocess.run(command, check=True, capture_output=True, cwd=folder.parent)
    return folder


@pytest.fixture(scope="session")
def make_foreign(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Foreign]:
    made: dict[str, Foreign] = {}

    def make(name: str) -> Foreign:
        if name not in made:
            family, provider, options = MODELS[name]
            directory = tmp_path_factory.mktemp(name)
            base = make_tiny_model(directory / f"tiny-{family}", family, tied=family == "phi4")
            made[name] = Foreign(
                export(base, directory / f"tiny-{family}-onnx", provider, options),
                base,
                make_peft_adapter(base, directory / "adapter", seed=1),
            )
        return made[name]

    return make


@pytest.fixture
def foreign(make_foreign: Callable[[str], Foreign]) -> Foreign:
    """The packed model; read only."""
    return make_foreign("packed")


def build_on(model: Foreign, output: Path, **options: Any) -> BuildReport:
    arguments: dict[str, Any] = {
        "adapters": {"skill": AdapterSource(path=model.adapter)},
        "assume_base": True,
    }
    return build(name="foreign", base_onnx=model.folder, output=output, **arguments | options)


@pytest.mark.parametrize("name", MODELS)
def test_it_becomes_a_bundle_that_passes_the_gate(
    name: str, make_foreign: Callable[[str], Foreign], tmp_path: Path
) -> None:
    model = make_foreign(name)
    report = build_on(model, tmp_path / "bundle")
    figures = report.parity["cpu"]
    for adapter, figure in figures.items():
        assert figure.positions >= 1024
        assert figure.exact_mean_kl < 1e-6
        assert figure.exact_top1 >= 0.999
        assert figure.shipping_mean_kl <= 1e-2
        assert (figure.nll_torch, figure.nll_increase) == (None, None)
        assert figure.to_dict()["nll_increase"] is None
        assert (figure.effect_kl or 0) >= 0.1 or not adapter
    bundle = Bundle.open(tmp_path / "bundle", verify="full")
    target = bundle.manifest.targets["cpu"]
    assert target.dtype == ("float16" if name.startswith("half") else "float32")
    assert target.context_length == 512
    assert target.verified_on is not None
    assert target.verified_on.endswith(", without the float model")
    assert bundle.adapter_card("skill").binding == "assumed"


def test_the_manifest_says_what_it_is(foreign: Foreign, tmp_path: Path) -> None:
    manifest = build_on(foreign, tmp_path / "bundle", parity=False).manifest
    assert (manifest.base.name, manifest.base.source) == ("tiny-llama-onnx", "onnx:tiny-llama-onnx")
    assert manifest.base.fingerprint == resolve_prebuilt(foreign.folder).fingerprint
    assert manifest.targets["cpu"].quantization == {
        "algorithm": "prebuilt",
        "bits": "4",
        "head_bits": "4",
        "block_size": "32",
        "is_symmetric": "true",
        "accuracy_level": "4",
    }


def test_its_answers_are_those_of_the_model_as_it_came(foreign: Foreign, tmp_path: Path) -> None:
    import onnxruntime_genai as og

    build_on(foreign, tmp_path / "bundle", parity=False)
    prompt = "the card is lost and the payment was not found"
    model = og.Model(str(foreign.folder))
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=64, do_sample=False)
    generator = og.Generator(model, params)
    with Bundle.open(tmp_path / "bundle").engine() as engine:
        answer = engine.generate(prompt, max_new_tokens=16, temperature=0)
    ids = og.Tokenizer(model).encode(prompt)
    generator.append_tokens(np.array(ids, np.int32))
    for _ in range(16):
        generator.generate_next_token()
    expected = [int(token) for token in generator.get_sequence(0)[len(ids) :]]
    assert list(answer.token_ids) == expected


def test_shapes_come_from_the_graph(make_foreign: Callable[[str], Foreign]) -> None:
    from edgekit.adapters.peft_dir import base_linear_shapes

    for name in MODELS:
        model = make_foreign(name)
        assert linear_shapes(resolve_prebuilt(model.folder)) == base_linear_shapes(model.base)


WITHOUT_TORCH = """
import sys
class Nobody:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "peft", "optimum"}:
            raise ImportError(f"{name} is not here")
sys.meta_path.insert(0, Nobody())
from edgekit.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_the_whole_path_needs_no_torch(foreign: Foreign, tmp_path: Path) -> None:
    """Build with the gate, then add an adapter to the bundle, where torch cannot be imported."""
    output = tmp_path / "bundle"
    build_it = ["build", "--base-onnx", foreign.folder, "-o", output, "--json"]
    add_it = ["bundle", "add", output, f"skill={foreign.adapter}", "--assume-base", "--json"]
    said = []
    for command in (build_it, add_it):
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_TORCH, *map(str, command)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        said.append(json.loads(done.stdout))
    assert said[0]["parity"]["cpu"]["base"]["nll_torch"] is None
    assert said[1]["parity"]["cpu"]["exact_mean_kl"] < 1e-6
    assert said[1]["parity"]["cpu"]["effect_kl"] > 0.1
    sessions = TargetSessions(output / "targets" / "cpu", threads=1)
    row = list(range(5, 40))
    plugged = sessions.last(row, output / "adapters/skill/float32.onnx_adapter")
    assert np.abs(plugged - sessions.last(row, None)).max() > 0.1


@pytest.mark.parametrize("fault", ["twice", "crossed"])
def test_the_gate_has_teeth(
    fault: str, foreign: Foreign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is merged differs from what was converted."""
    read = prebuilt_parity.read_peft_adapter

    def read_wrongly(*args: Any, **options: Any) -> Any:
        from dataclasses import replace

        adapter = read(*args, **options)
        modules = dict(adapter.modules)
        q, k = (f"model.layers.0.self_attn.{name}_proj" for name in "qk")
        if fault == "twice":
            modules[q] = replace(modules[q], b=modules[q].b * 2)
        else:
            modules[q], modules[k] = (
                replace(modules[q], a=modules[k].a),
                replace(modules[k], a=modules[q].a),
            )
        return replace(adapter, modules=modules)

    monkeypatch.setattr(prebuilt_parity, "read_peft_adapter", read_wrongly)
    with pytest.raises(ParityError) as caught:
        build_on(foreign, tmp_path / "bundle")
    assert any(
        line.startswith("adapter 'skill': conversion is not exact: mean KL")
        for line in caught.value.problems
    )
    assert "the model as it came, each adapter merged into it" in str(caught.value)
    assert not (tmp_path / "bundle").exists()


def test_a_recorded_fingerprint_needs_a_persons_word_or_the_base(
    foreign: Foreign, tmp_path: Path
) -> None:
    from edgekit.bases import fingerprint_of

    adapter = shutil.copytree(foreign.adapter, tmp_path / "adapter")
    base = {"name": "tiny-llama", "source": "test", "fingerprint": fingerprint_of(foreign.base)}
    (adapter / "edgekit.json").write_text(json.dumps({"schema_version": "1.0", "base": base}))
    options: dict[str, Any] = {
        "adapters": {"skill": AdapterSource(path=adapter)},
        "assume_base": False,
        "parity": False,
    }
    with pytest.raises(PeftAdapterError) as caught:
        build_on(foreign, tmp_path / "none", **options)
    (problem,) = caught.value.problems
    assert problem.startswith("trained on base 'tiny-llama' with fingerprint sha256:")
    assert problem.endswith("name that base with --base to compare, or say --assume-base")
    build_on(foreign, tmp_path / "named", base=str(foreign.base), **options)
    build_on(foreign, tmp_path / "assumed", **options | {"assume_base": True})
    for name in ("named", "assumed"):
        assert Bundle.open(tmp_path / name).adapter_card("skill").binding == "assumed"
    other = make_tiny_model(tmp_path / "other", seed=5)
    with pytest.raises(PeftAdapterError, match="this is 'other' with sha256:"):
        build_on(foreign, tmp_path / "wrong", base=str(other), **options)


def test_an_adapter_of_other_shapes_is_refused(foreign: Foreign, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    adapter = shutil.copytree(foreign.adapter, tmp_path / "adapter")
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    key = "base_model.model.model.layers.1.mlp.down_proj.lora_A.weight"
    tensors[key] = np.zeros((4, 96), np.float32)
    save_file(tensors, file)
    with pytest.raises(PeftAdapterError) as caught:
        build_on(foreign, tmp_path / "b", adapters={"skill": AdapterSource(path=adapter)})
    assert caught.value.problems == (
        "model.layers.1.mlp.down_proj.lora_A: expected shape (4, 128), got (4, 96)",
    )


def test_a_bound_on_the_cost_of_quantization_cannot_be_kept(
    foreign: Foreign, tmp_path: Path
) -> None:
    with pytest.raises(BuildError, match="cannot be measured: 'tiny-llama-onnx' came as int4"):
        build_on(foreign, tmp_path / "b", max_nll_increase=0.5)


def test_olives_folder_is_taken_for_the_model_in_it(foreign: Foreign, tmp_path: Path) -> None:
    shutil.copytree(foreign.folder, tmp_path / "phi-int4" / "model")
    base = resolve_prebuilt(tmp_path / "phi-int4")
    direct = resolve_prebuilt(foreign.folder)
    assert (base.name, base.source) == ("phi-int4", "onnx:phi-int4")
    assert (base.fingerprint, base.path.name) == (direct.fingerprint, "model")


def test_a_graph_with_sockets_gets_no_others(built_tiny_bundle: Path, tmp_path: Path) -> None:
    """Ours, with logits of every position; Olive's have inputs for adapters too."""
    folder = tmp_path / "model"
    target = built_tiny_bundle / "targets" / "cpu"
    shutil.copytree(target, folder)
    shutil.copy(built_tiny_bundle / "weights" / "cpu.data", folder)
    shutil.copy(target / "score.onnx", folder / "model.onnx")
    with pytest.raises(BaseModelError, match="inputs for adapters already") as caught:
        resolve_prebuilt(folder)
    assert len(caught.value.problems) == 1


def test_targets_of_fixed_shapes_are_refused(foreign: Foreign, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"target 'qnn' takes graphs of fixed shapes \(static_"):
        build_on(foreign, tmp_path / "b", targets=("cpu", "qnn"))


def test_other_quantization_than_it_came_with_is_refused(foreign: Foreign, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="is quantized already: 'tier=quality' cannot be had"):
        build_on(foreign, tmp_path / "b", quantization="tier=quality")


@pytest.fixture
def own(foreign: Foreign, tmp_path: Path) -> Path:
    """A copy of the packed model, to break."""
    return Path(shutil.copytree(foreign.folder, tmp_path / "own"))


def problems_of(folder: Path) -> list[str]:
    with pytest.raises(BaseModelError) as caught:
        resolve_prebuilt(folder)
    assert "--base" in str(caught.value.hint)
    return list(caught.value.problems)


def set_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    file = folder / "genai_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    change(config)
    file.write_text(json.dumps(config), encoding="utf-8")


def edit_graph(folder: Path, change: Callable[[ir.Model], object]) -> None:
    model = ir.load(folder / "model.onnx")
    change(model)
    (folder / "model.onnx").write_bytes(ir.to_proto(model).SerializeToString())


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="there is no folder"):
        resolve_prebuilt(tmp_path / "nowhere")


def test_a_folder_of_something_else_lists_what_it_lacks(tmp_path: Path) -> None:
    assert problems_of(tmp_path) == ["no genai_config.json", "no tokenizer.json"]


def test_a_configuration_that_makes_no_sense_is_told_in_full(own: Path) -> None:
    def break_it(config: dict[str, Any]) -> None:
        config["model"]["decoder"] |= {"head_size": "wide", "filename": "../model.onnx"}
        config["model"]["context_length"] = None
        config["model"]["encoder"] = {"filename": "encoder.onnx"}
        del config["search"]

    set_config(own, break_it)
    assert problems_of(own) == [
        "genai_config.json: several models (decoder, encoder), expected one decoder",
        "genai_config.json: model.decoder.head_size: expected a count, got 'wide'",
        "genai_config.json: model.context_length: expected a count, got None",
        "genai_config.json: model.decoder.filename: expected a name, got '../model.onnx'",
        "genai_config.json: no search",
    ]


def test_a_pipeline_of_decoders_is_refused(own: Path) -> None:
    set_config(own, lambda config: config["model"]["decoder"].update(pipeline=[{}]))
    assert problems_of(own) == [
        "genai_config.json: several models (decoder.pipeline), expected one decoder"
    ]


def test_a_graph_that_is_missing_or_garbage(own: Path) -> None:
    (own / "model.onnx").write_bytes(b"\xff\xff not an onnx file")
    (problem,) = problems_of(own)
    assert problem.startswith("model.onnx cannot be read: ")
    (own / "model.onnx").unlink()
    assert problems_of(own) == ["no model.onnx, which genai_config.json names"]


def test_external_data_that_is_missing_cut_or_outside(own: Path, tmp_path: Path) -> None:
    data = own / "model.onnx.data"
    size = data.stat().st_size
    data.write_bytes(data.read_bytes()[: size // 2])
    (problem,) = problems_of(own)
    assert problem.startswith("external data 'model.onnx.data': expected ")
    assert problem.endswith(f", got {size // 2}")
    shutil.move(data, tmp_path / "outside.data")
    assert problems_of(own) == ["external data 'model.onnx.data' is missing"]
    data.symlink_to(tmp_path / "outside.data")
    assert problems_of(own) == ["external data 'model.onnx.data' lies outside of the folder"]


def test_a_head_that_sees_the_last_position_only(own: Path) -> None:
    from edgekit.building.passes import keep_last_logits

    edit_graph(own, keep_last_logits)
    assert problems_of(own) == [
        "the head sees the last position only (prune_lm_head), so answers cannot be scored"
    ]


def test_quantize_dequantize_pairs_are_refused_with_the_reason(own: Path) -> None:
    def as_pairs(model: ir.Model) -> None:
        for node in model.graph:
            if node.op_type == "MatMulNBits":
                node.op_type, node.domain = "DequantizeLinear", ""

    edit_graph(own, as_pairs)
    assert any("(use_qdq)" in problem for problem in problems_of(own))


def test_float_weights_are_refused(own: Path) -> None:
    def as_float(model: ir.Model) -> None:
        for node in model.graph:
            if node.op_type == "MatMulNBits":
                node.op_type, node.domain = "MatMul", ""

    edit_graph(own, as_float)
    (problem,) = problems_of(own)
    assert problem.startswith("no MatMulNBits node in a decoder layer")
    assert problem.endswith("its matmuls are 11 of float weights")


def test_weights_that_cannot_be_read_back_are_named(own: Path) -> None:
    def spoil(model: ir.Model) -> None:
        first, second, third, *_ = (n for n in model.graph if n.op_type == "MatMulNBits")
        first.attributes["weight_prepacked"] = ir.AttrInt64("weight_prepacked", 1)
        second.attributes["bits"] = ir.AttrInt64("bits", 2)
        third.name = "/model/layers.0/moe/experts.3/MatMul_Q4"

    edit_graph(own, spoil)
    found = problems_of(own)
    assert found[0].endswith("its weights are packed for one kind of GPU and not read back")
    assert found[1].endswith("2-bit weights cannot be read back; 4 and 8 can")
    assert "experts.3" in found[2]


def test_a_model_that_does_not_run_as_it_came(own: Path, foreign: Foreign, tmp_path: Path) -> None:
    def no_window(config: dict[str, Any]) -> None:
        """A ring of one window, for a graph that has none: the builder writes such for Phi-3."""
        layers = {"window_size": 32, "slide_key_value_cache": False, "slide_inputs": False}
        config["model"]["decoder"]["sliding_window"] = layers | {"layers": [], "cache_slack": 0}

    set_config(own, no_window)
    with pytest.raises(BuildError, match=r"'.*own' does not run as it came"):
        build_on(Foreign(own, foreign.base, foreign.adapter), tmp_path / "bundle")


def test_bundle_add_names_the_float_base_where_an_adapter_records_one(
    foreign: Foreign, tmp_path: Path
) -> None:
    from edgekit.bases import fingerprint_of

    output = tmp_path / "bundle"
    build_on(foreign, output, parity=False, adapters={})
    adapter = shutil.copytree(foreign.adapter, tmp_path / "adapter")
    base = {"name": "tiny-llama", "source": "test", "fingerprint": fingerprint_of(foreign.base)}
    (adapter / "edgekit.json").write_text(json.dumps({"schema_version": "1.0", "base": base}))
    source = AdapterSource(path=adapter)
    with pytest.raises(PeftAdapterError, match="name that base with --base to compare"):
        add_adapter(output, "skill", source, parity=False)
    figures = add_adapter(output, "skill", source, base=str(foreign.base))
    assert figures["cpu"].exact_mean_kl < 1e-6
    assert Bundle.open(output, verify="full").adapter_card("skill").binding == "assumed"
