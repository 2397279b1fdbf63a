"""The rules of module names are PEFT's own, on every kind of config that PEFT takes or refuses."""

from typing import Any

import pytest

from edgekit.adapters.peft_rules import is_targeted, pattern_value

MODULES = [
    f"model.layers.{layer}.{name}"
    for layer in (0, 1, 11)
    for name in ("self_attn.q_proj", "self_attn.qkv_proj", "mlp.down_proj", "mlp.0.up_proj")
] + ["lm_head", "q_proj"]

TARGETS: dict[str, dict[str, Any]] = {
    "names": {"target_modules": ["q_proj", "down_proj"]},
    "one_path": {"target_modules": ["model.layers.1.self_attn.q_proj", "0.up_proj"]},
    "part_of_a_name": {"target_modules": ["proj", "kv_proj"]},
    "regex": {"target_modules": r".*\.1\d?\.(self_attn|mlp)\.[qd]\w+"},
    "regex_that_is_a_name": {"target_modules": "q_proj"},
    "excluded_names": {"target_modules": ["q_proj", "down_proj"], "exclude_modules": ["q_proj"]},
    "excluded_regex": {"target_modules": ["q_proj"], "exclude_modules": r".*layers\.1\..*"},
    "one_layer": {"target_modules": ["q_proj"], "layers_to_transform": 1},
    "layers": {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [0, 11]},
    "no_layers": {"target_modules": ["q_proj"], "layers_to_transform": []},
    "pattern": {
        "target_modules": ["q_proj", "up_proj"],
        "layers_to_transform": [0],
        "layers_pattern": ["blocks", "mlp"],
    },
    "pattern_text": {
        "target_modules": ["q_proj"],
        "layers_to_transform": [1],
        "layers_pattern": "layers",
    },
}


@pytest.mark.parametrize("name", TARGETS)
def test_targets_are_those_of_peft(name: str) -> None:
    from peft import LoraConfig
    from peft.tuners.tuners_utils import check_target_module_exists

    config = LoraConfig(**TARGETS[name])
    expected = {module for module in MODULES if check_target_module_exists(config, module)}
    assert {module for module in MODULES if is_targeted(TARGETS[name], module)} == expected
    assert expected != set(MODULES)


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": r".*q_proj", "layers_to_transform": [1]},
        {"target_modules": ["q_proj"], "layers_pattern": "layers"},
        {"target_modules": r"(unclosed"},
    ],
)
def test_what_peft_refuses_is_refused(config: dict[str, Any]) -> None:
    import re

    from peft import LoraConfig
    from peft.tuners.tuners_utils import check_target_module_exists

    with pytest.raises((ValueError, re.error)):
        check_target_module_exists(LoraConfig(**config), MODULES[0])
    with pytest.raises((ValueError, re.error)):
        is_targeted(config, MODULES[0])


@pytest.mark.parametrize(
    "patterns",
    [
        {"q_proj": 2},
        {"layers.1.mlp.down_proj": 3, "down_proj": 4},
        {"down_proj": 4, "layers.1.mlp.down_proj": 3},
        {r"^model.layers.0.+.q_proj": 5},
        {r"model.layers.1.*": 6},
        {"_proj": 7},
        {"lm_head": 8},
        {},
        None,
    ],
)
def test_patterns_are_those_of_peft(patterns: dict[str, int] | None) -> None:
    from peft.utils.other import get_pattern_key

    for module in MODULES:
        key = get_pattern_key(list(patterns or {}), module)
        assert pattern_value(patterns, module, 1) == (patterns or {}).get(key, 1)
