"""From a recipe's ``training`` and ``lora`` to transformers' and PEFT's own objects."""

import dataclasses
import math
from pathlib import Path
from typing import Any

from edgekit.errors import RecipeError
from edgekit.method_recipes import LoraRecipe
from edgekit.recipes import TrainRecipe
from edgekit_runtime.errors import nearest

DEFAULT_LEARNING_RATE = 1e-3
FULL_LEARNING_RATE = 5e-5  # every weight moves, so each moves less
DEFAULT_BATCH_SIZE = 8
DEFAULT_EPOCHS = 3.0
N_EVALUATIONS = 5

_RESERVED = {
    "output_dir": "set `output` at the top of the recipe",
    "seed": "set `seed` at the top of the recipe",
    "data_seed": "set `seed` at the top of the recipe",
    "resume_from_checkpoint": "a run resumes by itself; --no-resume starts over",
    "push_to_hub": "training sends nothing anywhere",
    "disable_tqdm": "the command line draws its own progress",
    "remove_unused_columns": "edgekit makes the columns itself",
    "label_names": "edgekit makes the columns itself",
    "train_sampling_strategy": "edgekit groups rows by length",
    "include_num_input_tokens_seen": "the report counts tokens anyway",
    "use_liger_kernel": "the loss is edgekit's own",
    "do_train": "edgekit decides it",
    "do_eval": "set data.validation to 0 to train without evaluation",
    "do_predict": "edgekit decides it",
}
_RENAMED = {
    "warmup_ratio": "warmup_steps (a value below 1 is a share)",
    "evaluation_strategy": "eval_strategy",
    "batch_size": "per_device_train_batch_size",
    "epochs": "num_train_epochs",
    "steps": "max_steps",
    "lr": "learning_rate",
    "no_cuda": "use_cpu",
    "group_by_length": "nothing: edgekit groups rows by length",
}


def check_training(training: dict[str, Any]) -> None:
    """Refuse keys that are no TrainingArguments, or that edgekit sets itself.

    Raises:
        RecipeError: With every wrong key and the nearest right one.
    """
    from transformers import TrainingArguments

    fields = {field.name: field for field in dataclasses.fields(TrainingArguments) if field.init}
    problems = []
    for key, value in training.items():
        if key in _RESERVED or key.startswith("hub_"):
            problems.append(f"training.{key}: {_RESERVED.get(key, _RESERVED['push_to_hub'])}")
        elif key in _RENAMED and key not in fields:
            problems.append(f"training.{key}: unknown key; use {_RENAMED[key]}")
        elif key not in fields:
            known = [name for name in fields if name not in _RESERVED]
            guess = nearest(key, known).partition("? known")[0]
            guess = f"{guess}?" if guess.startswith("did you") else "see TrainingArguments"
            problems.append(f"training.{key}: unknown key; {guess}")
        elif problem := _type_problem(value, fields[key].default):
            problems.append(f"training.{key}: {problem}")
    epochs = training.get("num_train_epochs", DEFAULT_EPOCHS)
    if not problems and training.get("max_steps", -1) <= 0 and epochs <= 0:
        problems.append(f"training.num_train_epochs: expected more than 0, got {epochs}")
    if problems:
        raise RecipeError("training cannot be used", problems=problems)


def _type_problem(value: Any, default: Any) -> str | None:
    """Compare with the type of the default, where that says something."""
    if isinstance(default, bool):
        return None if isinstance(value, bool) else f"expected true or false, got {value!r}"
    if isinstance(default, int | float):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return None if is_number else f"expected a number, got {value!r}"
    return None


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
    interval = max(1, math.ceil(max_steps / N_EVALUATIONS))
    # The best step can only be kept where a checkpoint is written: one interval for both.
    interval = given.get("eval_steps", given.get("save_steps", interval))
    strategy = "steps" if validates else "no"
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
        "eval_strategy": strategy,
        "eval_steps": interval,
        "save_strategy": "steps",
        "save_steps": interval,
        "save_total_limit": 2,
        "load_best_model_at_end": validates,
        "metric_for_best_model": "eval_loss" if validates else None,
        "greater_is_better": False if validates else None,
        "report_to": "none",
        "dataloader_pin_memory": False,
    }
    fixed = {
        "output_dir": str(checkpoints),
        "seed": recipe.seed,
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "label_names": ["labels"],
    }
    try:
        return TrainingArguments(**values | given | fixed)
    except (ValueError, TypeError, ImportError) as err:
        raise RecipeError(f"training cannot be used: {err}") from err


def _max_steps(training: dict[str, Any], n_sequences: int) -> int:
    if training.get("max_steps", -1) > 0:
        return int(training["max_steps"])
    batch = int(training.get("per_device_train_batch_size", DEFAULT_BATCH_SIZE))
    batch *= int(training.get("gradient_accumulation_steps", 1))
    epochs = float(training.get("num_train_epochs", DEFAULT_EPOCHS))
    return max(1, math.ceil(math.ceil(n_sequences / batch) * epochs))


def trains_on_cpu(training: dict[str, Any]) -> bool:
    """Whether a run takes place on the CPU: where it is asked to, and where nothing else is."""
    import torch

    return bool(training.get("use_cpu")) or not torch.accelerator.is_available()


def has_fast_bf16(*, use_cpu: bool) -> bool:
    """Whether bfloat16 is native here: a recent GPU, or a CPU with AVX512-BF16 or AMX.

    On such a CPU autocast takes a quarter to a third off a step of a 135M model; elsewhere
    bfloat16 is emulated and slower than float32.
    """
    import torch

    if not use_cpu:
        return torch.cuda.is_available() and bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


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
