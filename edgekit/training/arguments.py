"""From a recipe's ``training`` and ``lora`` to transformers' and PEFT's own objects."""

import math
from pathlib import Path
from typing import Any

from edgekit.errors import RecipeError
from edgekit.method_recipes import LoraRecipe
from edgekit.recipes import TrainRecipe
from edgekit.training.argument_checks import has_fast_bf16, report_names, trains_on_cpu
from edgekit.training.processes import processes

DEFAULT_LEARNING_RATE = 1e-3
FULL_LEARNING_RATE = 5e-5  # every weight moves, so each moves less
DEFAULT_BATCH_SIZE = 8
DEFAULT_EPOCHS = 3.0
N_EVALUATIONS = 5
N_EVALUATIONS_TO_STOP = 10  # early stopping chooses among more


def training_arguments(
    recipe: TrainRecipe, checkpoints: Path, *, n_sequences: int, validates: bool
) -> Any:
    """Make TrainingArguments: edgekit's defaults under the recipe's own values.

    Args:
        recipe: Its ``training`` has passed :func:`check_training`.
        checkpoints: Where the Trainer keeps its state.
        n_sequences: Of the training split; says how long an epoch is.
        validates: Whether there is anything to evaluate on.

    Raises:
        RecipeError: If transformers refuses a value.
    """
    from transformers import TrainingArguments

    given = recipe.training
    on_cpu = trains_on_cpu(given)
    max_steps = _max_steps(given, n_sequences)
    n_evaluations = N_EVALUATIONS_TO_STOP if recipe.early_stopping else N_EVALUATIONS
    interval = max(1, math.ceil(max_steps / n_evaluations))
    # The best step can only be kept where a checkpoint is written: one interval for both.
    interval = given.get("eval_steps", given.get("save_steps", interval))
    # What a person gives for one of evaluation and checkpoints holds for the other.
    saves = given.get("save_strategy", "steps")
    strategy = given.get("eval_strategy", saves if saves in ("steps", "epoch") else "steps")
    evaluates = validates and strategy != "no"
    keeps_best = evaluates and saves != "no"
    values: dict[str, Any] = {
        "per_device_train_batch_size": DEFAULT_BATCH_SIZE,
        "num_train_epochs": DEFAULT_EPOCHS,
        "per_device_eval_batch_size": 16,
        "learning_rate": FULL_LEARNING_RATE if recipe.method == "full" else DEFAULT_LEARNING_RATE,
        "lr_scheduler_type": "cosine",
        "warmup_steps": max(1, round(0.05 * max_steps)),
        "max_grad_norm": 1.0,
        "use_cpu": on_cpu,
        "bf16": has_fast_bf16(use_cpu=on_cpu) and not given.get("fp16"),
        "logging_steps": max(1, max_steps // 100),
        "logging_first_step": True,
        "logging_nan_inf_filter": False,
        "eval_strategy": strategy if evaluates else "no",
        "eval_steps": interval,
        "save_strategy": strategy if evaluates else "steps",
        "save_steps": interval,
        "save_total_limit": 2,
        "load_best_model_at_end": keeps_best,
        "metric_for_best_model": "eval_loss" if keeps_best else None,
        "greater_is_better": False if keeps_best else None,
        "dataloader_pin_memory": False,
        # Nothing here learns by buffers, and packed weights are large ones.
        "ddp_broadcast_buffers": False,
        # The families that are trained are dense: every step uses every trained weight.
        "ddp_find_unused_parameters": False,
    }
    fixed = {
        "output_dir": str(checkpoints),
        "seed": recipe.seed,
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "label_names": ["labels"],
        # TensorBoard's files are always written, by edgekit's own callback into the output.
        "report_to": [name for name in report_names(given) if name != "tensorboard"] or "none",
    }
    if recipe.data.streaming:
        # Each process takes its part of what it reads; else the first would send batches around.
        fixed["accelerator_config"] = {"dispatch_batches": False}
    if not validates:
        fixed["eval_strategy"] = "no"
    if recipe.early_stopping is not None:
        from edgekit.training.early_stopping import early_stopping_problem

        problem = early_stopping_problem(
            recipe.early_stopping,
            validates=validates,
            keeps_best=keeps_best,
            max_steps=max_steps,
            interval=interval if strategy == "steps" else _steps_per_epoch(given, n_sequences),
        )
        if problem is not None:
            raise RecipeError("training cannot be used", problems=[problem])
        fixed["restore_callback_states_from_checkpoint"] = True
    try:
        return TrainingArguments(**values | given | fixed)
    except (ValueError, TypeError, ImportError) as err:
        raise RecipeError(f"training cannot be used: {err}") from err


def _max_steps(training: dict[str, Any], n_sequences: int) -> int:
    if training.get("max_steps", -1) > 0:
        return int(training["max_steps"])
    epochs = float(training.get("num_train_epochs", DEFAULT_EPOCHS))
    return max(1, math.ceil(_steps_per_epoch(training, n_sequences) * epochs))


def _steps_per_epoch(training: dict[str, Any], n_sequences: int) -> int:
    batch = int(training.get("per_device_train_batch_size", DEFAULT_BATCH_SIZE))
    batch *= int(training.get("gradient_accumulation_steps", 1)) * processes().n
    return math.ceil(n_sequences / batch)


def lora_config(lora: LoraRecipe, *, use_dora: bool = False) -> Any:
    """Make PEFT's LoraConfig."""
    from peft import LoraConfig

    values = {name: getattr(lora, name) for name in LoraRecipe.model_fields}
    values = {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}
    values["lora_alpha"] = _whole(lora.lora_alpha)
    values["alpha_pattern"] = {key: _whole(v) for key, v in lora.alpha_pattern.items()}
    if lora.init_lora_weights == "loftq":  # PEFT's own would round the base once more
        values["init_lora_weights"] = True
    return LoraConfig(task_type="CAUSAL_LM", use_dora=use_dora, **values)


def _whole(number: float) -> float | int:
    """32.0 as 32, as PEFT's own files have it."""
    return int(number) if number == int(number) else number
