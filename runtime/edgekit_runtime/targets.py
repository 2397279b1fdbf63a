"""Which of a bundle's targets works on this machine."""

import importlib.metadata
from dataclasses import dataclass
from typing import Final

from edgekit_runtime.errors import TargetError, nearest
from edgekit_runtime.manifest import Manifest, TargetRecord
from edgekit_runtime.providers import (
    PROVIDERS,
    find_provider,
    is_simulated,
    provider_problem,
)
from edgekit_runtime.static_graph import STATIC_INPUTS

# Builds of genai with other providers: each runs the CPU's targets too.
GENAI_BUILDS: Final = (
    "onnxruntime-genai",
    "onnxruntime-genai-cuda",
    "onnxruntime-genai-winml",
    "onnxruntime-genai-directml",
)
_MECHANISMS: Final = ("ort_inputs", STATIC_INPUTS)


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetStatus:
    """How one target of a bundle stands on this machine.

    Attributes:
        name: The target's name.
        problems: What keeps it from working; empty if it works.
        is_simulated: It works, on a simulator, far too slowly for use: never chosen unasked.
    """

    name: str
    problems: tuple[str, ...]
    is_simulated: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetChoice:
    """The target that runs, and why.

    Attributes:
        reason: ``asked for``, or what kept the faster ones from working.
    """

    name: str
    reason: str


def choose_target(manifest: Manifest, asked: str | None) -> TargetChoice:
    """Choose the target that is asked for, or the fastest one that works here.

    Raises:
        TargetError: If it is not in the bundle, or none works here, with every reason.
    """
    if asked is not None and asked not in manifest.targets:
        raise TargetError(
            f"bundle {manifest.name!r} has no target {asked!r}",
            hint=f"{nearest(asked, manifest.targets)}.",
        )
    passed_over: list[str] = []
    for name in [asked] if asked is not None else by_speed(manifest):
        status = target_status(name, manifest.targets[name])
        if status.problems:
            passed_over += [f"{name}: {problem}" for problem in status.problems]
        elif status.is_simulated and asked is None:
            passed_over.append(f"{name}: only a simulator here (ask for it by name)")
        elif asked is not None:
            return TargetChoice(name=name, reason="asked for")
        else:
            return TargetChoice(name=name, reason=_reason(passed_over))
    raise TargetError(
        f"target {asked!r} of bundle {manifest.name!r} does not work here"
        if asked
        else f"no target of bundle {manifest.name!r} works here",
        problems=passed_over or ["the bundle has no targets"],
        hint=_way_out(manifest, asked),
    )


def target_status(name: str, record: TargetRecord) -> TargetStatus:
    """Say how a target stands here: works, works on a simulator, or every problem."""
    problems = []
    provider = find_provider(record.execution_provider)
    if provider is None:
        known = ", ".join(provider.name for provider in PROVIDERS)
        problems.append(
            f"execution provider {record.execution_provider}: this runtime knows {known}"
        )
    elif problem := provider_problem(provider):
        problems.append(problem)
    if not problems:
        problems += [
            problem
            for package, prefix in record.requires.items()
            if (problem := _version_problem(package, prefix))
        ]
    if record.adapter_mechanism not in _MECHANISMS:
        problems.append(
            f"adapter mechanism: this runtime knows {', '.join(_MECHANISMS)}, "
            f"got {record.adapter_mechanism}"
        )
    return TargetStatus(
        name=name,
        problems=tuple(problems),
        is_simulated=provider is not None and is_simulated(provider),
    )


def by_speed(manifest: Manifest) -> list[str]:
    """A bundle's targets, the fastest kind of device first."""
    order = [provider.name for provider in PROVIDERS]

    def rank(name: str) -> tuple[int, str]:
        provider = find_provider(manifest.targets[name].execution_provider)
        return (order.index(provider.name) if provider else len(order), name)

    return sorted(manifest.targets, key=rank)


def _reason(passed_over: list[str]) -> str:
    if not passed_over:
        return "the fastest of the bundle's targets, and it works here"
    return f"the fastest that works here; {'; '.join(passed_over)}"


def _way_out(manifest: Manifest, asked: str | None) -> str:
    if asked is not None:
        others = (target_status(name, manifest.targets[name]) for name in by_speed(manifest))
        works = [other.name for other in others if not other.problems and not other.is_simulated]
        if not works:
            return "No other target of the bundle works here either."
        return f"Leave --target out to run '{works[0]}'."
    return "Install what is listed, or build the bundle for a target of this machine."


def _version_problem(package: str, prefix: str) -> str | None:
    versions = []
    for name in GENAI_BUILDS if package == GENAI_BUILDS[0] else (package,):
        try:
            versions.append(importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            continue
    if not versions:
        return f"{package} {prefix}.* is not installed: pip install '{package}=={prefix}.*'"
    if any(version == prefix or version.startswith(f"{prefix}.") for version in versions):
        return None
    return f"{package}: expected {prefix}.*, got {' and '.join(versions)}"
