"""A run ends when its validation loss no longer falls, and not where that could never happen."""

from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import RecipeError
from edgekit.recipes import TrainRecipe, parse_recipe
from edgekit.training.arguments import training_arguments
from edgekit.training.early_stopping import StopEarly
from edgekit.training.events import Event, TrainingStep
from edgekit.training.report import TrainingReport


def recipe_of(base: Path, folder: Path, **changes: Any) -> TrainRecipe:
    rows = folder / "rows.csv"
    lines = [f"light {i},{'on' if i % 2 else 'off'}" for i in range(16)]
    rows.write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
    # The rate never leaves its warm-up upwards: after a few steps every evaluation is worse.
    training = {
        "max_steps": 20,
        "per_device_train_batch_size": 4,
        "eval_steps": 2,
        "learning_rate": 0.5,
        "lr_scheduler_type": "linear",
        "warmup_steps": 40,
        "bf16": False,
    }
    values: dict[str, Any] = {
        "base": str(base),
        "data": {"train": str(rows), "prompt": "{text}:", "completion": " {label}"},
        "lora": {"r": 4},
        "training": training | changes.pop("training", {}),
        "early_stopping": 2,
        "output": str(folder / changes.pop("output", "out")),
    }
    return parse_recipe(values | changes, TrainRecipe)


def run(recipe: TrainRecipe, killed_at: int | None = None) -> TrainingReport:
    from edgekit.training.train import train

    def watch(event: Event) -> None:
        if isinstance(event, TrainingStep) and event.step == killed_at:
            raise KeyboardInterrupt

    return train(recipe, on_event=watch)


def test_a_run_ends_after_so_many_evaluations_without_a_gain_and_keeps_the_best(
    tiny_base: Path, tmp_path: Path
) -> None:
    report = run(recipe_of(tiny_base, tmp_path))
    by_step = {p.step: p.eval_loss for p in report.loss_curve if p.eval_loss is not None}
    assert report.stopped_early
    assert report.steps == report.best_step + 2 * 2 < 20
    assert report.best_step == min(by_step, key=lambda step: by_step[step] or 0)
    assert report.metrics["validation"]["loss"] == pytest.approx(by_step[report.best_step])


def test_a_killed_run_goes_on_with_its_count(tiny_base: Path, tmp_path: Path) -> None:
    whole = run(recipe_of(tiny_base, tmp_path, output="whole"))
    broken = recipe_of(tiny_base, tmp_path, output="broken")
    with pytest.raises(KeyboardInterrupt):
        run(broken, killed_at=whole.steps - 1)  # one evaluation without a gain lies behind it
    resumed = run(broken)
    assert resumed.resumed_from_step == whole.steps - 2
    assert (resumed.steps, resumed.best_step) == (whole.steps, whole.best_step)
    assert resumed.metrics == whole.metrics


def test_a_run_that_was_to_end_when_it_was_killed_still_ends() -> None:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    arguments = TrainingArguments(
        metric_for_best_model="eval_loss", eval_strategy="steps", load_best_model_at_end=False
    )
    callback = StopEarly(early_stopping_patience=2)
    for count, stays_stopped in ((1, False), (2, True)):
        callback.early_stopping_patience_counter = count
        control = TrainerControl()
        callback.on_train_begin(arguments, TrainerState(), control)
        assert control.should_training_stop is stays_stopped


def test_a_gain_has_to_be_of_the_size_that_is_asked_for(tiny_base: Path, tmp_path: Path) -> None:
    # The loss falls at every evaluation, but never by 5 nats a token.
    gentle = {"learning_rate": 1e-3, "warmup_steps": 1}
    changes: dict[str, Any] = {"early_stopping": {"patience": 2, "min_delta": 5}}
    report = run(recipe_of(tiny_base, tmp_path, training=gentle, **changes))
    assert report.stopped_early
    assert report.steps == report.best_step == 6


@pytest.mark.parametrize(
    ("changes", "validates", "expected"),
    [
        ({}, False, "needs validation rows"),
        ({"training": {"eval_strategy": "no"}}, True, "needs evaluations and checkpoints"),
        ({"training": {"eval_steps": 8}}, True, "needs 3 evaluations before the last step.*are 2"),
        ({"training": {"eval_steps": 0.4}}, True, "there are 2"),
        ({"training": {"eval_strategy": "epoch", "max_steps": 12}}, True, "there are 2"),
    ],
)
def test_what_could_never_end_a_run_is_refused(
    changes: dict[str, Any], validates: bool, expected: str, tmp_path: Path
) -> None:
    recipe = recipe_of(Path("base"), tmp_path, **changes)
    with pytest.raises(RecipeError, match=expected):
        training_arguments(recipe, tmp_path, n_sequences=16, validates=validates)


@pytest.mark.parametrize("wrong", [0, True, {"patience": 2, "min_delta": -1}, {"min_delta": 1}])
def test_a_wrong_value_is_refused(wrong: Any, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="early_stopping"):
        recipe_of(Path("base"), tmp_path, early_stopping=wrong)
