"""Ends a run whose validation loss has stopped falling."""

import math
from typing import Any

from transformers import EarlyStoppingCallback, TrainerControl, TrainerState, TrainingArguments

from edgekit.recipes import EarlyStopping


class StopEarly(EarlyStoppingCallback):  # type: ignore[misc]  # transformers is not typed
    """transformers' callback, for a run that may have been killed after it was to end.

    A run that goes on restores the count of evaluations without a gain, but begins as one that is
    not to stop.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stay stopped; the Trainer notices after the next step."""
        super().on_train_begin(args, state, control, **kwargs)
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            control.should_training_stop = True


def stop_early(recipe: EarlyStopping) -> StopEarly:
    """The callback that a recipe asks for."""
    return StopEarly(
        early_stopping_patience=recipe.patience, early_stopping_threshold=recipe.min_delta
    )


def early_stopping_problem(
    recipe: EarlyStopping, *, validates: bool, keeps_best: bool, max_steps: int, interval: float
) -> str | None:
    """Why early stopping could never end a run, if it could not.

    Args:
        recipe: What is asked for.
        validates: Whether there are validation rows.
        keeps_best: Whether a run evaluates and keeps the best checkpoint.
        max_steps: Of the run.
        interval: Steps from one evaluation to the next; below 1 it is a share of all steps.
    """
    if not validates:
        return "early_stopping: needs validation rows; data.validation gives none"
    if not keeps_best:
        return "early_stopping: needs evaluations and checkpoints; one of their strategies is no"
    steps = math.ceil(interval * max_steps) if interval < 1 else interval
    before_the_end = math.ceil(max_steps / steps) - 1
    needed = recipe.patience + 1  # the first one is what the others are compared with
    if before_the_end < needed:
        return (
            f"early_stopping: patience {recipe.patience} needs {needed} evaluations before the "
            f"last step, and there are {before_the_end}; lower training.eval_steps, or the patience"
        )
    return None
