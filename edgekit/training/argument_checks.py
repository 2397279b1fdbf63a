"""What of ``training`` cannot be used, told before any work: all of it, with what to do instead."""

import dataclasses
from typing import Any

from edgekit.errors import RecipeError
from edgekit_runtime.errors import nearest

_OWN_EVALUATION = "edgekit sums the validation loss itself, in float32 or the training's precision"
_LOWEST_LOSS = "the checkpoint with the lowest validation loss is kept"
_RESERVED = {
    "output_dir": "set `output` at the top of the recipe",
    "seed": "set `seed` at the top of the recipe",
    "data_seed": "set `seed` at the top of the recipe",
    "resume_from_checkpoint": "a run resumes by itself; --no-resume starts over",
    "ignore_data_skip": "a resumed run goes on with the rows that are left",
    "save_only_model": "a run could not be resumed without the optimizer's state",
    "push_to_hub": "training sends nothing anywhere",
    "disable_tqdm": "the command line draws its own progress",
    "remove_unused_columns": "edgekit makes the columns itself",
    "label_names": "edgekit makes the columns itself",
    "length_column_name": "edgekit makes the columns itself",
    "train_sampling_strategy": "edgekit groups rows by length",
    "include_num_input_tokens_seen": "the report counts tokens anyway",
    "skip_memory_metrics": "the report has the memory anyway",
    "use_liger_kernel": "the loss is edgekit's own",
    "liger_kernel_config": "the loss is edgekit's own",
    "do_train": "edgekit decides it",
    "do_eval": "set data.validation to 0 to train without evaluation",
    "do_predict": "edgekit decides it",
    "bf16_full_eval": _OWN_EVALUATION,
    "fp16_full_eval": _OWN_EVALUATION,
    "prediction_loss_only": _OWN_EVALUATION,
    "eval_accumulation_steps": _OWN_EVALUATION,
    "eval_do_concat_batches": _OWN_EVALUATION,
    "eval_use_gather_object": _OWN_EVALUATION,
    "batch_eval_metrics": _OWN_EVALUATION,
    "include_for_metrics": _OWN_EVALUATION,
    "metric_for_best_model": _LOWEST_LOSS,
    "greater_is_better": _LOWEST_LOSS,
}
_RENAMED = {
    "warmup_ratio": "warmup_steps (a value below 1 is a share)",
    "evaluation_strategy": "eval_strategy",
    "batch_size": "per_device_train_batch_size",
    "epochs": "num_train_epochs",
    "steps": "max_steps",
    "lr": "learning_rate",
    "no_cuda": "use_cpu",
    "early_stopping_patience": "early_stopping: {patience: 3}, at the top of the recipe",
    "early_stopping_threshold": "early_stopping: {min_delta: 0.01}, at the top of the recipe",
    "group_by_length": "nothing: edgekit groups rows by length",
    "logging_dir": "nothing: TensorBoard's files are in `runs` of the output",
}


def check_training(training: dict[str, Any]) -> None:
    """Refuse what is no TrainingArguments, what edgekit sets itself, and what is not here.

    Raises:
        RecipeError: With every wrong key, the nearest right one, and every reason.
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
    epochs = training.get("num_train_epochs", 1)
    if not problems and training.get("max_steps", -1) <= 0 and epochs <= 0:
        problems.append(f"training.num_train_epochs: expected more than 0, got {epochs}")
    problems += _precision_problems(training)
    problems += _report_problems(training)
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


def _precision_problems(training: dict[str, Any]) -> list[str]:
    """Half precision that this machine has not, or has only by emulation."""
    bf16, fp16 = (training.get(name) is True for name in ("bf16", "fp16"))
    if bf16 and fp16:
        return ["training.fp16: bf16 is on too; choose one"]
    on_cpu = trains_on_cpu(training)
    if fp16 and on_cpu:
        return ["training.fp16: goes with a GPU, and this run is on the CPU; leave it out"]
    if bf16 and _lacks_bf16(on_cpu=on_cpu):
        device, needs = (
            ("processor", "AVX512-BF16 or AMX") if on_cpu else ("GPU", "compute capability 8.0")
        )
        return [
            f"training.bf16: this {device} has no {needs}, so bfloat16 would be emulated and "
            f"slower than float32; leave it out{'' if on_cpu else ', or take fp16'}"
        ]
    return []


def _lacks_bf16(*, on_cpu: bool) -> bool:
    """Whether bfloat16 is known to be emulated; of other accelerators than CUDA nothing is."""
    import torch

    return (on_cpu or torch.cuda.is_available()) and not has_fast_bf16(use_cpu=on_cpu)


def report_names(training: dict[str, Any]) -> tuple[str, ...]:
    """Where ``report_to`` sends the figures: names of transformers' integrations."""
    given = training.get("report_to") or "none"
    names = [given] if isinstance(given, str) else list(given)
    if names == ["none"]:
        return ()
    if names == ["all"]:
        from transformers.integrations import get_available_reporting_integrations

        names = get_available_reporting_integrations()
    return tuple(names)


def _report_problems(training: dict[str, Any]) -> list[str]:
    """Integrations that are unknown, or not installed."""
    given = training.get("report_to")
    if given is None:
        return []
    is_list = isinstance(given, list | tuple) and all(isinstance(name, str) for name in given)
    if not isinstance(given, str) and not is_list:
        return [f"training.report_to: expected a name or a list of names, got {given!r}"]
    from transformers.integrations import get_available_reporting_integrations
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    installed = get_available_reporting_integrations()
    problems = []
    for name in report_names(training):
        if name not in INTEGRATION_TO_CALLBACK:
            close = nearest(name, [*INTEGRATION_TO_CALLBACK, "all", "none"])
            problems.append(f"training.report_to: unknown name {name!r}; {close}")
        elif name not in installed:
            problems.append(
                f"training.report_to: {name} is not installed here; installed: "
                f"{', '.join(installed)}"
            )
    return problems


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
