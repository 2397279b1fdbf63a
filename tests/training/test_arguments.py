"""Training arguments: Hugging Face's own names, and defaults that go together."""

from pathlib import Path
from typing import Any

import pytest

from edgekit.recipes import TrainRecipe, parse_recipe
from edgekit.training.arguments import training_arguments


def arguments(tmp_path: Path, **training: Any) -> Any:
    recipe = parse_recipe(
        {
            "base": "b",
            "task": "generation",
            "data": {"train": "t.csv", "prompt": "{a}", "completion": "{b}"},
            "training": training,
            "output": str(tmp_path / "out"),
        },
        TrainRecipe,
    )
    return training_arguments(recipe, tmp_path / "checkpoints", n_sequences=100, validates=True)


@pytest.mark.parametrize("key", ["eval_steps", "save_steps"])
def test_one_interval_given_sets_the_other(tmp_path: Path, key: str) -> None:
    made = arguments(tmp_path, max_steps=24, **{key: 12})
    assert made.eval_steps == made.save_steps == 12


def test_what_a_person_sets_wins(tmp_path: Path) -> None:
    made = arguments(tmp_path, max_steps=40, learning_rate=5e-5, lr_scheduler_type="linear")
    assert made.max_steps == 40
    assert made.learning_rate == 5e-5
    assert made.lr_scheduler_type == "linear"
