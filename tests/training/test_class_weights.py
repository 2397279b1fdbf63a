"""Class weights: PyTorch's own weighted mean, and a run that is told by it."""

from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import RecipeError
from edgekit.recipes import TrainRecipe, parse_recipe
from edgekit.training.report import TrainingReport


def run(base: Path, folder: Path, name: str, **changes: Any) -> TrainingReport:
    from edgekit.training.train import train

    rows = folder / "rows.csv"
    lines = [f"light {i},{'rare' if i % 6 == 0 else 'common'}" for i in range(24)]
    rows.write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
    values: dict[str, Any] = {
        "base": str(base),
        "task": "classification",
        "data": {"train": str(rows), "prompt": "{text}:", "completion": " {label}"},
        "lora": {"r": 4},
        "output": str(folder / name),
    }
    training = {"max_steps": 3, "per_device_train_batch_size": 8, "bf16": False}
    training |= changes.pop("training", {})
    return train(parse_recipe(values | changes | {"training": training}, TrainRecipe))


def losses(report: TrainingReport) -> list[float | None]:
    return [point.train_loss for point in report.loss_curve]


def test_the_loss_is_that_of_torch_with_weight() -> None:
    import torch

    from edgekit.training.class_weights import token_weights, weighted_nll

    torch.manual_seed(0)
    labels = torch.tensor([[-100, 1], [-100, 3], [-100, 1], [-100, 4]])
    by_token = torch.tensor([1.0, 0.5, 1.0, 4.0, 2.0])
    targets = labels[:, 1]
    logits = torch.randn(4, 5)
    weights = token_weights({"labels": labels, "row_weights": by_token[targets]})
    mean = weighted_nll(logits, targets, weights) / weights.sum()
    expected = torch.nn.functional.cross_entropy(logits, targets, weight=by_token)
    torch.testing.assert_close(mean, expected)
    smooth = torch.nn.functional.cross_entropy(
        logits, targets, reduction="none", label_smoothing=0.1
    )
    torch.testing.assert_close(
        weighted_nll(logits, targets, weights, 0.1), (smooth * weights).sum()
    )


def test_balanced_is_what_scikit_learn_has() -> None:
    import numpy as np
    from sklearn.utils.class_weight import compute_class_weight

    from edgekit.training.class_weights import weights_by_label

    labels = ["a"] * 5 + ["b"] * 2 + ["c"]
    expected = compute_class_weight("balanced", classes=np.array(["a", "b", "c"]), y=labels)
    assert list(weights_by_label("balanced", labels).values()) == pytest.approx(expected)


def test_equal_weights_change_nothing_and_accumulation_is_one_larger_batch(
    tiny_base: Path, tmp_path: Path
) -> None:
    smooth = {"label_smoothing_factor": 0.1}
    plain = run(tiny_base, tmp_path, "plain", training=smooth)
    equal = run(
        tiny_base, tmp_path, "equal", class_weights={"rare": 3, "common": 3}, training=smooth
    )
    assert losses(equal) == pytest.approx(losses(plain), rel=1e-5)
    whole = run(tiny_base, tmp_path, "whole", class_weights="balanced")
    halves = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    parts = run(tiny_base, tmp_path, "parts", class_weights="balanced", training=halves)
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-4)
    assert losses(whole) != pytest.approx(losses(plain), rel=1e-3)
    assert whole.class_weights is not None
    assert whole.class_weights["rare"] > 2 > 1 > whole.class_weights["common"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"class_weights": {"rara": 2}}, r"class_weights\.rara: did you mean 'rare'"),
        ({"class_weights": {"rare": -1}}, r"rare: expected a number over 0, got -1"),
        ({"class_weights": {True: 1}}, r"label True is no text; write it in quotes"),
        ({"class_weights": "even"}, r"expected balanced, or a weight by label, got 'even'"),
        ({"class_weights": "balanced", "task": "generation"}, r"for task classification"),
        ({"class_weights": "balanced", "loss": "a.py:B"}, r"not with loss"),
        ({"loss": "a.py:B", "training": {"label_smoothing_factor": 0.1}}, r"not with loss"),
    ],
)
def test_weights_that_cannot_be_are_refused(
    changes: dict[str, Any], expected: str, tiny_base: Path, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=expected):
        run(tiny_base, tmp_path, "a", **changes)
