"""``bench``: figures of a bundle, measured in a process of its own."""

import json
import shutil
from pathlib import Path

import pytest

from edgekit_runtime.bench import bench
from edgekit_runtime.bench_report import BenchPlan, percentile
from edgekit_runtime.cli import main
from edgekit_runtime.errors import EdgekitRuntimeError
from edgekit_runtime.meters import peak_rss_bytes

QUICK = ["--prompt-tokens", "16", "--new-tokens", "8", "--repeats", "2", "--warmup", "0"]


def test_json_has_the_figures_that_scripts_read(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", str(tiny_bundle), "--adapter", "alpha", *QUICK, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report["ttft_ms"]) == {"p50", "p95"}
    assert set(report["itl_ms"]) == {"p50", "p95", "p99"}
    for which in ("swap_ms", "swap_first_token_ms"):
        assert set(report[which]) == {"resident", "cold"}
        assert 0 < report[which]["resident"]["p50"] <= report[which]["resident"]["p95"]
    for figure in ("load_ms", "prefill_tokens_per_s", "decode_tokens_per_s", "adapter_ratio"):
        assert report[figure] > 0
    assert report["rss_bytes"] > 10_000_000
    assert (report["prompt_tokens"], report["new_tokens"]) == (16, 8)
    assert report["bundle"]["digest"].startswith("sha256:")
    assert report["machine"]["cores"] >= 1
    assert report["versions"]["onnxruntime-genai"].startswith("0.")


def test_the_table_names_units(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(tiny_bundle), *QUICK]) == 0
    out = capsys.readouterr().out
    for word in ("first token (TTFT)", "tokens/s", "swap, loaded", "peak memory", "MB"):
        assert word in out


def test_memory_is_the_measuring_processs_own(tiny_bundle: Path) -> None:
    ballast = bytearray(200_000_000)
    report = bench(BenchPlan(bundle=str(tiny_bundle), prompt_tokens=8, new_tokens=2, repeats=1))
    assert len(ballast) < peak_rss_bytes()
    assert report["rss_bytes"] < peak_rss_bytes()


def test_a_bundle_without_adapters_has_no_swap_and_no_ratio(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    from edgekit_runtime.manifest import Manifest

    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bare"))
    manifest = Manifest.from_bytes((bundle / "manifest.json").read_bytes())
    bare = Manifest.from_dict(manifest.to_dict() | {"adapters": {}})
    (bundle / "manifest.json").write_bytes(bare.to_bytes())
    report = bench(BenchPlan(bundle=str(bundle), prompt_tokens=8, new_tokens=4, repeats=1))
    assert report["swap_ms"] is None
    assert report["swap_first_token_ms"] is None
    assert report["adapter_ratio"] is None


def test_what_the_measuring_process_refuses_is_refused_here(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", str(tiny_bundle), "--adapter", "alpah"]) == 1
    assert "error: bundle 'tiny' has no adapter 'alpah'" in capsys.readouterr().err
    assert main(["bench", str(tiny_bundle), "--prompt-tokens", "99999"]) == 1
    assert "prompt and answer do not fit the context" in capsys.readouterr().err


def test_a_measuring_process_that_dies_is_an_error(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(EdgekitRuntimeError, match="the measuring process died with exit code 1"):
        bench(BenchPlan(bundle=str(tiny_bundle)))


def test_percentiles_interpolate() -> None:
    assert percentile([4, 1, 3, 2], 50) == 2.5
    assert percentile([1, 2, 3, 4, 5], 95) == pytest.approx(4.8)
    assert percentile([7], 99) == 7
