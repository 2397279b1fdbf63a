"""Which of a bundle's targets works on this machine."""

import importlib.metadata
from collections.abc import Mapping
from typing import Final

from edgekit_runtime.errors import TargetError, nearest
from edgekit_runtime.manifest import Manifest, TargetRecord
from edgekit_runtime.native import load_genai
from edgekit_runtime.providers import is_qnn_simulated
from edgekit_runtime.static_graph import STATIC_INPUTS

# Execution provider to genai's own check that it is there; the faster ones first.
_PROVIDERS: Final[Mapping[str, str | None]] = {
    "cuda": "is_cuda_available",
    "dml": "is_dml_available",
    "webgpu": "is_webgpu_available",
    "cpu": None,
    "qnn": None,  # its package is in the target's `requires`
}
_MECHANISMS: Final = ("ort_inputs", STATIC_INPUTS)


def choose_target(manifest: Manifest, asked: str | None) -> str:
    """Return the name of the target that is asked for, or of the best one that works here.

    Raises:
        TargetError: If it is not in the bundle, or none works here, with every reason.
    """
    if asked is not None and asked not in manifest.targets:
        raise TargetError(
            f"bundle {manifest.name!r} has no target {asked!r}",
            hint=f"{nearest(asked, manifest.targets)}.",
        )
    candidates = [asked] if asked is not None else _by_speed(manifest)
    problems: list[str] = []
    for name in candidates:
        found = target_problems(manifest.targets[name])
        if not found:
            return name
        problems += [f"{name}: {problem}" for problem in found]
    raise TargetError(
        f"no target of bundle {manifest.name!r} works here",
        problems=problems or ["the bundle has none that is chosen unasked"],
        hint="Install what is listed, or build the bundle for a target of this machine.",
    )


def target_problems(record: TargetRecord) -> list[str]:
    """Say everything that keeps a target from working here."""
    problems = [
        problem
        for package, prefix in record.requires.items()
        if (problem := _version_problem(package, prefix))
    ]
    if record.adapter_mechanism not in _MECHANISMS:
        known = " and ".join(_MECHANISMS)
        problems.append(
            f"adapter mechanism: this runtime knows {known}, got {record.adapter_mechanism}"
        )
    provider = _short(record.execution_provider)
    if provider not in _PROVIDERS:
        problems.append(f"execution provider {record.execution_provider}: not known here")
    elif not problems and (check := _PROVIDERS[provider]) and not getattr(load_genai(), check)():
        problems.append(f"execution provider {record.execution_provider}: not on this machine")
    return problems


def _by_speed(manifest: Manifest) -> list[str]:
    order = list(_PROVIDERS)

    def is_fast(name: str) -> bool:
        # A simulator of an NPU takes seconds a token: only for who asks for it.
        return _short(manifest.targets[name].execution_provider) != "qnn" or not is_qnn_simulated()

    def rank(name: str) -> tuple[int, str]:
        provider = _short(manifest.targets[name].execution_provider)
        return (order.index(provider) if provider in order else len(order), name)

    return sorted(filter(is_fast, manifest.targets), key=rank)


def _short(provider: str) -> str:
    """Make one short name of "CPUExecutionProvider" and "cpu"."""
    return provider.lower().removesuffix("executionprovider")


def _version_problem(package: str, prefix: str) -> str | None:
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return f"{package} {prefix}.* is not installed"
    if version == prefix or version.startswith(f"{prefix}."):
        return None
    return f"{package}: expected {prefix}.*, got {version}"
