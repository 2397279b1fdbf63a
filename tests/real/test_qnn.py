"""SmolLM2-135M for the NPU, all 30 layers, on the simulator: half an hour, if quiet."""

import json
from pathlib import Path

import pytest

from edgekit.building.build import build
from edgekit.bundling.adapters import AdapterSource

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(4 * 3600)]


def test_the_simulator_agrees_with_the_graph_and_int8_with_the_float_model(
    tone_adapter: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime_qnn", reason="onnxruntime-qnn has no wheel for this machine")
    build(
        name="npu",
        base="smollm2-135m",
        output=tmp_path / "bundle",
        targets=("qnn",),
        adapters={"tone": AdapterSource(path=tone_adapter)},
        allow_other_quantization=True,  # the demo's adapter was trained on the weights of cpu-fast
    )
    parity = json.loads((tmp_path / "bundle" / "reports" / "parity.json").read_text())
    card = json.loads((tmp_path / "bundle" / "adapters" / "tone" / "adapter.json").read_text())
    for figures in (parity["qnn"]["base"], card["parity"]["qnn"]):
        assert figures["exact_mean_kl"] < 1e-6
        assert figures["nll_increase"] < 0.02
        compiled = figures["compiled"]
        assert compiled["positions"] >= 200
        assert compiled["top1"] >= 0.99
        assert compiled["mean_kl"] < 1e-3
        assert compiled["float_top1"] >= 0.9
    for name in ("prefill", "decode"):
        binary = tmp_path / "bundle" / "targets" / "qnn" / f"{name}_qnn.bin"
        assert binary.stat().st_size < 130_000_000
