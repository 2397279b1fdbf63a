"""Which target an engine takes, and why; what a forced one says where it cannot work."""

from dataclasses import replace
from pathlib import Path

import pytest

from edgekit_runtime import Bundle, TargetError, targets
from edgekit_runtime.manifest import MANIFEST_NAME, Manifest
from edgekit_runtime.providers import PROVIDERS, Provider, this_platform
from edgekit_runtime.targets import by_speed, choose_target, target_status


@pytest.fixture
def manifest(tiny_bundle: Path) -> Manifest:
    """A bundle with a CPU target, and others that differ in the provider only."""
    read = Manifest.from_bytes((tiny_bundle / MANIFEST_NAME).read_bytes())
    cpu = read.targets["cpu"]
    others = {
        "webgpu": replace(cpu, execution_provider="WebGpuExecutionProvider"),
        "cuda": replace(
            cpu,
            execution_provider="CUDAExecutionProvider",
            packages={this_platform(): "onnxruntime-genai-cuda==0.18.*"},
        ),
    }
    return replace(read, targets={"cpu": cpu, **others})


def without_devices(monkeypatch: pytest.MonkeyPatch, *, working: str = "CPU") -> None:
    """A machine where one provider works and the others find no device."""

    def problem(provider: Provider) -> str | None:
        works = provider.name == f"{working}ExecutionProvider"
        return None if works else f"no device: {provider.name} needs {provider.device}"

    monkeypatch.setattr(targets, "provider_problem", problem)


def test_the_fastest_kind_of_device_comes_first(manifest: Manifest) -> None:
    assert by_speed(manifest) == ["cuda", "webgpu", "cpu"]


def test_the_fastest_that_works_is_chosen_and_the_reason_names_the_others(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_devices(monkeypatch)
    choice = choose_target(manifest, None)
    assert choice.name == "cpu"
    assert choice.reason.startswith("the fastest that works here; cuda: no device: CUDA")
    assert "; webgpu: no device: WebGpuExecutionProvider needs a GPU with Vulkan" in choice.reason


def test_the_fastest_of_all_needs_no_excuse(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_devices(monkeypatch, working="CUDA")
    choice = choose_target(manifest, None)
    assert (choice.name, choice.reason) == (
        "cuda",
        "the fastest of the bundle's targets, and it works here",
    )


def test_a_target_that_is_asked_for_and_works(manifest: Manifest) -> None:
    choice = choose_target(manifest, "cpu")
    assert (choice.name, choice.reason) == ("cpu", "asked for")


def test_a_gpu_target_forced_on_a_machine_without_one(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_devices(monkeypatch)
    with pytest.raises(TargetError) as caught:
        choose_target(manifest, "cuda")
    assert str(caught.value) == (
        "target 'cuda' of bundle 'tiny' does not work here:\n"
        "  cuda: no device: CUDAExecutionProvider needs an NVIDIA GPU with its driver\n"
        "Leave --target out to run 'cpu'."
    )


def test_a_forced_target_is_refused_by_the_real_machine_too(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    """DirectML and a CUDA build of genai cannot both be here: one of the two is refused."""
    read = Manifest.from_bytes((tiny_bundle / MANIFEST_NAME).read_bytes())
    cpu = read.targets["cpu"]
    names = {"cuda": "CUDAExecutionProvider", "directml": "DmlExecutionProvider"}
    both = {name: replace(cpu, execution_provider=provider) for name, provider in names.items()}
    refused = [
        status for name, record in both.items() if (status := target_status(name, record)).problems
    ]
    assert refused
    with pytest.raises(TargetError) as caught:
        choose_target(replace(read, targets=both), refused[0].name)
    assert f"  {refused[0].name}: {refused[0].problems[0]}" in str(caught.value)


def test_a_target_that_is_not_in_the_bundle(manifest: Manifest) -> None:
    with pytest.raises(TargetError) as caught:
        choose_target(manifest, "cud")
    assert str(caught.value) == (
        "bundle 'tiny' has no target 'cud'\ndid you mean 'cuda' or 'cpu'? known: cpu, cuda, webgpu."
    )


def test_no_target_works(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    without_devices(monkeypatch, working="none")
    with pytest.raises(TargetError) as caught:
        choose_target(manifest, None)
    assert [line.partition(":")[0] for line in caught.value.problems] == ["cuda", "webgpu", "cpu"]


def test_a_simulator_is_taken_only_when_asked_for(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "provider_problem", lambda _: None)
    monkeypatch.setattr(targets, "is_simulated", lambda provider: provider.key == "cuda")
    choice = choose_target(manifest, None)
    assert choice.name == "webgpu"
    assert "cuda: only a simulator here (ask for it by name)" in choice.reason
    assert choose_target(manifest, "cuda").reason == "asked for"


def test_a_provider_that_this_runtime_does_not_know(manifest: Manifest) -> None:
    record = replace(manifest.targets["cpu"], execution_provider="AbacusExecutionProvider")
    (problem,) = target_status("abacus", record).problems
    assert problem.startswith("execution provider AbacusExecutionProvider: this runtime knows CUDA")
    assert all(provider.name in problem for provider in PROVIDERS)


def test_a_version_that_the_target_was_not_built_for(manifest: Manifest) -> None:
    record = replace(manifest.targets["cpu"], requires={"onnxruntime-genai": "9.9"})
    (problem,) = target_status("cpu", record).problems
    assert problem.startswith("onnxruntime-genai: expected 9.9.*, got 0.")


def test_an_engine_says_why_it_took_its_target(tiny_bundle: Path) -> None:
    with Bundle.open(tiny_bundle) as bundle, bundle.engine() as engine:
        assert engine.target == "cpu"
        assert engine.target_reason == "the fastest of the bundle's targets, and it works here"
