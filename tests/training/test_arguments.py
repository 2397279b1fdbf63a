"""Training arguments: Hugging Face's own names, and defaults that go together."""

from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import RecipeError
from edgekit.recipes import TrainRecipe, parse_recipe
from edgekit.training.argument_checks import check_training
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


def test_the_rate_rises_and_then_falls_as_a_cosine(tmp_path: Path) -> None:
    made = arguments(tmp_path, max_steps=40)
    assert (made.lr_scheduler_type, made.warmup_steps) == ("cosine", 2)


@pytest.mark.parametrize("given", [{"eval_strategy": "epoch"}, {"save_strategy": "epoch"}])
def test_one_strategy_given_sets_the_other(tmp_path: Path, given: dict[str, str]) -> None:
    made = arguments(tmp_path, **given)
    assert made.eval_strategy == made.save_strategy == "epoch"
    assert made.load_best_model_at_end


def test_without_evaluation_the_last_checkpoint_is_kept(tmp_path: Path) -> None:
    made = arguments(tmp_path, eval_strategy="no")
    assert made.save_strategy == "steps"
    assert not made.load_best_model_at_end


def test_tensorboard_is_written_once_and_other_reports_only_where_installed(tmp_path: Path) -> None:
    from transformers.integrations import get_available_reporting_integrations

    check_training({"report_to": "tensorboard"})
    assert arguments(tmp_path, report_to=["tensorboard"]).report_to == []
    assert arguments(tmp_path).report_to == []
    others = {*get_available_reporting_integrations()} - {"tensorboard"}
    assert {*arguments(tmp_path, report_to="all").report_to} == others


@pytest.mark.parametrize(
    ("training", "expected"),
    [
        ({"report_to": "tensorbord"}, r"unknown name 'tensorbord'; did you mean 'tensorboard'"),
        ({"report_to": "neptune"}, r"neptune is not installed here; installed: .*tensorboard"),
        ({"report_to": 3}, r"expected a name or a list of names, got 3"),
        ({"greater_is_better": True}, r"the checkpoint with the lowest validation loss is kept"),
        ({"save_only_model": True}, r"could not be resumed without the optimizer's state"),
        ({"bf16": True, "fp16": True}, r"training\.fp16: bf16 is on too; choose one"),
        ({"use_cpu": True, "fp16": True}, r"goes with a GPU, and this run is on the CPU"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(training: dict[str, Any], expected: str) -> None:
    with pytest.raises(RecipeError, match=expected):
        check_training(training)


def test_bf16_is_refused_where_it_would_be_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)
    check_training({"use_cpu": True, "bf16": False})
    with pytest.raises(RecipeError, match=r"this processor has no AVX512-BF16 or AMX"):
        check_training({"use_cpu": True, "bf16": True})
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: True)
    check_training({"use_cpu": True, "bf16": True})
