"""``inspect``, ``verify`` and ``bundle``: look into a bundle and change its adapters."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from edgekit.cli import main as edgekit
from edgekit_runtime import Bundle
from edgekit_runtime.cli import main as edgekit_run
from tests.runtime.bundle_edits import seal

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def own_bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "tiny"))


def test_inspect_shows_base_targets_adapters_and_files(tiny_bundle: Path, capsys: Captured) -> None:
    assert edgekit_run(["inspect", str(tiny_bundle)]) == 0
    out = capsys.readouterr().out
    for word in ("fingerprint", "sha256:", "Targets", "cpu", "alpha", "beta", "cpu.data"):
        assert word in out


@pytest.mark.parametrize("columns", [80, 120])
def test_inspect_fits_the_terminal_and_cuts_nothing(
    own_bundle: Path, columns: int, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(manifest: dict[str, Any]) -> None:
        record = manifest["targets"]["cpu"]
        record["verified_on"] = "QNNExecutionProvider HTP simulator (x86-64), onnxruntime-qnn 2.7.0"
        record["quantization"] |= {"algorithm": "gptq", "tier": "quality"}

    seal(own_bundle, change)
    monkeypatch.setenv("COLUMNS", str(columns))
    assert edgekit_run(["inspect", str(own_bundle)]) == 0
    _, tables = capsys.readouterr().out.split("\nTargets")
    assert "…" not in tables
    assert all(len(line) <= columns for line in tables.splitlines())
    assert "int4 gptq (quality), block 32" in tables
    with Bundle.open(own_bundle) as bundle:
        for file in bundle.manifest.files:
            assert f" {file.path} " in tables


def test_inspect_json_adds_up(tiny_bundle: Path, capsys: Captured) -> None:
    assert edgekit(["bundle", "inspect", str(tiny_bundle), "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["name"] == "tiny"
    assert set(described["adapters"]) == {"alpha", "beta"}
    assert described["adapters"]["beta"]["r"] == 8
    assert described["total_bytes"] == sum(file["size_bytes"] for file in described["files"])
    target = described["targets"]["cpu"]
    assert 0 < target["size_bytes"] < described["total_bytes"]


def test_verify_passes_a_sound_bundle(tiny_bundle: Path, capsys: Captured) -> None:
    assert edgekit_run(["verify", str(tiny_bundle)]) == 0
    assert capsys.readouterr().out.startswith("ok: tiny ")


def test_verify_names_every_problem(own_bundle: Path, capsys: Captured) -> None:
    weights = own_bundle / "weights/cpu.data"
    content = bytearray(weights.read_bytes())
    content[100] ^= 1
    weights.write_bytes(content)
    (own_bundle / "adapters/beta/adapter.json").unlink()
    (own_bundle / "stranger.txt").write_text("hello")
    assert edgekit(["bundle", "verify", str(own_bundle)]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: bundle {own_bundle} is not as it was built:\n")
    assert "weights/cpu.data: expected sha256:" in err
    assert "adapters/beta/adapter.json: missing" in err
    assert "stranger.txt: not listed" in err


def test_verify_json_tells_the_same_and_fails_too(own_bundle: Path, capsys: Captured) -> None:
    (own_bundle / "stranger.txt").write_text("hello")
    assert edgekit_run(["verify", str(own_bundle), "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {
        "ok": False,
        "problems": ["stranger.txt: not listed in manifest.json"],
        "signed_by": None,
    }


def test_a_manifest_of_a_newer_major_version_is_refused(own_bundle: Path, capsys: Captured) -> None:
    manifest = own_bundle / "manifest.json"
    manifest.write_text(
        manifest.read_text().replace('"schema_version":"1.1"', '"schema_version":"2.0"')
    )
    assert edgekit_run(["inspect", str(own_bundle)]) == 1
    assert "schema_version is 2.0, this runtime reads 1.x" in capsys.readouterr().err


def test_add_and_remove_change_the_bundle(
    own_bundle: Path, alpha_adapter: Path, tiny_base: Path, capsys: Captured
) -> None:
    new = f"gamma={alpha_adapter}"
    arguments = ["bundle", "add", str(own_bundle), new, "--base", str(tiny_base), "--no-parity"]
    assert edgekit(arguments) == 0
    assert "added adapter 'gamma', unchecked" in capsys.readouterr().out
    assert edgekit_run(["run", str(own_bundle), "-a", "gamma", "-p", "x", "-n", "2"]) == 0
    assert edgekit(["bundle", "remove", str(own_bundle), "gamma"]) == 0
    assert capsys.readouterr().out.endswith(f"removed adapter 'gamma' from {own_bundle}\n")
    assert edgekit_run(["run", str(own_bundle), "-a", "gamma", "-p", "x"]) == 1


def test_add_without_a_name_is_a_usage_error(own_bundle: Path, capsys: Captured) -> None:
    assert edgekit(["bundle", "add", str(own_bundle), "adapters/legal"]) == 2
    assert "expected KEY=VALUE" in capsys.readouterr().err


def test_remove_names_the_near_adapters(own_bundle: Path, capsys: Captured) -> None:
    assert edgekit(["bundle", "remove", str(own_bundle), "alpah"]) == 1
    assert "alpha" in capsys.readouterr().err
