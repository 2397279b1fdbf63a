"""What a machine with a device proves: the gate computed by the device's own provider."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgekit.building.build import build
from edgekit.building.sessions import TargetSessions
from edgekit.bundling.adapters import AdapterSource
from edgekit_runtime import Bundle
from edgekit_runtime.providers import BY_NAME, provider_problem

# Every row is shorter than where SwiftShader's attention goes wrong (32 tokens, plug-in 0.4.0).
ROWS = ([1, 5, 9, 33, 80, 7, 100, 200, 3, 8], [40, 41, 42, 43])


def needs(provider: str) -> None:
    if problem := provider_problem(BY_NAME[provider]):
        pytest.skip(problem)


@pytest.mark.gpu
@pytest.mark.parametrize("target", ["cuda", "directml"])
def test_the_gate_runs_on_the_gpu(
    target: str, tiny_base: Path, alpha_adapter: Path, tmp_path: Path
) -> None:
    provider = {"cuda": "CUDAExecutionProvider", "directml": "DmlExecutionProvider"}[target]
    needs(provider)
    report = build(
        name="gpu",
        base=str(tiny_base),
        output=tmp_path / "bundle",
        targets=(target,),
        adapters={"alpha": AdapterSource(path=alpha_adapter)},
    )
    assert provider in str(report.manifest.targets[target].verified_on)
    with Bundle.open(report.output, cache_dir=None).engine(target) as engine:
        plain = engine.generate("the card", max_new_tokens=8).token_ids
        adapted = engine.generate("the card", adapter="alpha", max_new_tokens=8).token_ids
        assert plain != adapted
        assert engine.generate("the card", max_new_tokens=8).token_ids == plain


@pytest.fixture(params=["tier=fast", "is_symmetric=false"])
def webgpu_bundle(
    request: pytest.FixtureRequest, tiny_base: Path, alpha_adapter: Path, tmp_path: Path
) -> Iterator[Path]:
    """A float32 build: software devices lack what float16 shaders want."""
    needs("WebGpuExecutionProvider")
    profile = tmp_path / "webgpu32.yaml"
    profile.write_text("extends: webgpu\nname: webgpu32\nio_dtype: float32\n", encoding="utf-8")
    build(
        name="webgpu",
        base=str(tiny_base),
        output=tmp_path / "bundle",
        targets=("cpu", str(profile)),
        adapters={"alpha": AdapterSource(path=alpha_adapter)},
        quantization=request.param,
        parity=False,
    )
    yield tmp_path / "bundle"


@pytest.mark.gpu
def test_webgpu_computes_what_the_cpu_does(webgpu_bundle: Path) -> None:
    target = webgpu_bundle / "targets/webgpu32"
    sessions = TargetSessions(target, 1, "WebGpuExecutionProvider")
    adapter = webgpu_bundle / "adapters/alpha/float32.onnx_adapter"
    for row in ROWS:
        for active in (None, adapter):
            np.testing.assert_allclose(
                sessions.score(row, active), sessions.exact(row, active), atol=1e-3
            )
    placed = sessions.placement()
    assert placed["WebGpuExecutionProvider"] > 0.8 * sum(placed.values())


@pytest.mark.gpu
def test_the_engine_swaps_adapters_on_webgpu(webgpu_bundle: Path) -> None:
    with Bundle.open(webgpu_bundle, cache_dir=None).engine("webgpu32") as engine:
        plain = engine.generate("the card", max_new_tokens=6).token_ids
        adapted = engine.generate("the card", adapter="alpha", max_new_tokens=6).token_ids
        assert adapted != plain
        assert engine.generate("the card", max_new_tokens=6).token_ids == plain
