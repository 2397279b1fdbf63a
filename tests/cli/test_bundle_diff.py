"""``bundle diff``: what differs between two bundles, and what of it would travel."""

import json
import shutil
from pathlib import Path

import pytest

from edgekit.bundling.edit import remove_adapter
from edgekit.cli import main as edgekit

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def without_beta(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle before adapter beta was added."""
    path = shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("older") / "older")
    remove_adapter(path, "beta")
    return path


def test_one_more_adapter_is_that_adapter_and_the_manifest(
    without_beta: Path, tiny_bundle: Path, capsys: Captured
) -> None:
    assert edgekit(["bundle", "diff", str(without_beta), str(tiny_bundle), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {change["path"]: change["kind"] for change in found["changes"]} == {
        "adapters/beta/adapter.json": "added",
        "adapters/beta/float32.onnx_adapter": "added",
        "manifest.json": "changed",
    }
    sizes = sum((tiny_bundle / change["path"]).stat().st_size for change in found["changes"])
    assert found["travel_bytes"] == sizes < found["total_bytes"]


def test_people_see_what_travels(without_beta: Path, tiny_bundle: Path, capsys: Captured) -> None:
    assert edgekit(["bundle", "diff", str(tiny_bundle), str(without_beta)]) == 0
    out = capsys.readouterr().out
    assert "removed" in out and "adapters/beta/float32.onnx_adapter" in out
    assert "files are the same; " in out and " would travel" in out
    assert edgekit(["bundle", "diff", str(tiny_bundle), str(tiny_bundle)]) == 0
    assert capsys.readouterr().out.startswith("the same bundle: sha256:")


def test_what_is_no_bundle_is_refused(tiny_bundle: Path, tmp_path: Path, capsys: Captured) -> None:
    assert edgekit(["bundle", "diff", str(tiny_bundle), str(tmp_path)]) == 1
    assert f"error: {tmp_path} is not a bundle" in capsys.readouterr().err
