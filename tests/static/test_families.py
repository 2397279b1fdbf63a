"""Every family as static graphs: exactly what torch computes with the same rounded weights."""

import json
from pathlib import Path

import numpy as np
import pytest

from edgekit.adapters.convert import to_sockets, write_onnx_adapter
from edgekit.adapters.peft_dir import read_peft_adapter
from edgekit.bases import resolve_base
from edgekit.building.agreement import Agreement
from edgekit.building.device_weights import use_device_weights
from edgekit.building.qnn.export import export_static
from edgekit.building.qnn.read_back import static_contract, static_floats, static_weights
from edgekit.building.qnn.runners import open_runners
from edgekit.building.qnn.target_dir import write_static_target
from edgekit.building.reference import torch_reference
from edgekit.errors import BuildError
from tests.peft_adapters import make_peft_adapter
from tests.static.profiles import CHUNK_TOKENS, CONTEXT_TOKENS, static_profile
from tests.tiny_models import VOCAB_SIZE, make_tiny_model

FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3"]


@pytest.mark.parametrize("family", FAMILIES)
def test_static_graphs_compute_what_torch_does(family: str, tmp_path: Path) -> None:
    base = resolve_base(str(make_tiny_model(tmp_path / "base", family, tied=family != "qwen3")))
    peft = make_peft_adapter(base.path, tmp_path / "peft", seed=3, strength=0.3)
    profile = static_profile(tmp_path)
    contract = write_static_target(tmp_path / "target", base, profile)
    adapter = read_peft_adapter(peft, base, name="a", max_rank=profile.adapters.max_rank)
    onnx = tmp_path / "a.onnx_adapter"
    write_onnx_adapter(to_sockets(adapter.modules, contract), contract, onnx)
    source = export_static(base, profile)
    # Longer than the window of families that have one, and to the last slot of the context.
    row = [int(t) for t in np.random.default_rng(0).integers(3, VOCAB_SIZE, CONTEXT_TOKENS)]
    with (
        open_runners(
            tmp_path / "target", source, profile.execution_provider, {"a": onnx}, contract, 1
        ) as runners,
        torch_reference(base, {"a": peft}) as reference,
    ):
        weights = static_weights(source, contract)
        stored = {name: weight.values for name, weight in weights.items()}
        stored |= static_floats(source, base)
        reference.replace_weights(stored)
        reference.round_to_float16(keep=stored)
        for name in ("", "a"):
            expected = reference.logits(name, row)
            exact, half = Agreement(), Agreement()
            exact.add(expected, runners.exact.logits(name, row, 2 * CHUNK_TOKENS))
            half.add(expected, runners.shipping.logits(name, row, CHUNK_TOKENS))
            assert exact.mean_kl < 1e-6
            assert exact.top1 == 1.0
            assert half.mean_kl < 1e-3
        moved = Agreement()
        moved.add(reference.logits("", row), expected)
        assert moved.mean_kl > 0.1


def test_a_rope_that_depends_on_the_length_is_refused(tmp_path: Path) -> None:
    base = resolve_base(str(make_tiny_model(tmp_path / "base", "phi4")))
    with pytest.raises(BuildError, match="rotary embeddings of type 'longrope', whose frequencies"):
        export_static(base, static_profile(tmp_path))


def test_an_activation_without_a_static_form_is_refused(tmp_path: Path) -> None:
    path = make_tiny_model(tmp_path / "base")
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    (path / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    with pytest.raises(BuildError, match="uses the activation 'relu'"):
        export_static(resolve_base(str(path)), static_profile(tmp_path))


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    path = make_tiny_model(tmp_path / "base")
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    config |= {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(BuildError, match="GPT2LMHeadModel, which has no static graph yet"):
        export_static(resolve_base(str(path)), static_profile(tmp_path))


def test_blocks_that_do_not_fill_a_layer_are_refused(tiny_base: Path, tmp_path: Path) -> None:
    profile = static_profile(tmp_path, quantization={"block_size": 256})
    with pytest.raises(BuildError, match="blocks of 256 weights do not fill every layer") as caught:
        export_static(resolve_base(str(tiny_base)), profile)
    assert "model.layers.0.self_attn.q_proj.weight: 64 inputs" in caught.value.problems


def test_a_chunk_as_long_as_the_context_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    profile = static_profile(tmp_path, static={"chunk_tokens": CONTEXT_TOKENS})
    with pytest.raises(BuildError, match="leaves no room in a context of 96 tokens"):
        export_static(resolve_base(str(tiny_base)), profile)


def test_the_same_inputs_give_the_same_bytes(tiny_base: Path, tmp_path: Path) -> None:
    base, profile = resolve_base(str(tiny_base)), static_profile(tmp_path)
    one, two = (export_static(base, profile, cache_dir=tmp_path / name) for name in ("one", "two"))
    assert one != two
    assert (one / "digests.json").read_bytes() == (two / "digests.json").read_bytes()


def test_an_adapter_can_be_trained_on_a_static_targets_weights(
    tiny_base: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    base, profile = resolve_base(str(tiny_base)), static_profile(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(base.path)
    floats = model.model.layers[0].mlp.up_proj.weight.detach().clone()
    use_device_weights(model, base, profile)
    export = export_static(base, profile)
    stored = static_weights(export, static_contract(export))["model.layers.0.mlp.up_proj.weight"]
    rounded = model.model.layers[0].mlp.up_proj.weight.detach().numpy()
    assert np.array_equal(rounded, stored.values)
    assert 0 < np.abs(rounded - floats.numpy()).max() < stored.steps.max()
