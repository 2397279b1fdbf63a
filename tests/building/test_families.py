"""Every model family through export, sockets, adapters and the gate, on every target.

The fast tests take one of each kind of layout: packed (Llama, the shared bundle), q/k norm
(Qwen3; Gemma 3 with windows and norms around each block), fused in the checkpoint (Phi-3), and
not packed in the graph, as DirectML's are not.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from edgekit.adapters.peft_dir import base_linear_shapes
from edgekit.bases import resolve_base
from edgekit.building import export
from edgekit.building.build import BuildReport, build
from edgekit.building.model_builder import restate_config
from edgekit.building.sessions import TargetSessions
from edgekit.building.target_dir import context_length
from edgekit.bundling.adapters import AdapterSource
from edgekit.errors import BuildError
from edgekit.targets import TargetProfile, list_targets
from edgekit_runtime.bundle import Bundle
from tests.peft_adapters import make_peft_adapter
from tests.tiny_models import architecture_of, make_tiny_model

TIED = {
    "llama": False,
    "mistral": True,
    "qwen2": True,
    "qwen3": False,
    "gemma": True,
    "gemma2": True,
    "gemma3": True,
    "phi3": False,
    "phi4": True,
}
# Named in the order of the test's identifiers: (family, whether the graph packs q/k/v and gate/up).
LAYOUTS = [("qwen3", True), ("gemma3", True), ("phi3", True), ("llama", False), ("phi3", False)]
# Targets whose gate runs here.
PROFILES = {
    name: profile
    for name, profile in list_targets().items()
    if profile.verify.execution_provider == "CPUExecutionProvider"
}


@dataclass(frozen=True)
class Built:
    base: Path
    adapters: dict[str, Path]
    report: BuildReport


def build_family(family: str, target: str, directory: Path) -> Built:
    """A tiny base of a family, built with adapters of different rank and modules."""
    base = make_tiny_model(directory / f"tiny-{family}", family, tied=TIED[family])
    few = ["qkv_proj", "down_proj"] if family in {"phi3", "phi4"} else ["q_proj", "down_proj"]
    adapters = {
        "wide": make_peft_adapter(base, directory / "wide", seed=1, r=4),
        "narrow": make_peft_adapter(base, directory / "narrow", seed=2, r=8, target_modules=few),
    }
    report = build(
        name=family,
        base=str(base),
        output=directory / "bundle",
        targets=(target,),
        adapters={key: AdapterSource(path=path) for key, path in adapters.items()},
    )
    return Built(base, adapters, report)


@pytest.fixture(scope="module", params=LAYOUTS, ids=lambda p: f"{p[0]}{'' if p[1] else '-cut'}")
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    family, packed = request.param
    with pytest.MonkeyPatch.context() as patch:
        if not packed:
            cut = {"fuse_qkv": "false", "fuse_mlp_gate_up": "false"}
            stock = export.builder_options
            patch.setattr(export, "builder_options", lambda profile: stock(profile) | cut)
        return build_family(family, "cpu", tmp_path_factory.mktemp(family))


def check_figures(report: BuildReport, profile: TargetProfile) -> None:
    """The gate passed, and what passed it was no adapter that does nothing."""
    figures = report.parity[profile.name]
    assert list(figures) == ["", "wide", "narrow"]
    for name, figure in figures.items():
        assert figure.positions >= 1024
        assert figure.exact_mean_kl < profile.parity.exact_max_mean_kl
        assert figure.shipping_mean_kl <= profile.parity.shipping_max_mean_kl
        assert (figure.effect_kl is None) if not name else (figure.effect_kl or 0) >= 0.1


def test_every_layout_passes_the_gate(built: Built) -> None:
    check_figures(built.report, list_targets()["cpu"])
    for figure in built.report.parity["cpu"].values():
        assert figure.exact_mean_kl < 1e-6
        assert figure.exact_top1 >= 0.999
        assert figure.last_logits_mean_kl <= 1e-6
        # A fall is no fault: rounded, a random base is less sure of what it has no reason for.
        assert figure.nll_increase < 1


def test_base_and_adapters_answer_differently(built: Built) -> None:
    report = built.report
    sessions = TargetSessions(report.output / "targets" / "cpu", threads=1)
    row = list(range(5, 40))
    plugged = [None, *(report.output / a.files["cpu"] for a in report.manifest.adapters.values())]
    outputs = [sessions.last(row, adapter) for adapter in plugged]
    assert len(outputs) == 3
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(outputs[first] - outputs[second]).max() > 0.1


def test_the_bundle_is_whole(built: Built) -> None:
    report = built.report
    bundle = Bundle.open(report.output, verify="full")
    assert bundle.verify() == []
    assert bundle.manifest.base.fingerprint == resolve_base(str(built.base)).fingerprint
    assert bundle.manifest.targets["cpu"].verified_on is not None
    assert bundle.manifest.targets["cpu"].context_length == 512  # the base's own, below 4096
    assert report.size_bytes == sum(
        path.stat().st_size
        for path in report.output.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    )


def test_each_module_of_peft_has_its_place_in_the_sockets(built: Built) -> None:
    """All rows of every linear lie in some socket, once."""
    sockets = json.loads((built.report.output / "targets/cpu/sockets.json").read_text())["sockets"]
    rows: dict[str, list[range]] = {}
    for part in (part for socket in sockets for part in socket["parts"]):
        start = part.get("start", 0)
        rows.setdefault(part["module"], []).append(range(start, start + part["n"]))
    shapes = base_linear_shapes(built.base)
    assert set(rows) == set(shapes)
    for module, (out, _) in shapes.items():
        assert sorted(index for part in rows[module] for index in part) == list(range(out))


def test_the_runtime_answers_as_torch_on_the_same_weights(built: Built) -> None:
    """Greedy tokens past a window's length, from a session as an app has it."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    prompt = "the card is lost and the payment was not found " * 3
    model = AutoModelForCausalLM.from_pretrained(built.base, dtype=torch.float32)
    ids = torch.tensor([AutoTokenizer.from_pretrained(built.base).encode(prompt)])
    assert ids.shape[1] > 32
    model = PeftModel.from_pretrained(model, str(built.adapters["wide"]))
    with Bundle.open(built.report.output).engine() as engine:
        answer = engine.generate(prompt, adapter="wide", max_new_tokens=1, temperature=0)
        ranked = model(ids).logits[0, -1].argsort(descending=True)
        # Rounding the weights may swap near neighbours among 320 tokens, a wrong graph ranks at
        # random.
        assert answer.token_ids[0] in ranked[:16].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("target", PROFILES)
@pytest.mark.parametrize("family", TIED)
def test_every_family_on_every_target(family: str, target: str, tmp_path: Path) -> None:
    built = build_family(family, target, tmp_path)
    check_figures(built.report, PROFILES[target])
    assert Bundle.open(built.report.output, verify="full").verify() == []


def test_every_supported_architecture_is_built_here() -> None:
    assert {architecture_of(family) for family in TIED} == set(export.SUPPORTED_ARCHITECTURES)


def test_longrope_stops_where_its_keys_would_turn(tmp_path: Path) -> None:
    """The config says 4096, the profile too; the factors change after 512 positions."""
    base = resolve_base(str(make_tiny_model(tmp_path / "tiny-phi4", "phi4")))
    assert context_length(base, list_targets()["cpu"]) == 512


@pytest.mark.parametrize(
    "changed",
    [
        {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0}}},
        {"rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    ],
    ids=["new-words", "old-words"],
)
def test_rope_that_is_scaled_in_some_layers_only_is_refused(
    changed: dict[str, object], tmp_path: Path
) -> None:
    """Text models cut out of Gemma 3 from 4B on."""
    base = make_tiny_model(tmp_path / "tiny-gemma3", "gemma3")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | changed))
    with pytest.raises(BuildError, match=r"its rope is scaled \(linear\) in some layers only"):
        build(name="scaled", base=str(base), output=tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("family", "changed"),
    [
        ("llama", {}),
        ("qwen3", {}),
        ("gemma2", {}),
        ("mistral", {"layer_types": ["sliding_attention"] * 2}),
        ("phi3", {"layer_types": ["sliding_attention"] * 2}),
        ("gemma3", {"rope_theta": 1e6, "rope_local_base_freq": 1e4}),
    ],
)
def test_configs_are_restated_only_where_the_builder_misreads_them(
    family: str, changed: dict[str, object], tmp_path: Path
) -> None:
    from transformers import AutoConfig

    load: Callable[[], object] = lambda: AutoConfig.from_pretrained(base)  # noqa: E731
    base = make_tiny_model(tmp_path, family)
    before, after = load(), load()
    restate_config(after)
    new = {key: value for key, value in vars(after).items() if vars(before).get(key) != value}
    new.pop("rope_parameters", None)
    assert new == changed
