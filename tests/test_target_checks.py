"""What a machine can do with a target, and the commands that would make it do more."""

from importlib import metadata
from importlib.util import find_spec
from typing import Any

import pytest

from edgekit import target_checks
from edgekit.target_checks import check_target, install_commands, packages_state
from edgekit.targets import list_targets, load_target
from edgekit_runtime.providers import BY_NAME, provider_problem


def has_only(monkeypatch: pytest.MonkeyPatch, **installed: str) -> None:
    """A machine with these packages: names with underscores for hyphens."""
    versions = {name.replace("_", "-"): version for name, version in installed.items()}

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "version", version)


def is_platform(monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    monkeypatch.setattr(target_checks, "this_platform", lambda: platform)


def test_this_environment_builds_every_shipped_target_and_runs_the_cpus() -> None:
    for name, profile in list_targets().items():
        check = check_target(profile)
        provider = BY_NAME[profile.execution_provider]
        if profile.builder != "static":
            assert check.build_problems == (), name
        assert (check.run_problem is None) == (provider_problem(provider) is None)
        assert check.run_problem is None or check.run_problem in check.advice
    cpu = check_target(load_target("cpu"))
    assert cpu.can == "builds; verified on CPU; runs"
    assert cpu.install == ()


def test_a_build_of_genai_that_replaces_another_is_installed_after_that_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    has_only(monkeypatch, onnxruntime_genai="0.18.0", onnxruntime="1.31.1")
    is_platform(monkeypatch, "linux-x86_64")
    assert install_commands(load_target("cuda")) == (
        "pip uninstall -y onnxruntime-genai onnxruntime",
        'pip install "onnxruntime-genai-cuda==0.18.*"',
    )
    is_platform(monkeypatch, "windows-amd64")
    assert install_commands(load_target("directml")) == (
        "pip uninstall -y onnxruntime-genai",
        'pip install "onnxruntime-genai-winml==0.18.*"',
    )


def test_any_build_of_genai_runs_the_cpus_target(monkeypatch: pytest.MonkeyPatch) -> None:
    is_platform(monkeypatch, "linux-x86_64")
    has_only(monkeypatch, onnxruntime_genai_cuda="0.18.0")
    assert install_commands(load_target("cpu")) == ()
    assert packages_state(load_target("cpu")) == "installed"


def test_a_version_that_is_too_old_is_installed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    is_platform(monkeypatch, "linux-x86_64")
    has_only(monkeypatch, onnxruntime_genai="0.17.2")
    assert install_commands(load_target("cpu")) == ('pip install "onnxruntime-genai==0.18.*"',)
    assert packages_state(load_target("cpu")) == "missing"


def test_there_are_no_packages_for_this_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    is_platform(monkeypatch, "linux-x86_64")
    assert install_commands(load_target("directml")) == ()
    assert packages_state(load_target("directml")) == "none"


def test_a_compiler_that_is_missing_keeps_a_static_target_from_being_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        target_checks,
        "find_spec",
        lambda name: None if name == "onnxruntime_qnn" else find_spec(name),
    )
    check = check_target(load_target("qnn"))
    assert check.can.startswith("cannot be built; ")
    assert check.build_problems == ("onnxruntime-qnn compiles it: pip install onnxruntime-qnn",)


def test_a_machine_without_genai(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        target_checks,
        "find_spec",
        lambda name: None if name == "onnxruntime_genai" else find_spec(name),
    )
    problems = {name: check_target(load_target(name)).run_problem for name in ("cpu", "cuda")}
    assert problems == {
        "cpu": "onnxruntime-genai is not installed: pip install onnxruntime-genai",
        "cuda": "onnxruntime-genai-cuda is not installed: pip install onnxruntime-genai-cuda",
    }


def test_a_machine_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(name: str) -> Any:
        return None if name == "torch" else find_spec(name)

    monkeypatch.setattr(target_checks, "find_spec", without)
    check = check_target(load_target("cpu"))
    assert check.build_problems == ("torch is not installed: pip install torch",)
