"""A run that is killed by ``kill -9`` and started again ends as one that was never stopped."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgekit.recipes import TrainRecipe, parse_recipe
from edgekit.training.report import TrainingReport

# The process kills itself in the middle of a step: nothing is flushed, no handler runs.
_RUN_UNTIL_KILLED = """
import json, os, signal, sys
from edgekit.recipes import TrainRecipe, parse_recipe
from edgekit.training.events import TrainingStep
from edgekit.training.train import train

def watch(event):
    if isinstance(event, TrainingStep) and event.step == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

train(parse_recipe(json.loads(sys.argv[1]), TrainRecipe), on_event=watch)
"""
_LOSS = """
from edgekit.training.losses import completion_loss

class Loss:
    def __call__(self, model, batch, outputs):
        return completion_loss(batch, outputs) + 1e-4 * outputs.logits.pow(2).mean()
"""
SETTINGS: dict[str, dict[str, Any]] = {
    "accumulation": {"training": {"gradient_accumulation_steps": 2}},
    "packing": {"data": {"packing": True, "max_length": 64}},
    # Killed in the first pass, in the middle of a buffer; the second pass is behind that.
    "streaming": {
        "data": {"streaming": True, "shuffle_buffer": 10, "validation": 8},
        "training": {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 3},
    },
    "qlora": {"method": "qlora", "weights": "target:cpu"},
    "own loss": {"loss": "LOSS_FILE:Loss", "training": {"gradient_accumulation_steps": 2}},
}


def recipe_of(base: Path, folder: Path, output: Path, changes: dict[str, Any]) -> TrainRecipe:
    rows = folder / "rows.csv"
    lines = [f"light {i} {'very ' * (i % 5)}bright,{'on' if i % 2 else 'off'}" for i in range(40)]
    rows.write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
    (folder / "loss.py").write_text(_LOSS, encoding="utf-8")
    training = {"max_steps": 8, "per_device_train_batch_size": 4, "save_steps": 2, "bf16": False}
    values: dict[str, Any] = {
        "base": str(base),
        "data": {"train": str(rows), "prompt": "{text}:", "completion": " {label}"},
        # Dropout: the random state has to come back too.
        "lora": {"r": 4, "lora_dropout": 0.2},
        "output": str(output),
    }
    for key, value in changes.items():
        if key == "data":
            values["data"] |= value
        elif key == "loss":
            values["loss"] = value.replace("LOSS_FILE", str(folder / "loss.py"))
        elif key != "training":
            values[key] = value
    values["training"] = training | changes.get("training", {})
    return parse_recipe(values, TrainRecipe)


def run(recipe: TrainRecipe) -> TrainingReport:
    from edgekit.training.train import train

    return train(recipe)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 on this system")
@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_run_killed_by_the_system_ends_as_an_unbroken_one(
    setting: str, tiny_base: Path, tmp_path: Path
) -> None:
    changes = SETTINGS[setting]
    unbroken = run(recipe_of(tiny_base, tmp_path, tmp_path / "unbroken", changes))
    recipe = recipe_of(tiny_base, tmp_path, tmp_path / "killed", changes)
    values = recipe.model_dump(mode="json", exclude_unset=True)
    done = subprocess.run(
        [sys.executable, "-c", _RUN_UNTIL_KILLED, json.dumps(values), "5"],
        capture_output=True,
        text=True,
        env=dict(os.environ),
        timeout=300,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (recipe.output / "adapter_config.json").exists()
    resumed = run(recipe)
    assert resumed.resumed_from_step == 4
    assert unbroken.resumed_from_step == 0
    assert resumed.loss_curve == unbroken.loss_curve
    assert resumed.metrics == unbroken.metrics
    weights = [
        (tmp_path / name / "adapter_model.safetensors").read_bytes()
        for name in ("unbroken", "killed")
    ]
    assert weights[0] == weights[1]
