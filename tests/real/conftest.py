"""The real tier: SmolLM2-135M, an adapter trained on the demo's data, one by plain peft."""

import os
from pathlib import Path

import pytest

DEMO = Path("bundles/demo")


@pytest.fixture(scope="session")
def tone_adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on the demo's phrases: fewer steps than the demo, enough to learn the task."""
    from edgekit.recipes import TrainRecipe, load_recipe
    from edgekit.training.train import train

    output = tmp_path_factory.mktemp("adapters") / "tone"
    recipe = load_recipe(
        DEMO / "tone.yaml",
        TrainRecipe,
        [f"output={output}", "training.max_steps=24", "training.eval_steps=12"],
    )
    train(recipe)
    return output


@pytest.fixture(scope="session")
def plain_adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another rank, other modules, no edgekit: what anybody's peft script leaves behind."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from edgekit import resolve_base

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(resolve_base("smollm2-135m").path)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "up_proj"])
    adapted = get_peft_model(model, config)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    path = tmp_path_factory.mktemp("adapters") / "plain"
    adapted.save_pretrained(os.fspath(path))
    return path


@pytest.fixture(scope="session")
def real_bundle(
    tone_adapter: Path, plain_adapter: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Built with the trained adapter, the plain one added afterwards; both through the gate."""
    from edgekit.building.build import build
    from edgekit.bundling.adapters import AdapterSource
    from edgekit.bundling.edit import add_adapter

    output = tmp_path_factory.mktemp("bundles") / "real"
    build(
        name="real",
        base="smollm2-135m",
        output=output,
        targets=("cpu-fast",),
        adapters={"tone": AdapterSource(path=tone_adapter)},
    )
    add_adapter(output, "plain", AdapterSource(path=plain_adapter))
    return output
