"""A and scaled B mean what PEFT computes, whatever the config says about ranks and alphas."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.adapters.peft_dir import read_peft_adapter
from edgekit.bases import Base, resolve_base
from tests.peft_adapters import make_peft_adapter

CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {"r": 4, "lora_alpha": 12},
    "rank_pattern": {
        "rank_pattern": {"q_proj": 2, "layers.1.mlp.down_proj": 6, "^model.layers.0.+.o_proj": 3}
    },
    "alpha_pattern": {"alpha_pattern": {"v_proj": 40, "0.self_attn.k_proj": 1}},
    "both_patterns": {"rank_pattern": {"up_proj": 3}, "alpha_pattern": {"up_proj": 5.5}},
    "rslora": {"r": 9, "lora_alpha": 6, "use_rslora": True, "rank_pattern": {"q_proj": 4}},
    "layers_to_transform": {
        "target_modules": ["q_proj", "gate_proj"],
        "layers_to_transform": [1],
    },
    "layers_pattern": {
        "target_modules": ["o_proj"],
        "layers_to_transform": 0,
        "layers_pattern": "layers",
    },
    "regex_targets": {"target_modules": r".*\.0\.self_attn\.[qv]_proj"},
    "exclude_modules": {"target_modules": "all-linear", "exclude_modules": ["down_proj"]},
    "gaussian": {"init_lora_weights": "gaussian"},
    "dropout": {"lora_dropout": 0.5},
}


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> Base:
    return resolve_base(str(tiny_base))


def merged_deltas(base: Path, adapter: Path) -> dict[str, Any]:
    """What PEFT's own merge adds to each weight of the base."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().state_dict()
    deltas = {key: (merged[key] - before[key]).numpy() for key in before}
    return {key.removesuffix(".weight"): value for key, value in deltas.items() if value.any()}


@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_what_peft_merges(name: str, base: Base, tmp_path: Path) -> None:
    make_peft_adapter(base.path, tmp_path / name, seed=3, **CONFIGS[name])
    read = read_peft_adapter(tmp_path / name, base, name=name, max_rank=16)
    expected = merged_deltas(base.path, tmp_path / name)
    assert set(read.modules) == set(expected)
    for module, pair in read.modules.items():
        np.testing.assert_allclose(pair.b @ pair.a, expected[module], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_weights_are_read_exactly(dtype: str, base: Base, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    make_peft_adapter(base.path, tmp_path, target_modules=["q_proj"])
    file = tmp_path / "adapter_model.safetensors"
    half = {key: value.to(getattr(torch, dtype)) for key, value in load_file(file).items()}
    save_file(half, file)
    read = read_peft_adapter(tmp_path, base, name="half", max_rank=8)
    module = "model.layers.0.self_attn.q_proj"
    stored = half[f"base_model.model.{module}.lora_B.weight"].float().numpy()
    np.testing.assert_array_equal(read.modules[module].b, stored * np.float32(2))


def test_it_says_its_ranks_and_modules(base: Base, tmp_path: Path) -> None:
    make_peft_adapter(
        base.path, tmp_path, target_modules=["v_proj", "q_proj"], rank_pattern={"q_proj": 6}
    )
    read = read_peft_adapter(tmp_path, base, name="mixed", max_rank=8)
    assert (read.target_modules, read.max_r, read.binding) == (("q_proj", "v_proj"), 6, "assumed")
