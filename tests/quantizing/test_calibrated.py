"""GPTQ and tuning: nearer to the float base than rounding, and what ships is what they made."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.bases import Base, resolve_base
from edgekit.building.build import build
from edgekit.building.dequantize import quantized_weights
from edgekit.building.reference import replace_weights
from edgekit.building.weights import load_graph
from edgekit.errors import ParityError, RecipeError
from edgekit.quantizing.blocks import Blocks
from edgekit.quantizing.calibration import calibration_rows
from edgekit.quantizing.options import Calibration, Quantization, as_texts, change
from edgekit.quantizing.quantize import quantize_base
from edgekit.quantizing.weights import EMBEDDING, HEAD, block_size_of, weight_sizes
from edgekit_runtime.contract import SocketContract
from tests.tiny_models import make_tiny_model

ROOT = Path(__file__).parents[2]
CALIBRATION = {"source": "self", "rows": 16, "row_tokens": 64, "steps": 40}


def options(**values: Any) -> Quantization:
    return Quantization.model_validate({"calibration": CALIBRATION} | values)


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> Base:
    return resolve_base(str(tiny_base))


def mean_kl(base: Base, blocks: dict[str, Blocks], directory: Path) -> float:
    """Of a model with these blocks against its float self, on text of another seed."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32).eval()
    row = calibration_rows(
        model, base, Calibration(source="self", rows=32, row_tokens=64, seed=5), directory
    )
    with torch.inference_mode():
        expected = model(row).logits.log_softmax(-1)
        values = {name: weight.values() for name, weight in blocks.items()}
        replace_weights(model, {EMBEDDING: values[HEAD]} | values)
        actual = model(row).logits.log_softmax(-1)
    return float((expected.exp() * (expected - actual)).sum(-1).mean())


@pytest.fixture(scope="module")
def rounded(base: Base) -> dict[str, Blocks]:
    from edgekit.quantizing.blocks import round_to_nearest
    from edgekit.quantizing.weights import float_weight

    names = set(weight_sizes(base)) - {EMBEDDING}
    return {
        name: round_to_nearest(float_weight(base, name), bits=4, block_size=32) for name in names
    }


@pytest.mark.parametrize("algorithm", ["gptq", "tuned"])
def test_calibration_brings_the_model_nearer_to_its_float_self(
    algorithm: str, base: Base, rounded: dict[str, Blocks], tmp_path: Path
) -> None:
    blocks = quantize_base(base, options(algorithm=algorithm), cache_dir=tmp_path / "one")
    assert blocks.keys() == rounded.keys()
    share = {"gptq": 0.97, "tuned": 0.9}[algorithm]
    assert mean_kl(base, blocks, tmp_path) < share * mean_kl(base, rounded, tmp_path)
    again = quantize_base(base, options(algorithm=algorithm), cache_dir=tmp_path / "two")
    for name, weight in blocks.items():
        assert np.array_equal(weight.codes, again[name].codes), name
        assert np.array_equal(weight.scales, again[name].scales), name
    messages: list[str] = []
    cached = quantize_base(
        base, options(algorithm=algorithm), cache_dir=tmp_path / "one", on_message=messages.append
    )
    assert messages == ["quantized weights found in the cache"]
    assert all(np.array_equal(cached[name].codes, blocks[name].codes) for name in blocks)


@pytest.mark.parametrize("family", ["gemma", "qwen3"])
def test_tuned_weights_ship_and_the_gate_knows_them(family: str, tmp_path: Path) -> None:
    """Gemma ties its head and scales its embedding; Qwen has a head of its own here."""
    path = make_tiny_model(tmp_path / family, family, tied=family == "gemma")
    text = "algorithm=tuned,eight_bit=*.down_proj,calibration.rows=8,calibration.row_tokens=32"
    report = build(
        name="tuned",
        base=str(path),
        output=tmp_path / "bundle",
        quantization=f"{text},calibration.steps=10",
    )
    assert report.parity["cpu"][""].exact_mean_kl < 1e-6
    target = tmp_path / "bundle" / "targets" / "cpu"
    contract = SocketContract.from_dict(json.loads((target / "sockets.json").read_text()), [])
    shipped = quantized_weights(load_graph(target / "score.onnx"), contract)
    changed = change(Quantization(), f"{text},calibration.steps=10")
    for name, weight in quantize_base(resolve_base(str(path)), changed).items():
        assert weight.bits == (8 if "down_proj" in name else 4)
        np.testing.assert_array_equal(shipped[name].values, weight.values(), err_msg=name)


def test_another_weight_than_the_tuned_one_fails_the_gate(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exact step is blind to it: it reads its reference from the graph."""
    from edgekit.building import export

    put = export.replace_weights_in

    def put_another(directory: Path, weights: dict[str, Blocks], **options: bool) -> None:
        weight = weights["model.layers.0.mlp.down_proj.weight"]
        codes = weight.codes.copy()
        codes[0, 0, 0] ^= 1
        put(
            directory,
            weights | {"model.layers.0.mlp.down_proj.weight": replace(weight, codes=codes)},
            **options,
        )

    monkeypatch.setattr(export, "replace_weights_in", put_another)
    with pytest.raises(ParityError) as caught:
        build(
            name="broken",
            base=str(base.path),
            output=tmp_path / "bundle",
            quantization="algorithm=gptq,calibration.rows=3,calibration.row_tokens=32",
        )
    (line,) = caught.value.problems
    assert line.startswith("model.layers.0.mlp.down_proj.weight[0, 0]: 1 quantization steps from")
    assert line.endswith("the quantized weight, bound 0.1")


def test_eight_bits_go_where_they_help_most_within_their_budget(
    base: Base, rounded: dict[str, Blocks], tmp_path: Path
) -> None:
    sizes = {name: weight.codes.size for name, weight in rounded.items()}
    by_budget = {}
    for budget in (0.2, 0.4):
        chosen = options(algorithm="rtn", eight_bit_budget=budget)
        wide = quantize_base(base, chosen, cache_dir=tmp_path)
        grown = sum(
            sizes[name] * ((1 + 4 / weight.block_size) - (4 / 8 + 4 / 32))
            for name, weight in wide.items()
        ) / (sum(sizes.values()) * 5 / 8)
        assert budget - 0.1 < grown <= budget
        assert {weight.bits for weight in wide.values()} == {8}
        by_budget[budget] = mean_kl(base, rounded | wide, tmp_path)
    assert by_budget[0.4] < by_budget[0.2] < 0.8 * mean_kl(base, rounded, tmp_path)


def test_a_persons_own_text_is_used_and_refused_where_too_short(base: Base, tmp_path: Path) -> None:
    text = tmp_path / "own.txt"
    text.write_text("the card is lost and the payment was not found " * 40, encoding="utf-8")
    calibration = CALIBRATION | {"source": str(text), "rows": 4, "steps": 2}
    own = options(algorithm="gptq", calibration=calibration)
    other = options(algorithm="gptq", calibration=CALIBRATION | {"rows": 4})
    mine = quantize_base(base, own, cache_dir=tmp_path)
    sampled = quantize_base(base, other, cache_dir=tmp_path)
    assert any(not np.array_equal(mine[name].codes, sampled[name].codes) for name in mine)
    text.write_text("too short", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"too short: \d+ tokens make 0 rows of 64, 4 are asked"):
        quantize_base(base, own, cache_dir=tmp_path)


def test_mixed_text_is_prose_and_what_the_base_says(base: Base, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base.path).eval()
    rows = calibration_rows(model, base, Calibration(rows=12, row_tokens=32), tmp_path)
    alone = calibration_rows(
        model, base, Calibration(source="self", rows=2, row_tokens=32), tmp_path
    )
    assert rows.shape == (12, 32)
    assert [row for row in rows[:6].tolist() if row in alone.tolist()] == [alone[0].tolist()]
    assert [row for row in rows[6:].tolist() if row in alone.tolist()] == [alone[1].tolist()]
    tokenizer = AutoTokenizer.from_pretrained(base.path)
    prose = " ".join((ROOT / "edgekit/quantizing/calibration_text.txt").read_text().split())
    words = [tokenizer.decode(row) for row in rows if row.tolist() not in alone.tolist()]
    assert all(" ".join(text.split())[1:-1] in prose for text in words)


@pytest.mark.parametrize(
    ("n_inputs", "bits", "size"),
    [(576, 4, 32), (576, 8, 64), (1536, 8, 128), (2048, 8, 128), (96, 8, 32)],
)
def test_blocks_of_eight_bits_are_as_large_as_fills_the_inputs(
    n_inputs: int, bits: int, size: int
) -> None:
    assert block_size_of(n_inputs, bits, Quantization(eight_bit_block_size=128)) == size
    assert block_size_of(n_inputs, bits, Quantization()) == min(size, 64)


def test_every_wrong_option_is_named() -> None:
    wrong = (
        "blok_size=32,bits=5,fast,=3,eight_bit_budget=2,tier=qualty,is_symmetric=no way,"
        "embedding=maybe,calibration.rows=many,calibration.row=3"
    )
    with pytest.raises(RecipeError) as caught:
        change(Quantization(), wrong)
    problems = caught.value.problems
    assert problems[0].startswith("blok_size: unknown key; did you mean 'block_size'")
    assert problems[1:-1] == (
        "'fast': expected KEY=VALUE, such as tier=fast",
        "'=3': expected KEY=VALUE, such as tier=fast",
        "tier: expected 'fast', 'default' or 'quality', got 'qualty'; did you mean 'quality'?",
        "bits: expected 4 or 8, got 5",
        "eight_bit_budget: expected 1 or less, got 2",
        "is_symmetric: expected true or false, got 'no way'",
        "embedding: expected true or false, got 'maybe'",
        "calibration.rows: expected a whole number, got 'many'",
    )
    assert problems[-1].startswith("calibration.row: unknown key; did you mean 'row")


def test_booleans_are_understood() -> None:
    changed = change(Quantization(), "is_symmetric=false,embedding=false")
    assert (changed.is_symmetric, changed.embedding) == (False, False)
    assert change(Quantization(embedding=False), "embedding=True").embedding


@pytest.mark.parametrize(
    "text",
    ["tier=fast", "tier=quality,is_symmetric=false", "eight_bit=*.v_proj+*.o_proj,embedding=false"],
)
def test_what_a_manifest_says_can_be_chosen_again(text: str) -> None:
    chosen = change(Quantization(), text)
    said = as_texts(chosen)
    assert (
        change(Quantization(), ",".join(f"{key}={value}" for key, value in said.items())) == chosen
    )
    assert ("calibration.rows" in said) == chosen.needs_text
    private = as_texts(change(chosen, "tier=default,calibration.source=/home/me/secret/notes.txt"))
    assert private["calibration.source"] == "notes.txt"
