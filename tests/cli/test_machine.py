"""``doctor`` and ``targets``: what this machine is, and what bundles are built for."""

import json
import re
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgekit import doctor, target_checks
from edgekit.cli import main
from edgekit.targets import list_targets, load_target
from edgekit_runtime.machine import describe_machine
from tests.runtime.bundle_edits import seal


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


def test_doctor_says_of_every_target_what_this_machine_can_do(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    assert main(["doctor", "--json"]) == 0
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    for name in list_targets():
        assert re.fullmatch(
            r"(builds|cannot be built); verified on \w+; (runs|does not run|runs on a simulator)",
            checks[f"target {name}"]["found"],
        )
    assert checks["target cpu"]["found"] == "builds; verified on CPU; runs"
    assert checks["devices"]["found"].startswith("NVIDIA GPUs ")


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


@pytest.mark.parametrize("columns", [80, 120])
def test_only_the_descriptions_of_targets_are_wrapped(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["targets", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= columns for line in lines)
    assert len(lines) <= (22 if columns == 80 else 13)
    begun = {line.split()[0] for line in lines if line[1:2].strip().isalpha()}
    assert begun == {"target", *list_targets()}


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


def test_targets_list_says_what_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["cpu"]["packages_here"] == "installed"
    assert {values["packages_here"] for values in listed.values()} <= {
        "installed",
        "missing",
        "none",
    }


@pytest.mark.parametrize("name", ["cpu", "cuda", "webgpu"])
def test_a_resolved_profile_can_be_used_as_ones_own(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["targets", "show", name, "--resolved"]) == 0
    own = tmp_path / "own.yaml"
    own.write_text(capsys.readouterr().out, encoding="utf-8")
    assert "extends" not in yaml.safe_load(own.read_text(encoding="utf-8"))
    assert load_target(str(own)) == load_target(name)


def test_targets_check_looks_at_every_profile(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets", "check"]) == 0
    out = capsys.readouterr().out
    assert "\ncpu: builds; verified on CPU; runs\n" in out
    assert main(["targets", "check", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report["targets"]) == set(list_targets())
    assert report["targets"]["cpu"]["runs"] is True


def test_targets_check_fails_for_a_named_profile_that_cannot_be_built(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target_checks, "_BUILD_MODULES", {"no_such_module": "no-such-package"})
    assert main(["targets", "check", "cuda"]) == 1
    assert (
        "no-such-package is not installed: pip install no-such-package" in capsys.readouterr().out
    )
    assert main(["targets", "check"]) == 0  # a look around asks for nothing


def test_targets_check_of_a_bundle(capsys: pytest.CaptureFixture[str], tiny_bundle: Path) -> None:
    assert main(["targets", "check", "--bundle", str(tiny_bundle)]) == 0
    out = capsys.readouterr().out
    assert out == (
        "cpu: works here\n"
        "An engine chooses 'cpu': the fastest of the bundle's targets, and it works here.\n"
    )
    assert main(["targets", "check", "--bundle", str(tiny_bundle), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["chosen"] == "cpu"
    assert report["targets"]["cpu"]["works"] is True


def test_targets_check_of_a_bundle_that_works_nowhere_here(
    capsys: pytest.CaptureFixture[str], tiny_bundle: Path, tmp_path: Path
) -> None:
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")

    def for_another_provider(manifest: dict[str, Any]) -> None:
        manifest["targets"]["cpu"]["execution_provider"] = "AbacusExecutionProvider"

    seal(bundle, for_another_provider)
    assert main(["targets", "check", "--bundle", str(bundle)]) == 1
    out = capsys.readouterr().out
    assert out.startswith("cpu: does not work here\n  execution provider AbacusExecutionProvider")
    assert out.endswith("No target works here.\n")


def test_profiles_and_a_bundle_together_are_a_usage_error(tiny_bundle: Path) -> None:
    assert main(["targets", "check", "cpu", "--bundle", str(tiny_bundle)]) == 2


def test_the_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets", "schema"]) == 0
    assert "extends" in json.loads(capsys.readouterr().out)["properties"]
