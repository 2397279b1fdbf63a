"""What importing and running leaves alone: torch, the network, the disk, telemetry."""

import json
import os
import subprocess
import sys
from pathlib import Path

_GENERATE = """
import sys
from edgekit_runtime import Bundle
with Bundle.open(sys.argv[1], cache_dir=None).engine(threads=1) as engine:
    assert engine.generate("hello", adapter="alpha", max_new_tokens=2).token_ids
"""


def _python(code: str, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_loads_nothing_heavy() -> None:
    loaded = json.loads(
        _python("import sys, json, edgekit_runtime; print(json.dumps(sorted(sys.modules)))")
    )
    heavy = {"torch", "transformers", "numpy", "onnxruntime", "onnxruntime_genai", "edgekit"}
    assert not heavy & set(loaded)


def test_generating_imports_no_torch_and_no_build_tools(tiny_bundle: Path) -> None:
    code = _GENERATE + "import json; print(json.dumps(sorted(sys.modules)))"
    loaded = set(json.loads(_python(code, str(tiny_bundle))))
    assert not loaded & {"torch", "transformers", "edgekit", "pydantic", "typer", "rich", "psutil"}


def test_generating_opens_no_socket(tiny_bundle: Path) -> None:
    hook = """
import sys
def refuse(event, arguments):
    if event.startswith("socket."):
        raise AssertionError(event)
sys.addaudithook(refuse)
"""
    _python(hook + _GENERATE, str(tiny_bundle))


def test_nothing_is_written_without_a_cache_dir(tiny_bundle: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    _python(
        f"import os; os.chdir({str(home)!r})\n" + _GENERATE,
        str(tiny_bundle),
        HOME=str(home),
        XDG_CACHE_HOME=str(home / "cache"),
        TMPDIR=str(home),
    )
    assert [path for path in home.rglob("*") if path.is_file()] == []


def test_telemetry_is_off_before_genai_is_imported() -> None:
    code = "import os, edgekit_runtime; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    assert _python(code, ORT_DISABLE_TELEMETRY="0").strip() == "1"


def test_every_public_name_can_be_imported() -> None:
    import edgekit_runtime

    for name in edgekit_runtime.__all__:
        assert getattr(edgekit_runtime, name).__name__ == name


def test_prompts_are_not_logged(tiny_bundle: Path) -> None:
    secret = "my secret is 4711"
    code = (
        "import logging, sys; logging.basicConfig(level=0, stream=sys.stdout)\n"
        + _GENERATE.replace("hello", secret)
    )
    assert "4711" not in _python(code, str(tiny_bundle))
