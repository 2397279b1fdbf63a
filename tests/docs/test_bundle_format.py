"""The format page holds for real bundles: its example is valid, its verifier works."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit_runtime.manifest import Manifest
from tests.docs.pages import Block, page

PAGE = page("docs/bundle-format.md")


def marked(mark: str) -> Block:
    return next(block for block in PAGE.blocks if mark in block.marks)


def test_the_example_is_a_valid_manifest_with_the_right_digest() -> None:
    text = marked("example: manifest").text
    read = Manifest.from_bytes(text.encode())
    assert read.name == "support"
    assert json.loads(read.to_bytes()) == json.loads(text)


@pytest.fixture
def verifier(tmp_path: Path) -> Path:
    path = tmp_path / "check_bundle.py"
    path.write_text(marked("file: check_bundle.py").text, encoding="utf-8")
    return path


def check(verifier: Path, bundle: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-S", str(verifier), str(bundle)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_verifier_accepts_a_real_bundle(verifier: Path, demo_directory: Path) -> None:
    bundle = demo_directory / "edgekit-demo" / "bundle"
    done = check(verifier, bundle)
    digest = json.loads((bundle / "manifest.json").read_bytes())["digest"]
    assert (done.stdout, done.returncode) == (f"ok: demo 0.1.0, {digest}\n", 0)


def test_the_verifier_names_what_is_wrong(
    verifier: Path, demo_directory: Path, tmp_path: Path
) -> None:
    bundle = shutil.copytree(demo_directory / "edgekit-demo" / "bundle", tmp_path / "bundle")
    card = bundle / "adapters" / "tone" / "adapter.json"
    card.write_bytes(card.read_bytes().replace(b"tone", b"tune", 1))
    (bundle / "targets" / "cpu" / "sockets.json").unlink()
    (bundle / "stranger.txt").write_text("hello")
    done = check(verifier, bundle)
    assert done.stdout.splitlines() == [
        "adapters/tone/adapter.json: changed",
        "targets/cpu/sockets.json: missing",
        "stranger.txt: not listed",
    ]
    assert done.returncode == 1


def test_the_layout_names_the_files_of_a_real_bundle(demo_directory: Path) -> None:
    bundle = demo_directory / "edgekit-demo" / "bundle"
    for name in (
        "tokenizer/",
        "genai_config.json",
        "base.onnx",
        "model.onnx",
        "score.onnx",
        "cpu.data",
        "sockets.json",
        "float32.onnx_adapter",
        "licenses/",
        "reports/parity.json",
    ):
        assert f"  {name}" in PAGE.blocks[0].text
        assert list(bundle.rglob(name.rstrip("/").rpartition("/")[2])), name
