"""PEFT's own rules of which module a config's words mean, without PEFT: no torch is imported.

Source: peft 0.21, ``check_target_module_exists`` and ``get_pattern_key``. The tests compare.
"""

import re
from collections.abc import Mapping
from typing import Any

_LAYER = r".*?\.[^.]*\.(?P<index>\d+)\."


def pattern_value(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """The value of ``rank_pattern`` or ``alpha_pattern`` for a module; the first match wins.

    Args:
        patterns: Regular expression of a path's end to a value.
        module: Module path.
        default: What holds where none matches.
    """
    patterns = patterns or {}
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return patterns.get(module, default)


def is_targeted(config: Mapping[str, Any], module: str) -> bool:
    """Whether ``adapter_config.json`` puts a LoRA on a module of the base.

    Raises:
        ValueError, TypeError, re.error: If its words make no sense.
    """
    targets, layers = config.get("target_modules"), config.get("layers_to_transform")
    if isinstance(targets, str):
        if layers is not None:
            raise ValueError("layers_to_transform cannot be used when target_modules is a str")
        if targets.lower() == "all-linear":
            return True
        return not _is_excluded(config, module) and bool(re.fullmatch(targets, module))
    if config.get("layers_pattern") and not layers and layers != 0:
        raise ValueError("layers_pattern is there, layers_to_transform is not")
    if _is_excluded(config, module) or not _ends_with_one_of(module, targets):
        return False
    if targets and module in targets:  # a whole path is meant, whatever its layer
        return True
    return layers in (None, []) or _layer_of(config, module) in _as_list(layers)


def _is_excluded(config: Mapping[str, Any], module: str) -> bool:
    excluded = config.get("exclude_modules")
    if isinstance(excluded, str):
        return bool(re.fullmatch(excluded, module))
    return bool(excluded) and _ends_with_one_of(module, excluded)


def _ends_with_one_of(module: str, names: Any) -> bool:
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"expected names of modules, got {names!r}")
    return any(module == name or module.endswith(f".{name}") for name in names)


def _layer_of(config: Mapping[str, Any], module: str) -> int | None:
    """Index of the module's layer; ``layers_pattern`` names the list that layers are in."""
    names = _as_list(config.get("layers_pattern") or [])
    patterns = [rf"(?:^|.*?\.){name}\.(?P<index>\d+)\." for name in names] or [_LAYER]
    matches = (re.match(pattern, module) for pattern in patterns)
    match = next((match for match in matches if match), None)
    return int(match["index"]) if match else None


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
