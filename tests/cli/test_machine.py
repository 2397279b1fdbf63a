"""``doctor`` and ``targets``: what this machine is, and what bundles are built for."""

import json
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from edgekit import doctor
from edgekit.cli import main
from edgekit_runtime.machine import describe_machine


def test_doctor_finds_this_environment_fit(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    checks = {check["name"]: check for check in report["checks"]}
    assert report["ok"] is True
    assert {"python", "platform", "processor", "memory", "disk", "providers", "cache"} <= set(
        checks
    )
    assert {"torch", "onnxruntime-genai", "base smollm2-135m"} <= set(checks)
    assert checks["cache"]["found"] == f"{tmp_path / 'cache'}, 0.0 GB"


def test_doctor_fails_with_the_remedy_when_a_package_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = metadata.version

    def version(name: str) -> str:
        if name == "peft":
            raise metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(metadata, "version", version)
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "FAIL" in out
    assert "pip install 'peft>=0.21'" in out


def test_doctor_fails_on_a_version_that_edgekit_does_not_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed = metadata.version
    monkeypatch.setattr(
        metadata,
        "version",
        lambda name: "0.9.0" if name == "onnxruntime-genai" else installed(name),
    )
    check = next(check for check in doctor.examine() if check.name == "onnxruntime-genai")
    assert check.status == "fail"
    assert check.found == "0.9.0, but edgekit needs <0.19,>=0.18"


def test_the_machine_is_described_without_host_or_user() -> None:
    described = describe_machine().to_dict()
    assert set(described) == {"cpu", "cores", "flags", "memory_bytes", "os", "arch", "python"}
    assert described["cores"] >= 1


def test_targets_list_names_the_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cpu"]["precision"] == "int4"


def test_targets_show_writes_yaml_that_can_be_used_again(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["targets", "show", "cpu"]) == 0
    text = capsys.readouterr().out
    assert yaml.safe_load(text)["name"] == "cpu"
    own = tmp_path / "own.yaml"
    own.write_text(text, encoding="utf-8")
    assert main(["targets", "show", str(own)]) == 0
    assert capsys.readouterr().out == text


def test_an_unknown_target_is_refused_with_the_near_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["targets", "show", "cpi"]) == 1
    assert capsys.readouterr().err.startswith("error: no target 'cpi'; did you mean 'cpu'")
