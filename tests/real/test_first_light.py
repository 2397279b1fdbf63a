"""From data to device on a real model: what the README promises, in numbers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit_runtime import Bundle

pytestmark = pytest.mark.real

TEST_ROWS = "bundles/demo/data/tone/test.csv"
PROMPTS = (
    "Phrase: The cat came home after a week!\nTone:",
    "The capital of France is",
    "Message: Lunch with Ana at noon on Friday.\nJSON:",
)


def test_the_gate_measured_what_it_promises(real_bundle: Path) -> None:
    report = json.loads((real_bundle / "reports" / "parity.json").read_text(encoding="utf-8"))
    figures = {"base": report["cpu-fast"]["base"]}
    for name in ("tone", "plain"):
        card = real_bundle / "adapters" / name / "adapter.json"
        figures[name] = json.loads(card.read_text(encoding="utf-8"))["parity"]["cpu-fast"]
        assert figures[name]["effect_kl"] >= 0.1, name
    for name, figure in figures.items():
        assert figure["positions"] >= 1024, name
        assert figure["exact_mean_kl"] < 1e-6, name
        assert figure["exact_top1"] >= 0.999, name
        assert figure["shipping_mean_kl"] <= 1e-2, name


def test_the_bundle_scores_like_torch_and_beats_the_base(
    real_bundle: Path, tone_adapter: Path
) -> None:
    from edgekit import evaluate

    on_device = evaluate(data=TEST_ROWS, bundle=real_bundle, adapter="tone")
    in_torch = evaluate(data=TEST_ROWS, base="smollm2-135m", adapter=str(tone_adapter))
    base = evaluate(data=TEST_ROWS, bundle=real_bundle, recipe_of="tone", perplexity=False)
    assert on_device.n_rows == in_torch.n_rows == base.n_rows == 100
    # Both on the int4 weights that the adapter was trained on: int8 activations are the difference.
    assert in_torch.subject.endswith("weights of target:cpu-fast")
    assert abs(on_device.metrics["accuracy"] - in_torch.metrics["accuracy"]) <= 0.03
    assert on_device.metrics["accuracy"] >= base.metrics["accuracy"] + 0.2
    assert on_device.metrics["accuracy"] > 0.4
    ratio = on_device.metrics["perplexity"] / in_torch.metrics["perplexity"]
    assert 0.97 < ratio < 1.03


def test_two_hundred_random_swaps_leave_no_trace(real_bundle: Path) -> None:
    expected = {}
    with Bundle.open(real_bundle).engine(threads=2) as fresh:
        for adapter in (None, "tone", "plain"):
            for prompt in PROMPTS:
                answer = fresh.generate(prompt, adapter=adapter, max_new_tokens=6)
                expected[adapter, prompt] = answer.token_ids
    for prompt in PROMPTS[1:]:
        assert len({expected[adapter, prompt] for adapter in (None, "tone", "plain")}) == 3
    # A process of its own, whose memory nothing else of the tests grows.
    command = [sys.executable, "-c", _SWAPS, str(real_bundle), json.dumps(PROMPTS)]
    told = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert len(told["answers"]) == 201
    for swap, (adapter, prompt, tokens) in enumerate(told["answers"]):
        assert tuple(tokens) == tuple(expected[adapter, prompt]), (swap, adapter, prompt)
    # The first hundred warm the allocator up; the second hundred shows a leak if there is one.
    assert told["rss"][1] - told["rss"][0] < 1_000_000


_SWAPS = """
import json, random, sys
import psutil
from edgekit_runtime import Bundle
bundle, prompts = sys.argv[1], json.loads(sys.argv[2])
chance, answers, rss = random.Random(0), [], []
with Bundle.open(bundle).engine(threads=2) as engine:
    for swap in range(201):
        adapter, prompt = chance.choice((None, "tone", "plain")), chance.choice(prompts)
        answer = engine.generate(prompt, adapter=adapter, max_new_tokens=6)
        answers.append((adapter, prompt, answer.token_ids))
        if swap in (100, 200):
            rss.append(psutil.Process().memory_info().rss)
print(json.dumps({"answers": answers, "rss": rss}))
"""


def test_the_base_answers_through_its_chat_template(real_bundle: Path) -> None:
    question = [{"role": "user", "content": "What is the capital of France?"}]
    with Bundle.open(real_bundle).engine() as engine:
        assert "Paris" in engine.generate(messages=question, max_new_tokens=24).text


def test_a_schema_rules_the_answer_of_an_adapter(real_bundle: Path) -> None:
    labels = ["joy", "sadness", "anger", "fear", "surprise"]
    schema = {
        "type": "object",
        "properties": {"tone": {"enum": labels}},
        "required": ["tone"],
        "additionalProperties": False,
    }
    with Bundle.open(real_bundle).engine() as engine:
        answer = engine.generate(PROMPTS[0], adapter="tone", schema=schema, max_new_tokens=32)
        assert json.loads(answer.text)["tone"] in labels
        choice = engine.generate(PROMPTS[0], adapter="plain", choices=[f" {x}" for x in labels])
        assert choice.text.strip() in labels


def test_torch_and_bundle_agree_on_perplexity_row_by_row(
    real_bundle: Path, tone_adapter: Path
) -> None:
    from edgekit.evaluating.subjects import bundle_subject, torch_subject
    from edgekit.targets import load_target
    from edgekit.training.tokens import TokenizedExample

    profile = load_target("cpu-fast")
    with torch_subject("smollm2-135m", tone_adapter, profile=profile) as torch_model:
        ids = tuple(torch_model.tokenizer(PROMPTS[0] + " joy").input_ids)
        row = [TokenizedExample(input_ids=ids, labels=ids)]
        expected, count = torch_model.nll(row)
    with bundle_subject(real_bundle, "tone") as on_device:
        got, same_count = on_device.nll(row)
    assert count == same_count == len(ids) - 1
    assert got / count == pytest.approx(expected / count, abs=0.1)
