"""A rounded base is as sure of its next token as its float self, and every reader knows how."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgekit.bases import Base, resolve_base
from edgekit.building import export
from edgekit.building.build import build
from edgekit.building.dequantize import dequantized, quantization_fingerprint
from edgekit.building.device_weights import device_weights, use_device_weights
from edgekit.building.inputs import load_profiles
from edgekit.errors import ParityError
from edgekit.quantizing.blocks import Blocks, round_to_nearest
from edgekit.quantizing.calibration import calibration_rows
from edgekit.quantizing.confidence import head_factor
from edgekit.quantizing.options import Calibration
from edgekit.quantizing.quantize import quantize_base
from edgekit.quantizing.weights import EMBEDDING, HEAD, float_weight
from edgekit.training.packed_base import load_packed, on_float_weights
from tests.tiny_models import make_tiny_model

OPTIONS = "algorithm=gptq,calibration.rows=8,calibration.row_tokens=32"


@pytest.fixture(scope="module", params=["gemma", "gemma2"])
def tied(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    path = tmp_path_factory.mktemp("bases") / request.param
    return resolve_base(str(make_tiny_model(path, request.param, tied=True)))


def load(base: Base) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32).eval()


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("too_sure", [1.08, 0.9])
def test_the_factor_undoes_what_made_a_base_more_or_less_sure(
    family: str, too_sure: float, tmp_path: Path
) -> None:
    """Gemma 2 bends its logits, so that a factor before the bend is no factor after it."""
    base = resolve_base(str(make_tiny_model(tmp_path / family, family)))
    model = load(base)
    text = Calibration(source="self", rows=16, row_tokens=64)
    rows = calibration_rows(model, base, text, tmp_path)
    head = round_to_nearest(float_weight(base, HEAD), bits=8, block_size=32)
    off = replace(head, scales=head.scales * np.float32(too_sure))
    assert head_factor(model, {HEAD: head}, rows, tied={}) == pytest.approx(1.0, abs=1 / 128)
    found = head_factor(model, {HEAD: off}, rows, tied={})
    assert found == pytest.approx(1 / too_sure, abs=0.04)
    assert found * 128 == int(found * 128)


def test_a_head_that_shares_its_bytes_scales_its_input(tied: Base, tmp_path: Path) -> None:
    """The graphs, torch on their weights, the packed base, and every target say the same."""
    report = build(
        name="sure",
        base=str(tied.path),
        output=tmp_path / "bundle",
        targets=("cpu", "cuda"),
        quantization=OPTIONS,
    )
    for target in ("cpu", "cuda"):
        assert report.parity[target][""].exact_mean_kl < 1e-6
    profiles = load_profiles(("cpu", "cuda"), OPTIONS, None)
    factor = quantize_base(tied, profiles["cpu"].quantization)[HEAD].input_scale
    assert factor != 1
    stored = {name: device_weights(tied, profile) for name, profile in profiles.items()}
    for weights in stored.values():
        assert weights[HEAD][0].input_scale == factor
        assert weights[EMBEDDING][0].input_scale == 1
    fingerprints = {quantization_fingerprint(weights) for weights in stored.values()}
    assert len(fingerprints) == 1
    plain = {HEAD: (replace(stored["cpu"][HEAD][0], input_scale=1.0),)}
    assert quantization_fingerprint(stored["cpu"] | plain) not in fingerprints

    row = torch.arange(3, 40)[None]
    model = load(tied)
    expected_floats = model(row).logits
    use_device_weights(model, tied, profiles["cpu"])
    packed = load_packed(tied.path, stored["cpu"], dtype=torch.float32)
    with torch.inference_mode():
        torch.testing.assert_close(packed(row).logits, model(row).logits, rtol=1e-5, atol=1e-4)
        with on_float_weights(packed, tied.path):
            torch.testing.assert_close(packed(row).logits, expected_floats, rtol=1e-5, atol=1e-4)
    values = {name: weight.values for name, weight in dequantized(stored["cpu"]).items()}
    torch.testing.assert_close(packed.lm_head.weight, torch.from_numpy(values[HEAD]))


def test_a_head_of_its_own_takes_the_factor_into_its_scales(tmp_path: Path) -> None:
    base = resolve_base(str(make_tiny_model(tmp_path / "qwen3", "qwen3", tied=False)))
    profile = load_profiles(("cpu",), OPTIONS, None)["cpu"]
    assert quantize_base(base, profile.quantization)[HEAD].input_scale == 1
    assert device_weights(base, profile)[HEAD][0].input_scale == 1


def test_another_factor_than_the_measured_one_fails_the_gate(
    tied: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = export.replace_weights_in

    def put_another(directory: Path, weights: dict[str, Blocks], **options: bool) -> None:
        head = weights[HEAD]
        other = replace(head, input_scale=head.input_scale + 0.05)
        put(directory, weights | {HEAD: other}, **options)

    monkeypatch.setattr(export, "replace_weights_in", put_another)
    with pytest.raises(ParityError) as caught:
        build(
            name="broken",
            base=str(tied.path),
            output=tmp_path / "bundle",
            quantization=OPTIONS.replace("rows=8", "rows=7"),
        )
    (line,) = caught.value.problems
    assert line.startswith("lm_head.weight[")
    assert line.endswith("the quantized weight, bound 0.1")
