"""A device that is kept up to date from a real registry."""

import json
import os
import shutil
from pathlib import Path

import pytest

from edgekit.bundling.push import push
from edgekit_runtime import Bundle
from edgekit_runtime.cli import main as edgekit_run
from edgekit_runtime.registry.reference import Reference
from tests.registry.servers import Wire
from tests.runtime.bundle_edits import replace_file

Captured = pytest.CaptureFixture[str]


def test_install_update_run_roll_back(
    wire: Wire, tiny_bundle: Path, tmp_path: Path, capsys: Captured
) -> None:
    name, root = f"{wire.host}/tests/device:stable", str(tmp_path / "app")
    push(tiny_bundle, Reference.parse(name), plain_http=True)
    assert edgekit_run(["install", name, root, "--plain-http"]) == 0
    first = Bundle.open(root).manifest.digest

    wire.reset()
    assert edgekit_run(["update", root]) == 0
    assert "runs already" in capsys.readouterr().out
    assert wire.down < 20_000

    changed = shutil.copytree(tiny_bundle, tmp_path / "changed")
    card = json.loads((changed / "adapters/beta/adapter.json").read_text())
    card["padding"] = os.urandom(500_000).hex()  # as large as a real adapter
    replace_file(changed, "adapters/beta/adapter.json", json.dumps(card).encode())
    size = (changed / "adapters/beta/adapter.json").stat().st_size
    push(changed, Reference.parse(name), plain_http=True)
    wire.reset()
    assert edgekit_run(["update", root]) == 0
    assert size < wire.down + wire.up < 1.1 * size
    assert Bundle.open(root).manifest.digest != first
    assert edgekit_run(["run", root, "-a", "beta", "-p", "the card", "-n", "2"]) == 0

    assert edgekit_run(["rollback", root]) == 0
    assert Bundle.open(root).manifest.digest == first
    assert edgekit_run(["verify", root]) == 0


def test_an_ill_update_is_refused_and_not_fetched_twice(
    wire: Wire, tiny_bundle: Path, tmp_path: Path, capsys: Captured
) -> None:
    name, root = f"{wire.host}/tests/ill:stable", str(tmp_path / "app")
    push(tiny_bundle, Reference.parse(name), plain_http=True)
    assert edgekit_run(["install", name, root, "--plain-http"]) == 0
    ill = shutil.copytree(tiny_bundle, tmp_path / "ill")
    card = json.loads((ill / "adapters/beta/adapter.json").read_text())
    record = {"prompt": "x", "tokens": [1], "top": [2], "log_probs": [-1.0], "tolerance": 1.0}
    card["health"] = {"cpu": record}
    replace_file(ill, "adapters/beta/adapter.json", json.dumps(card).encode())
    push(ill, Reference.parse(name), plain_http=True)
    assert edgekit_run(["update", root]) == 1
    err = capsys.readouterr().err
    assert "error: tiny 0.1.0 failed its health check; sha256:" in err
    assert "beta: the prompt has other tokens" in err
    wire.reset()
    assert edgekit_run(["update", root]) == 1
    assert "failed its health check here before" in capsys.readouterr().err
    assert wire.down < 20_000
    assert edgekit_run(["verify", root]) == 0
