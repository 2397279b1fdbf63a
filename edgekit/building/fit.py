"""Does a base fit its targets and this machine? Asked before any work is done."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from edgekit.adapters.peft_dir import PeftAdapter
from edgekit.bases import Base, default_cache_dir
from edgekit.building.base_shape import BaseShape, shape_of
from edgekit.building.levers import Setup, levers, way_to_fit
from edgekit.building.memory import context_length, disk_bytes, memory_need, show_bytes
from edgekit.errors import BuildError
from edgekit.targets import TargetProfile

# The export that the builder writes, the cache's copy of it, and the bundle.
_COPIES_ON_DISK = 3


def check_fit(
    base: Base,
    profiles: Mapping[str, TargetProfile],
    adapters: Mapping[str, Mapping[str, PeftAdapter]],
    output: Path,
    *,
    parity: bool,
) -> None:
    """Refuse a base that cannot fit a target's memory, or this machine's disk and memory.

    Args:
        base: The base.
        profiles: Target name to its profile.
        adapters: Target name to adapter name to the adapter as read for it.
        output: Where the bundle goes.
        parity: Whether the gate runs, which holds the float model in memory.

    Raises:
        BuildError: With every shortage, and what would make each target fit.
    """
    import psutil

    shape = shape_of(base)
    problems: list[str] = []
    for target, profile in profiles.items():
        modules = {name: adapter.modules for name, adapter in adapters[target].items()}
        problems += _budget_problems(Setup(shape=shape, profile=profile, adapters=modules))
    over_budget = bool(problems)
    needed = disk_needed_bytes(shape, profiles)
    for place in (output, default_cache_dir()):
        free = shutil.disk_usage(_existing_parent(place)).free
        if free < needed:
            problems.append(
                f"disk: needs {show_bytes(needed)} at '{place}', {show_bytes(free)} are free"
            )
    needed = build_memory_bytes(shape, profiles, parity=parity)
    available = psutil.virtual_memory().available
    if available < needed:
        problems.append(
            f"memory: needs about {show_bytes(needed)} to build and check, "
            f"{show_bytes(available)} are available"
        )
    if problems:
        way = "the changes above in a profile of your own" if over_budget else "a larger machine"
        raise BuildError(
            f"base '{base.name}' does not fit",
            problems=problems,
            hint=f"Take a smaller base, or {way}.",
        )


def disk_needed_bytes(shape: BaseShape, profiles: Mapping[str, TargetProfile]) -> int:
    """What a build writes at most: exports are kept in the cache, then go into the bundle."""
    return _COPIES_ON_DISK * sum(disk_bytes(shape, profile) for profile in profiles.values())


def build_memory_bytes(
    shape: BaseShape, profiles: Mapping[str, TargetProfile], *, parity: bool
) -> int:
    """What a build holds at most: the float model (twice in the gate) and one target's weights."""
    weights = max(disk_bytes(shape, profile) for profile in profiles.values())
    return (2 if parity else 1) * shape.float_bytes + weights


def _budget_problems(setup: Setup) -> Iterator[str]:
    """A target's need over its budget, then what would make it fit, a line for each."""
    if setup.fits:
        return
    profile = setup.profile
    need = memory_need(setup.shape, profile, setup.adapters.values())
    context = context_length(setup.shape, profile)
    yield (
        f"target '{profile.name}': needs {show_bytes(need.total_bytes)} "
        f"(weights {show_bytes(need.weights_bytes)}, "
        f"key-value cache for {context} tokens {show_bytes(need.cache_bytes)}, "
        f"adapters {show_bytes(need.adapter_bytes)}, "
        f"activations {show_bytes(need.activation_bytes)}, "
        f"runtime {show_bytes(need.runtime_bytes)}), "
        f"its memory_budget_bytes is {show_bytes(profile.memory_budget_bytes)}"
    )
    for lever in levers(setup):
        yield f"  {lever}"
    changes, changed = way_to_fit(setup)
    if changed.fits:
        yield f"  enough: {', '.join(changes)}"
    else:
        yield f"  all of these together still need {show_bytes(changed.needed_bytes)}"


def _existing_parent(path: Path) -> Path:
    path = path.resolve()
    while not path.exists():
        path = path.parent
    return path
