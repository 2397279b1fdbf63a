"""A device: an empty environment with nothing but the runtime in it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

MAX_RUNTIME_BYTES = 200_000_000
MAX_CLI_BYTES = 225_000_000


def _run(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(
        [os.fspath(part) for part in command],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": ""} | environment,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def _size_bytes(venv: Path) -> int:
    return sum(path.stat().st_size for path in venv.rglob("*") if path.is_file())


def _bin(venv: Path, name: str) -> Path:
    return venv / ("Scripts" if os.name == "nt" else "bin") / name


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """A fresh virtual environment, and how much each install added to it."""
    venv = tmp_path_factory.mktemp("device") / "venv"
    _run(sys.executable, "-m", "venv", venv)
    sizes = {"empty": _size_bytes(venv)}
    pip = (_bin(venv, "python"), "-m", "pip", "install", "--quiet", "-c", "constraints.txt")
    _run(*pip, "--no-compile", "./runtime")
    sizes["runtime"] = _size_bytes(venv) - sizes["empty"]
    _run(*pip, "--no-compile", "./runtime[cli]")
    sizes["cli"] = _size_bytes(venv) - sizes["empty"]
    _run(*pip, "pytest", "pytest-timeout", "psutil")
    return venv, sizes


def test_the_runtime_is_small(device: tuple[Path, dict[str, int]]) -> None:
    _, sizes = device
    assert sizes["runtime"] <= MAX_RUNTIME_BYTES
    assert sizes["cli"] <= MAX_CLI_BYTES


def test_importing_the_runtime_pulls_in_nothing_heavy(
    device: tuple[Path, dict[str, int]],
) -> None:
    venv, _ = device
    code = "import sys, json, edgekit_runtime; print(json.dumps(sorted(sys.modules)))"
    loaded = set(json.loads(_run(_bin(venv, "python"), "-c", code)))
    assert not loaded & {"torch", "transformers", "edgekit", "typer", "rich", "onnxruntime"}


def test_a_device_generates_and_chats(
    device: tuple[Path, dict[str, int]], built_tiny_bundle: Path, tmp_path: Path
) -> None:
    venv, _ = device
    out = _run(
        *(_bin(venv, "edgekit-run"), "run", built_tiny_bundle, "-p", "the card is"),
        *("--adapter", "beta", "--max-new-tokens", "4", "--json"),
        XDG_CACHE_HOME=str(tmp_path),
    )
    assert json.loads(out)["usage"]["completion_tokens"] >= 1
    chat = subprocess.run(
        [os.fspath(_bin(venv, "edgekit-run")), "chat", os.fspath(built_tiny_bundle), "-n", "4"],
        input="hello\n/adapters\n/quit\n",
        capture_output=True,
        text=True,
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)},
        check=False,
    )
    assert chat.returncode == 0, chat.stderr
    assert "alpha" in chat.stdout + chat.stderr


def test_the_runtime_passes_its_tests_without_torch(
    device: tuple[Path, dict[str, int]], built_tiny_bundle: Path
) -> None:
    venv, _ = device
    code = "import importlib.util as u; print([n for n in ('torch', 'edgekit') if u.find_spec(n)])"
    assert _run(_bin(venv, "python"), "-c", code, PYTHONSAFEPATH="1").strip() == "[]"
    out = _run(
        *(_bin(venv, "python"), "-m", "pytest", "-q", "-x", "tests/runtime"),
        *("-p", "no:cacheprovider"),
        EDGEKIT_TEST_BUNDLES=str(built_tiny_bundle.parent),
    )
    assert " passed" in out
