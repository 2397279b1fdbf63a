"""The engine on static graphs: the tokens that torch takes, whatever way they are asked for."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from edgekit.bases import resolve_base
from edgekit.building.qnn.export import export_static
from edgekit.building.qnn.read_back import static_floats, static_weights
from edgekit.building.qnn.target_dir import stored_profile
from edgekit.building.reference import TorchReference, torch_reference
from edgekit_runtime import Bundle, Engine
from edgekit_runtime.contract import SocketContract
from edgekit_runtime.errors import BundleError, GenerationError, TargetError
from edgekit_runtime.static_layout import MASKED, Rope, StaticLayout
from tests.static.profiles import CHUNK_TOKENS, CONTEXT_TOKENS

PROMPT = "where is the card that was lost when the payment was not found in the kitchen?"
FREE = {"temperature": 0.0, "max_new_tokens": 12}


@pytest.fixture(scope="module")
def reference(
    static_bundle: Path, tiny_base: Path, alpha_adapter: Path, beta_adapter: Path
) -> TorchReference:
    """The tiny base in torch with the static graphs' weights, both adapters attached."""
    target, base = static_bundle / "targets" / "static", resolve_base(str(tiny_base))
    problems: list[str] = []
    contract = SocketContract.from_dict(json.loads((target / "sockets.json").read_text()), problems)
    source = export_static(base, stored_profile(target))
    with torch_reference(base, {"alpha": alpha_adapter, "beta": beta_adapter}) as reference:
        weights = static_weights(source, contract)
        stored = {name: weight.values for name, weight in weights.items()}
        stored |= static_floats(source, base)
        reference.replace_weights(stored)
        reference.round_to_float16(keep=stored)
        return reference


def greedy(reference: TorchReference, adapter: str, tokens: list[int], n: int) -> list[int]:
    row = list(tokens)
    for _ in range(n):
        row.append(int(reference.logits(adapter, row)[-1].argmax()))
    return row[len(tokens) :]


@pytest.mark.parametrize("adapter", ["", "alpha", "beta"])
def test_the_engine_takes_the_tokens_that_torch_takes(
    adapter: str, engine: Engine, reference: TorchReference
) -> None:
    tokens = engine.tokenize(PROMPT)
    assert len(tokens) > CHUNK_TOKENS  # a full chunk and a padded one
    answer = engine.generate(PROMPT, adapter=adapter or None, **FREE)
    expected = greedy(reference, adapter, tokens, 12)
    stop = engine._loaded.tokenizer().eos_ids & set(expected)
    assert not stop, "the tiny model ended early: take another prompt"
    assert list(answer.token_ids) == expected


@pytest.mark.parametrize("adapter", ["", "alpha"])
def test_labels_are_as_likely_as_torch_says(
    adapter: str, engine: Engine, reference: TorchReference
) -> None:
    ends, n_prompt = sorted(engine._loaded.tokenizer().eos_ids), len(engine.tokenize(PROMPT))
    labels = [" lost", " light", " light on"]
    found = []
    for label in labels:
        row = engine.tokenize(PROMPT + label)
        logits = np.asarray(reference.logits(adapter, row), np.float64)[n_prompt - 1 :]
        log_probs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        told = log_probs[range(len(row) - n_prompt), row[n_prompt:]].sum()
        found.append(told + np.logaddexp.reduce(log_probs[-1, ends]))
    expected = np.exp(np.array(found) - np.logaddexp.reduce(found))
    answer = engine.classify(prompt=PROMPT, labels=labels, adapter=adapter or None)
    assert [answer.probabilities[label] for label in labels] == pytest.approx(expected, abs=1e-2)
    assert answer.coverage == pytest.approx(float(np.exp(found).sum()), rel=0.05)


def test_an_adapter_leaves_no_trace(engine: Engine) -> None:
    before = engine.generate(PROMPT, **FREE).token_ids
    alpha = engine.generate(PROMPT, adapter="alpha", **FREE).token_ids
    assert engine.generate(PROMPT, adapter="beta", **FREE).token_ids != alpha
    assert engine.generate(PROMPT, adapter="alpha", **FREE).token_ids == alpha
    assert engine.generate(PROMPT, **FREE).token_ids == before != alpha


def test_an_unloaded_adapter_stays_with_the_generator_that_has_it(engine: Engine) -> None:
    expected = engine.generate(PROMPT, adapter="alpha", **FREE).token_ids
    graph = engine._loaded.graph("model")
    source = engine._loaded.adapter_source("alpha")
    adapters, generator = graph.new_adapters(), graph.new_generator(max_length=CONTEXT_TOKENS)
    adapters.load(str(source.path), "alpha")
    generator.set_active_adapter(adapters, "alpha")
    adapters.unload("alpha")
    generator.append_tokens(engine.tokenize(PROMPT))
    for _ in range(12):
        generator.generate_next_token()
    assert tuple(generator.get_sequence(0)[-12:]) == expected


def test_a_conversation_keeps_its_cache_and_changes_its_adapter(engine: Engine) -> None:
    with engine.session(**FREE) as chat:
        chat.generate("the card")
        second = chat.generate("the light")
        assert second.usage.cached_tokens > 0
        chat.swap("alpha")
        swapped = chat.generate("the money")
        messages = chat.messages
    with engine.session(adapter="alpha", messages=messages[:-2], **FREE) as fresh:
        assert fresh.generate("the money").token_ids == swapped.token_ids


def test_scores_are_those_of_torch(engine: Engine, reference: TorchReference) -> None:
    tokens = engine.tokenize(PROMPT)
    found = engine.token_log_probs(tokens, adapter="alpha")
    logits = reference.logits("alpha", tokens)[:-1].double().log_softmax(-1).numpy()
    expected = logits[np.arange(len(tokens) - 1), tokens[1:]]
    assert np.abs(found - expected).max() < 0.15  # float16 against float32
    assert np.abs(found - expected).mean() < 0.02


def test_an_answer_fills_the_context_to_its_last_slot(
    engine: Engine, reference: TorchReference
) -> None:
    tokens = engine.tokenize(PROMPT)
    n = CONTEXT_TOKENS - len(tokens)
    graph = engine._loaded.graph("base")
    generator = graph.new_generator(max_length=CONTEXT_TOKENS)
    generator.append_tokens(tokens)
    for _ in range(n):
        generator.generate_next_token()
    assert generator.token_count() == CONTEXT_TOKENS
    expected = greedy(reference, "", tokens, n)
    assert list(generator.get_sequence(0)[len(tokens) :]) == expected
    generator.generate_next_token()
    with pytest.raises(RuntimeError, match="the context of 96 tokens is full"):
        generator.generate_next_token()


def test_going_back_is_the_same_as_starting_anew(engine: Engine) -> None:
    tokens = engine.tokenize(PROMPT)
    graph = engine._loaded.graph("base")
    back, anew = (graph.new_generator(max_length=CONTEXT_TOKENS) for _ in range(2))
    back.append_tokens([*tokens[:20], *([5] * 30)])
    back.rewind_to(20)
    back.append_tokens(tokens[20:])
    anew.append_tokens(tokens)
    assert back.get_logits().argmax() == anew.get_logits().argmax()
    assert np.abs(back.get_logits() - anew.get_logits()).max() < 0.05


def test_a_constraint_is_refused_with_the_way_out(engine: Engine) -> None:
    with pytest.raises(GenerationError, match="cannot be followed on this target") as caught:
        engine.generate(PROMPT, schema={"type": "object"})
    assert "Use another target of the bundle" in caught.value.hint


def test_a_simulator_is_never_chosen_unasked(static_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime_qnn")
    manifest = Bundle.open(static_bundle, cache_dir=None).manifest
    record = manifest.targets["static"]
    from dataclasses import replace

    from edgekit_runtime.targets import choose_target, target_status

    qnn = replace(record, execution_provider="QNNExecutionProvider")
    if not target_status("qnn", qnn).is_simulated:
        pytest.skip("an NPU is here")
    with pytest.raises(TargetError, match="only a simulator here"):
        choose_target(replace(manifest, targets={"qnn": qnn}), None)
    assert choose_target(replace(manifest, targets={"qnn": qnn}), "qnn").name == "qnn"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"chunk_tokens": "64"}, "chunk_tokens: expected int, got str"),
        ({"ropes": [{"inverse_frequencies": [], "scaling": 1.0}]}, "expected a list of numbers"),
        ({"ropes": [{"inverse_frequencies": [1.0], "scaling": "1"}]}, "expected a number, got '1'"),
    ],
)
def test_a_malformed_layout_is_refused(
    change: dict[str, object], problem: str, static_bundle: Path, tmp_path: Path
) -> None:
    stored = json.loads((static_bundle / "targets" / "static" / "static.json").read_text())
    path = tmp_path / "static.json"
    path.write_text(json.dumps(stored | change))
    with pytest.raises(TargetError, match=r"static\.json is malformed") as caught:
        StaticLayout.from_file(path)
    assert any(problem in line for line in caught.value.problems)


def test_the_layout_reads_back_as_written(static_bundle: Path, tmp_path: Path) -> None:
    layout = StaticLayout.from_file(static_bundle / "targets" / "static" / "static.json")
    path = tmp_path / "static.json"
    path.write_text(json.dumps(layout.to_dict()))
    assert StaticLayout.from_file(path) == layout


def test_a_changed_graph_is_found_before_it_runs(static_bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(static_bundle, tmp_path / "copy"))
    weights = copy / "targets" / "static" / "decoder.onnx.data"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(BundleError, match="changed"):
        Bundle.open(copy, cache_dir=None)


def test_a_mask_shows_the_window_and_nothing_that_comes_later() -> None:
    layout = StaticLayout(
        chunk_tokens=3,
        context_tokens=8,
        hidden_size=4,
        layers=1,
        kv_heads=1,
        head_dim=2,
        windows=(None, 2),
        ropes=(Rope(inverse_frequencies=(1.0,), scaling=1.0),),
    )
    seen = layout.mask(0, 2, 3)[0, 0] == 0
    assert seen.astype(int).tolist() == [
        [1, 1, 0, 0, 0, 1, 0, 0],
        [1, 1, 0, 0, 0, 1, 1, 0],
        [1, 1, 0, 0, 0, 1, 1, 1],
    ]
    window = layout.mask(1, 2, 3)[0, 0]
    assert (window == 0).astype(int).tolist() == [
        [0, 1, 0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 0, 1, 1],
    ]
    assert window.min() == MASKED
