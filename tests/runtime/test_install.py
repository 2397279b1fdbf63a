"""Versions side by side: a new one is checked before it runs, and the one before stays."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from edgekit_runtime import Bundle
from edgekit_runtime.cli import main as edgekit_run
from edgekit_runtime.errors import InstallError
from edgekit_runtime.health import PROMPT, HealthRecord, check_health, health_problems
from edgekit_runtime.installation import STATE_NAME, installed, read_state, version_path
from edgekit_runtime.installing import InstallReport, install, rollback
from edgekit_runtime.process_lock import hold
from edgekit_runtime.sources import DirectorySource
from edgekit_runtime.verification import verify_bundle
from tests.runtime.bundle_edits import change_adapter, replace_file, seal

Captured = pytest.CaptureFixture[str]


def well(_: Path) -> Sequence[str]:
    return ()


def ill(_: Path) -> Sequence[str]:
    return ["the base: expected log probabilities within 1, off by 7"]


@pytest.fixture(scope="module")
def versions(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four versions of the tiny bundle; each differs by a report and its number."""
    made = []
    for number in range(4):
        path = shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("versions") / str(number))
        replace_file(path, "reports/parity.json", json.dumps({"number": number}).encode())
        seal(path, lambda manifest, n=number: manifest.update(version=f"{n}.0"))
        made.append(path)
    return made


def put(bundle: Path, root: Path, health: Any = well, **options: Any) -> InstallReport:
    return install(DirectorySource(bundle), root, health=health, **options)


def digest_of(bundle: Path) -> str:
    return Bundle.open(bundle, verify="sizes").manifest.digest


def test_an_installation_stands_for_its_current_version(
    versions: list[Path], tmp_path: Path, capsys: Captured
) -> None:
    root = tmp_path / "app"
    assert edgekit_run(["install", str(versions[0]), str(root)]) == 0
    assert f"{root} runs tiny 0.0, sha256:" in capsys.readouterr().out
    assert edgekit_run(["verify", str(root)]) == 0
    assert edgekit_run(["run", str(root), "-a", "alpha", "-p", "the card", "-n", "2"]) == 0
    assert Bundle.open(root).manifest.version == "0.0"
    assert Bundle.open(root).path == version_path(root, digest_of(versions[0]))


def test_the_version_before_stays_and_older_ones_go(versions: list[Path], tmp_path: Path) -> None:
    for version in versions[:3]:
        put(version, tmp_path / "app")
    assert set(installed(tmp_path / "app")) == {digest_of(path) for path in versions[1:3]}
    state = read_state(tmp_path / "app")
    assert state is not None
    assert (state.current, state.previous) == (digest_of(versions[2]), digest_of(versions[1]))


def test_what_both_versions_share_lies_there_once(versions: list[Path], tmp_path: Path) -> None:
    put(versions[0], tmp_path / "app")
    report = put(versions[1], tmp_path / "app")
    changed = (versions[1] / "reports/parity.json").stat().st_size
    assert report.fetched_bytes == changed
    weights = {
        (version_path(tmp_path / "app", digest) / "weights/cpu.data").stat().st_ino
        for digest in installed(tmp_path / "app")
    }
    assert len(weights) == 1


def test_rollback_goes_back_and_forth(versions: list[Path], tmp_path: Path) -> None:
    root = tmp_path / "app"
    put(versions[0], root)
    with pytest.raises(InstallError, match="has no version to go back to"):
        rollback(root)
    put(versions[1], root)
    assert rollback(root).version == "0.0"
    assert Bundle.open(root).manifest.version == "0.0"
    assert rollback(root).version == "1.0"


def test_a_damaged_version_is_not_gone_back_to(versions: list[Path], tmp_path: Path) -> None:
    root = tmp_path / "app"
    put(versions[0], root)
    put(versions[1], root)
    (version_path(root, digest_of(versions[0])) / "adapters/beta/adapter.json").unlink()
    with pytest.raises(InstallError, match=r"adapters/beta/adapter\.json: missing"):
        rollback(root)
    assert Bundle.open(root).manifest.version == "1.0"


def test_a_version_that_fails_its_health_check_does_not_run(
    versions: list[Path], tmp_path: Path
) -> None:
    root = tmp_path / "app"
    put(versions[0], root)
    with pytest.raises(InstallError, match=r"tiny 1\.0 failed its health check; sha256:") as error:
        put(versions[1], root, ill)
    assert f"{digest_of(versions[0])} stays current" in error.value.what
    assert "off by 7" in error.value.problems[0]
    assert Bundle.open(root).manifest.version == "0.0"
    assert installed(root) == [digest_of(versions[0])]
    with pytest.raises(InstallError, match="failed its health check here before"):
        put(versions[1], root)
    assert put(versions[1], root, retry=True).version == "1.0"
    state = read_state(root)
    assert state is not None and state.rejected == {}


def test_a_first_version_that_fails_leaves_nothing(versions: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InstallError, match="nothing is installed"):
        put(versions[0], tmp_path / "app", ill)
    assert installed(tmp_path / "app") == []
    assert put(versions[0], tmp_path / "app").is_new


def test_a_check_may_refuse_a_version(versions: list[Path], tmp_path: Path) -> None:
    """As a policy on signatures does."""
    root = tmp_path / "app"
    put(versions[0], root)

    def refuse(_: Path) -> None:
        raise InstallError("not signed")

    with pytest.raises(InstallError, match="not signed"):
        put(versions[1], root, check=refuse)
    assert Bundle.open(root).manifest.version == "0.0"


def test_two_at_once_are_refused(versions: list[Path], tmp_path: Path) -> None:
    root = tmp_path / "app"
    put(versions[0], root)
    holder = (
        "import sys; from pathlib import Path; from edgekit_runtime.process_lock import hold\n"
        "with hold(Path(sys.argv[1]), 'it'): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", holder, str(root / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline().strip() == b"held"
        with pytest.raises(Exception, match="another process is changing"):
            put(versions[1], root)
        process.kill()
    assert put(versions[1], root).is_new  # the lock died with its holder
    with hold(root / "lock", "it"):
        pass


def test_the_commands_tell_what_runs(
    versions: list[Path], tmp_path: Path, capsys: Captured
) -> None:
    root, place = str(tmp_path / "app"), tmp_path / "published"
    shutil.copytree(versions[0], place)
    assert edgekit_run(["install", str(place), root, "--no-health"]) == 0
    shutil.rmtree(place)
    shutil.copytree(versions[1], place)
    assert edgekit_run(["update", root, "--no-health"]) == 0
    assert "runs tiny 1.0" in capsys.readouterr().out
    assert edgekit_run(["update", root]) == 0
    assert "runs already tiny 1.0" in capsys.readouterr().out
    assert edgekit_run(["versions", root, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(one["role"], one["version"]) for one in told["versions"]] == [
        ("current", "1.0"),
        ("previous", "0.0"),
    ]
    assert told["source"] == str(place)
    assert edgekit_run(["rollback", root, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == "0.0"
    assert edgekit_run(["versions", root]) == 0
    assert f"updates come from {place}" in capsys.readouterr().out


def test_what_is_no_installation_is_refused(tmp_path: Path, capsys: Captured) -> None:
    for command in ("rollback", "versions", "update"):
        assert edgekit_run([command, str(tmp_path)]) == 1
    assert "Install first" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is no JSON"),
        (b'{"schema_version": "2.0", "current": "x"}', "this runtime reads 1.x"),
        (b'{"schema_version": "1.0", "current": "../../etc"}', "current: expected sha256:<64 hex>"),
    ],
)
def test_a_broken_pointer_is_told(
    versions: list[Path], tmp_path: Path, content: bytes, message: str
) -> None:
    put(versions[0], tmp_path / "app")
    (tmp_path / "app" / STATE_NAME).write_bytes(content)
    with pytest.raises(InstallError) as error:
        Bundle.open(tmp_path / "app")
    assert message in str(error.value)


def record_of(bundle: Path, change: Callable[[dict[str, Any]], None] = lambda _: None) -> None:
    """Record what the base answers here, changed by ``change``."""
    with Bundle.open(bundle, cache_dir=None) as opened, opened.engine() as engine:
        tokens = engine.tokenize(PROMPT)
        value = HealthRecord.of(PROMPT, tokens, engine.next_logits(tokens)).to_dict()
    change(value)
    path = bundle / "targets/cpu/health.json"
    listed = any(
        file["path"] == "targets/cpu/health.json"
        for file in json.loads((bundle / "manifest.json").read_bytes())["files"]
    )
    path.write_text("{}")
    if not listed:
        entry = {"path": "targets/cpu/health.json", "digest": f"sha256:{'0' * 64}"}
        entry |= {"size_bytes": 0, "media_type": "application/json"}
        seal(bundle, lambda manifest: manifest["files"].append(entry))
    replace_file(bundle, "targets/cpu/health.json", json.dumps(value).encode())


def test_a_bundle_that_answers_as_recorded_is_well(bundle_copy: Path) -> None:
    record_of(bundle_copy)
    assert verify_bundle(bundle_copy) == []
    assert check_health(bundle_copy) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"log_probs": [-50.0] * 8}, "the base: expected log probabilities within 1, off by"),
        ({"tokens": [5, 6, 7]}, "the base: the prompt has other tokens: expected [5, 6, 7]"),
        ({"top": [100_000] * 8}, "the base: expected at least 100001 logits"),
        ({"top": [-1] * 8}, "expected tokens, as many top as log_probs, and a tolerance"),
        ({"log_probs": []}, "expected tokens, as many top as log_probs, and a tolerance"),
    ],
)
def test_another_answer_than_recorded_is_ill(
    bundle_copy: Path, change: dict[str, Any], problem: str
) -> None:
    record_of(bundle_copy, lambda value: value.update(change))
    assert any(problem in found for found in health_problems(bundle_copy))


def test_an_adapter_of_nonsense_is_ill(bundle_copy: Path) -> None:
    """Too large for float32: what comes out is no number. There is no record to compare with."""

    def burst(tensors: dict[str, Any]) -> None:
        for tensor in tensors.values():
            tensor[:] = 3e38

    change_adapter(bundle_copy, "beta", burst)
    assert "beta: the logits are not all numbers" in check_health(bundle_copy)


def test_a_crash_in_the_check_is_an_illness_not_a_crash(
    bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnxruntime_genai.py").write_text("import os; os.abort()")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", ""), str(Path.cwd())])
    monkeypatch.setenv("PYTHONPATH", path)
    (found,) = check_health(bundle_copy)
    assert found.startswith("the runtime ended with exit code")
