"""Profiles of static targets for tiny bases: on the CPU provider as they are, or compiled."""

from pathlib import Path
from typing import Any

import yaml

from edgekit.targets import TargetProfile, load_target, targets_dir

CHUNK_TOKENS = 16
CONTEXT_TOKENS = 96


def write_profile(directory: Path, name: str = "static", **changes: Any) -> Path:
    """Write a profile for tiny bases, whose graphs run uncompiled on the CPU provider.

    Args:
        directory: Where to.
        name: The target's name.
        changes: Keys that replace those of ``targets/qnn.yaml``, section by section.
    """
    profile = yaml.safe_load((targets_dir() / "qnn.yaml").read_text(encoding="utf-8"))
    ours: dict[str, Any] = {
        "name": name,
        "execution_provider": "CPUExecutionProvider",
        "provider_options": None,
        "static": {"chunk_tokens": CHUNK_TOKENS},
        "context_length": CONTEXT_TOKENS,
        "requires": None,
        "verify": {"execution_provider": "CPUExecutionProvider"},
    }
    for key, value in (ours | changes).items():
        if value is None:
            profile[key] = {}
        elif isinstance(value, dict):
            profile[key] = profile[key] | value
        else:
            profile[key] = value
    path = directory / f"{name}.yaml"
    path.write_text(yaml.safe_dump(profile), encoding="utf-8")
    return path


def compiled_changes() -> dict[str, Any]:
    """Changes that bring back QNN, with bounds for random weights, whose logits lie close."""
    shipped = load_target("qnn")
    return {
        "execution_provider": shipped.execution_provider,
        "provider_options": dict(shipped.provider_options),
        "requires": dict(shipped.requires),
        "verify": {"execution_provider": shipped.execution_provider},
        "parity": {"compiled_positions": 40, "compiled_min_top1": 0.9},
    }


def static_profile(directory: Path, **changes: Any) -> TargetProfile:
    """The profile of `write_profile`, loaded."""
    return load_target(str(write_profile(directory, **changes)))
