"""Train an adapter: data in, a PEFT directory out."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import RecipeError
from edgekit.evaluating.metrics import check_metrics, perplexity_of, score
from edgekit.quiet import quiet_libraries
from edgekit.recipes import TrainRecipe
from edgekit.training.adapter_files import write_result
from edgekit.training.argument_checks import check_training
from edgekit.training.arguments import training_arguments
from edgekit.training.events import Event, GenerationProgress, Message, OnEvent
from edgekit.training.fit import check_memory
from edgekit.training.generating import generate_texts
from edgekit.training.memory import return_freed_memory
from edgekit.training.methods import trained_model
from edgekit.training.output import (
    drop_checkpoints,
    finish_output,
    prepare_output,
    refuse_output,
    run_digest,
)
from edgekit.training.prepare import Prepared, prepare
from edgekit.training.report import (
    RowCounts,
    TrainingReport,
    library_versions,
    loss_curve_of,
    peak_rss_bytes,
)
from edgekit.training.tokens import Question
from edgekit.training.verdicts import verdicts_of

if TYPE_CHECKING:
    from edgekit.training.losses import CheckedLoss

MAX_GENERATED = 200


def train(
    recipe: TrainRecipe,
    *,
    on_event: OnEvent | None = None,
    resume: bool = True,
    overwrite: bool = False,
    force: bool = False,
) -> TrainingReport:
    """Train an adapter as a recipe says, and write it to the recipe's output.

    A run that was killed goes on from its last checkpoint when it is started again with the
    same recipe and data.

    Args:
        recipe: See :func:`edgekit.recipes.load_recipe`.
        on_event: Told of phases, warnings and steps.
        resume: Whether to go on with an unfinished run of the same recipe.
        overwrite: Whether to replace a finished adapter, or another recipe's unfinished run.
        force: Whether to start a run that needs far more memory than this machine has.

    Returns:
        What is also in ``training_report.json``.

    Raises:
        RecipeError: If the recipe, or its output, cannot be used.
        DataError: If the data cannot be used.
        BaseModelError: If the base cannot be resolved.
    """
    tell = on_event or _ignore
    refuse_output(recipe.output, overwrite=overwrite)
    with quiet_libraries():
        from edgekit.training.losses import own_loss_of

        check_training(recipe.training)
        if recipe.metrics:
            check_metrics(recipe.metrics)
        own_loss = own_loss_of(recipe)
        prepared = prepare(recipe, tell)
        for warning in prepared.warnings:
            tell(Message(text=warning, is_warning=True))
        digest = run_digest(
            recipe,
            prepared.base_digest + (own_loss.identity if own_loss else ""),
            [*prepared.train.sequences, *prepared.validation.sequences],
        )
        arguments = training_arguments(
            recipe,
            recipe.output / "checkpoints",
            n_sequences=len(prepared.training_rows),
            validates=bool(prepared.validation.sequences),
        )
        if recipe.class_weights is not None and arguments.n_gpu > 1:
            raise RecipeError(
                f"class_weights: not with {arguments.n_gpu} GPUs in one process",
                hint="Show it one GPU: CUDA_VISIBLE_DEVICES=0.",
            )
        _tell_license(prepared, tell)
        return_freed_memory()
        memory, too_little = check_memory(prepared, arguments, tell, force=force)
        checkpoint = prepare_output(recipe.output, digest, resume=resume, overwrite=overwrite)
        trainer, report = _run(prepared, arguments, checkpoint, own_loss, tell)
        report = replace(
            report, memory_estimate=memory.to_dict(), warnings=(*too_little, *report.warnings)
        )
        tell(Message(text="writing the base" if recipe.method == "full" else "writing the adapter"))
        finish_output(
            recipe.output,
            digest,
            lambda staged: write_result(staged, trainer.model, prepared, report),
        )
        if recipe.method == "full":
            drop_checkpoints(recipe.output)
    return report


def _tell_license(prepared: Prepared, tell: OnEvent) -> None:
    """Show the base's licence before any work, and what it limits as a warning."""
    license = prepared.license
    text = f"licence of the base '{prepared.base.name}': {license.title}"
    if license.limits:
        text += "; " + "; ".join(license.limits)
    tell(Message(text=text, is_warning=bool(license.limits)))


def _ignore(event: Event) -> None:
    """Nobody watches."""


def _run(
    prepared: Prepared,
    arguments: Any,
    checkpoint: Path | None,
    own_loss: "CheckedLoss | None",
    tell: OnEvent,
) -> tuple[Any, TrainingReport]:
    """Train, keep the best weights, score them."""
    from transformers import set_seed

    from edgekit.training.usage import UsageMeter

    recipe = prepared.recipe
    tell(Message(text="loading the base"))
    set_seed(recipe.seed)
    checkpoints = recipe.output / "checkpoints"
    trained = trained_model(prepared, checkpoints, tell, on_cpu=arguments.use_cpu)
    model = trained.model
    meter = UsageMeter()
    trainer = _trainer(prepared, model, arguments, own_loss, tell)
    trainer.add_callback(meter)
    if recipe.early_stopping is not None:
        from edgekit.training.early_stopping import stop_early

        trainer.add_callback(stop_early(recipe.early_stopping))
    resumed_from = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    tell(Message(text=f"going on from step {resumed_from}" if checkpoint else "training"))
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    seconds = time.perf_counter() - started
    state = trainer.state
    usage = meter.measured(state.global_step)
    is_stopped_early = state.global_step < state.max_steps
    if is_stopped_early:
        tell(Message(text=f"stopped early, at step {state.global_step} of {state.max_steps}"))
    curve = loss_curve_of(state.log_history)
    verdicts = verdicts_of(curve)
    for verdict in verdicts:
        tell(Message(text=verdict.sentence, is_warning=True))
    metrics, n_generated, warnings = _score_splits(prepared, trainer, tell)
    losses = _losses_by_weights(prepared, trainer, metrics, tell) if trained.is_packed else {}
    return trainer, TrainingReport(
        output=recipe.output,
        base=recipe.base,
        base_fingerprint=prepared.base.fingerprint,
        task=recipe.task,
        recipe=recipe.model_dump(mode="json"),
        rows=_row_counts(prepared),
        labels=prepared.examples.labels,
        class_weights=prepared.label_weights,
        steps=state.global_step,
        best_step=state.best_global_step or state.global_step,
        resumed_from_step=resumed_from,
        stopped_early=is_stopped_early,
        loss_curve=curve,
        metrics=metrics,
        losses=losses,
        quantization=trained.quantization,
        n_generated=n_generated,
        n_trainable_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        max_new_tokens=prepared.max_new_tokens,
        seconds=round(seconds, 3),
        tokens_per_s=round(trainer.n_tokens_read / seconds, 1),
        peak_rss_bytes=peak_rss_bytes(),
        memory_estimate={},
        base_license=prepared.license.to_dict(),
        precision=_precision(trainer.args),
        device=str(trainer.args.device),
        seed=recipe.seed,
        versions=library_versions(),
        warnings=(*prepared.warnings, *warnings),
        usage=usage,
        verdicts=verdicts,
    )


def _trainer(
    prepared: Prepared,
    model: Any,
    arguments: Any,
    own_loss: "CheckedLoss | None",
    tell: OnEvent,
) -> Any:
    from torch.utils.tensorboard import SummaryWriter
    from transformers import PrinterCallback
    from transformers.integrations import TensorBoardCallback

    from edgekit.training.trainer import CompletionTrainer, PaddingCollator, ProgressCallback

    trainer = CompletionTrainer(
        model=model,
        own_loss=own_loss,
        args=arguments,
        data_collator=PaddingCollator(min(prepared.end_ids)),
        train_dataset=prepared.training_rows,
        eval_dataset=prepared.validation.sequences or None,
        callbacks=[
            ProgressCallback(tell),
            TensorBoardCallback(SummaryWriter(log_dir=str(prepared.recipe.output / "runs"))),
        ],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _score_splits(
    prepared: Prepared, trainer: Any, tell: OnEvent
) -> tuple[dict[str, dict[str, float]], dict[str, int], list[str]]:
    """Loss and generated metrics of every split that is held out."""
    metrics: dict[str, dict[str, float]] = {}
    n_generated: dict[str, int] = {}
    warnings: list[str] = []
    for name, split in (("validation", prepared.validation), ("test", prepared.test)):
        if not split.sequences:
            continue
        nll, n_tokens = trainer.total_nll(split.sequences)
        metrics[name] = {"loss": nll / n_tokens, "perplexity": perplexity_of(nll, n_tokens)}
        questions = split.questions[:MAX_GENERATED]
        if not questions:
            continue
        if len(questions) < len(split.questions):
            warnings.append(
                f"{name}: metrics are of the first {MAX_GENERATED} of {len(split.questions)} rows"
            )
            tell(Message(text=warnings[-1], is_warning=True))
        tell(Message(text=f"answering {len(questions)} {name} rows"))
        answers = _answers(prepared, trainer.model, questions, tell)
        references = [question.reference for question in questions]
        metrics[name] |= score(prepared.metric_names, answers, references, prepared.examples.labels)
        n_generated[name] = len(questions)
    return metrics, n_generated, warnings


def _losses_by_weights(
    prepared: Prepared, trainer: Any, metrics: dict[str, dict[str, float]], tell: OnEvent
) -> dict[str, dict[str, float]]:
    """Each split's loss on the device's weights, and on the float ones that they came from."""
    from edgekit.training.packed_base import on_float_weights

    splits = {"validation": prepared.validation, "test": prepared.test}
    losses: dict[str, dict[str, float]] = {}
    tell(Message(text="the loss on the float weights, to compare"))
    with on_float_weights(trainer.model, prepared.base.path):
        for name, split in splits.items():
            if split.sequences:
                nll, n_tokens = trainer.total_nll(split.sequences)
                on_device = {str(prepared.recipe.weights): metrics[name]["loss"]}
                losses[name] = on_device | {"float": nll / n_tokens}
    return losses


def _answers(
    prepared: Prepared, model: Any, questions: Sequence[Question], tell: OnEvent
) -> list[str]:
    def on_progress(done: int) -> None:
        tell(GenerationProgress(done=done, total=len(questions)))

    return generate_texts(
        model,
        prepared.tokenizer,
        [question.prompt_ids for question in questions],
        max_new_tokens=prepared.max_new_tokens,
        end_ids=prepared.end_ids,
        # Packed weights are dequantized for every step of a batch, whatever its size.
        batch_size=64 if prepared.profile else 16,
        on_progress=on_progress,
    )


def _row_counts(prepared: Prepared) -> RowCounts:
    examples = prepared.examples
    splits = (prepared.train, prepared.validation, prepared.test)
    return RowCounts(
        total=len(examples.train) + len(examples.validation),
        used=len(examples.train) - prepared.train.n_too_long,
        validation=len(examples.validation) - prepared.validation.n_too_long,
        test=len(examples.test) - prepared.test.n_too_long,
        truncated=sum(split.n_too_long for split in splits),
        duplicates=examples.n_duplicates,
    )


def _precision(arguments: Any) -> str:
    if arguments.bf16:
        return "bfloat16"
    return "float16" if arguments.fp16 else "float32"
