"""``cache``: what lies there is told, and what is old and not in use goes."""

import json
import os
import time
from pathlib import Path

import pytest

from edgekit.cli import main as edgekit
from edgekit_runtime.cli import main as edgekit_run
from edgekit_runtime.process_lock import hold

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Both caches: two exports, one of them old, a marker, locks, and a chat history."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "edgekit"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for path, size in {
        "edgekit/exports/old/model.onnx": 1000,
        "edgekit/exports/old.lock": 0,
        "edgekit/exports/new/model.onnx": 2000,
        "edgekit/locks/bundle.lock": 0,
        "edgekit-runtime/verified/bundle.json": 30,
        "edgekit-runtime/chat_history": 5,
    }.items():
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes(size))
    long_ago = time.time() - 90 * 86_400
    for name in ("edgekit/exports/old/model.onnx", "edgekit/exports/old"):
        os.utime(tmp_path / name, (long_ago, long_ago))
    return tmp_path


def test_the_list_has_the_largest_first(caches: Path, capsys: Captured) -> None:
    assert edgekit(["cache", "list", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(one["kind"], one["size_bytes"]) for one in told["entries"]] == [
        ("exports", 2000),
        ("exports", 1000),
        ("verified", 30),
    ]
    assert told["total_bytes"] == 3030
    assert [round(one["age_days"]) for one in told["entries"]] == [0, 90, 0]
    assert edgekit(["cache", "list"]) == 0
    assert "3.0 kB in " in capsys.readouterr().out


def test_a_device_sees_its_own_only(caches: Path, capsys: Captured) -> None:
    assert edgekit_run(["cache", "list", "--json"]) == 0
    assert [one["kind"] for one in json.loads(capsys.readouterr().out)["entries"]] == ["verified"]
    assert edgekit_run(["cache", "prune", "--older-than", "0"]) == 0
    assert not (caches / "edgekit-runtime/verified/bundle.json").exists()
    assert (caches / "edgekit-runtime/chat_history").exists()


def test_what_is_old_goes(caches: Path, capsys: Captured) -> None:
    exports = caches / "edgekit/exports"
    assert edgekit(["cache", "prune", "--dry-run"]) == 0
    assert "1.0 kB would be freed" in capsys.readouterr().out
    assert (exports / "old").exists()
    assert edgekit(["cache", "prune"]) == 0
    assert capsys.readouterr().out == f"{exports / 'old'}\n1.0 kB freed\n"
    assert not (exports / "old").exists() and (exports / "new").exists()


def test_one_kind_goes(caches: Path, capsys: Captured) -> None:
    assert edgekit(["cache", "prune", "--older-than", "0", "--kind", "exports", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["freed_bytes"] == 3000
    assert (caches / "edgekit-runtime/verified/bundle.json").exists()
    assert list((caches / "edgekit/exports").glob("*/")) == []


def test_what_is_in_use_stays(caches: Path, capsys: Captured) -> None:
    with hold(caches / "edgekit/exports/old.lock", "an export"):
        assert edgekit(["cache", "prune"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "0 B freed\n"
    assert f"in use, kept: {caches / 'edgekit/exports/old'}" in captured.err
    assert (caches / "edgekit/exports/old/model.onnx").exists()


def test_an_empty_cache_is_no_error(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "nothing"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "nothing"))
    assert edgekit(["cache", "list"]) == 0
    assert capsys.readouterr().out.startswith("0 B in ")
