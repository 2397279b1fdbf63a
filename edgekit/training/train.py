"""Train an adapter: data in, a PEFT directory out."""

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import RecipeError
from edgekit.evaluating.metrics import check_metrics
from edgekit.quiet import quiet_libraries
from edgekit.recipes import TrainRecipe
from edgekit.training.adapter_files import write_result
from edgekit.training.argument_checks import check_training, trains_on_cpu
from edgekit.training.arguments import training_arguments
from edgekit.training.events import Event, Message, OnEvent
from edgekit.training.fit import check_memory
from edgekit.training.identity import digest_of
from edgekit.training.memory import return_freed_memory
from edgekit.training.methods import trained_model
from edgekit.training.output import (
    drop_checkpoints,
    finish_output,
    prepare_output,
    refuse_output,
    result_digest,
)
from edgekit.training.prepare import Prepared, prepare
from edgekit.training.processes import join, processes
from edgekit.training.report import (
    RowCounts,
    TrainingReport,
    library_versions,
    loss_curve_of,
)
from edgekit.training.scoring import losses_by_weights, score_splits
from edgekit.training.sharded import check_sharding, is_sharded, whole_model
from edgekit.training.verdicts import verdicts_of
from edgekit_runtime.meters import peak_rss_bytes

if TYPE_CHECKING:
    from edgekit.training.losses import CheckedLoss


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
    same recipe and data. Several processes that torchrun or accelerate started share one run: all
    of them call this, the first one writes.

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
    everyone = processes()
    tell = on_event if on_event and everyone.is_first else _ignore
    with quiet_libraries():
        join(recipe.training, on_cpu=trains_on_cpu(recipe.training))
        own_loss = everyone.first_then_all(lambda: _checked(recipe, overwrite=overwrite))
        prepared = everyone.first_then_all(lambda: prepare(recipe, tell))
        for warning in prepared.warnings:
            tell(Message(text=warning, is_warning=True))
        digest = everyone.first(lambda: digest_of(prepared, own_loss))
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
        check_sharding(recipe, arguments)
        _tell_license(prepared, tell)
        return_freed_memory()
        # Each process of a sharded run takes less than the estimate, which is of a whole model.
        force = force or is_sharded(arguments)
        memory, too_little = check_memory(prepared, arguments, tell, force=force)
        checkpoint = everyone.first(
            lambda: prepare_output(recipe.output, digest, resume=resume, overwrite=overwrite)
        )
        trainer, report = _run(prepared, arguments, checkpoint, own_loss, tell)
        report = replace(
            report, memory_estimate=memory.to_dict(), warnings=(*too_little, *report.warnings)
        )
        tell(Message(text="writing the base" if recipe.method == "full" else "writing the adapter"))
        is_whole = not trainer.is_fsdp_enabled
        model = trainer.model if is_whole else whole_model(prepared, trainer)
        everyone.first(lambda: _write(prepared, digest, model, report))
    return report


def _checked(recipe: TrainRecipe, *, overwrite: bool) -> "CheckedLoss | None":
    """Refuse what can be refused before any work; returns the recipe's own loss."""
    from edgekit.training.losses import own_loss_of

    refuse_output(recipe.output, overwrite=overwrite)
    check_training(recipe.training)
    if recipe.metrics:
        check_metrics(recipe.metrics)
    return own_loss_of(recipe)


def _write(prepared: Prepared, digest: str, model: Any, report: TrainingReport) -> None:
    """Put the finished files in place."""
    recipe = prepared.recipe
    finish_output(
        recipe.output,
        digest,
        result_digest(digest, prepared.test.sequences),
        lambda staged: write_result(staged, model, prepared, report),
    )
    if recipe.method == "full":
        drop_checkpoints(recipe.output)


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
    rows = _training_rows(prepared, arguments)
    trainer = _trainer(prepared, model, arguments, rows, own_loss, tell)
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
    prepared, counts = _after_reading(prepared, rows, state.global_step)
    curve = loss_curve_of(state.log_history)
    verdicts = verdicts_of(curve)
    for verdict in verdicts:
        tell(Message(text=verdict.sentence, is_warning=True))
    metrics, n_generated, warnings = score_splits(prepared, trainer, tell)
    losses = losses_by_weights(prepared, trainer, metrics, tell) if trained.is_packed else {}
    return trainer, TrainingReport(
        output=recipe.output,
        base=recipe.base,
        base_fingerprint=prepared.base.fingerprint,
        task=recipe.task,
        recipe=recipe.model_dump(mode="json"),
        rows=counts,
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
        tokens_per_s=round(processes().summed(trainer.n_tokens_read)[0] / seconds, 1),
        peak_rss_bytes=peak_rss_bytes(),
        memory_estimate={},
        base_license=prepared.license.to_dict(),
        precision=_precision(trainer.args),
        device=str(trainer.args.device),
        n_processes=processes().n,
        seed=recipe.seed,
        versions=library_versions(),
        warnings=(*prepared.warnings, *warnings),
        usage=usage,
        verdicts=verdicts,
    )


def _training_rows(prepared: Prepared, arguments: Any) -> Any:
    """What the Trainer reads: the sequences, or a stream of them."""
    stream = prepared.examples.stream
    if stream is None:
        return prepared.training_rows
    from edgekit.training.sequence_stream import SequenceStream
    from edgekit.training.trainer import rows_per_step

    return SequenceStream(prepared, stream, rows_per_step(arguments))


def _trainer(
    prepared: Prepared,
    model: Any,
    arguments: Any,
    rows: Any,
    own_loss: "CheckedLoss | None",
    tell: OnEvent,
) -> Any:
    from transformers import PrinterCallback

    from edgekit.training.trainer import CompletionTrainer, PaddingCollator, ProgressCallback

    trainer = CompletionTrainer(
        model=model,
        own_loss=own_loss,
        args=arguments,
        data_collator=PaddingCollator(min(prepared.end_ids)),
        train_dataset=rows,
        eval_dataset=prepared.validation.sequences or None,
        callbacks=[ProgressCallback(tell)],
    )
    trainer.remove_callback(PrinterCallback)
    if processes().is_first:
        from torch.utils.tensorboard import SummaryWriter
        from transformers.integrations import TensorBoardCallback

        logs = SummaryWriter(log_dir=str(prepared.recipe.output / "runs"))
        trainer.add_callback(TensorBoardCallback(logs))
    return trainer


def _after_reading(prepared: Prepared, rows: Any, n_steps: int) -> tuple[Prepared, RowCounts]:
    """The run with its counts of rows, which of a stream are known now."""
    if prepared.examples.stream is None:
        return prepared, _row_counts(prepared)
    settled = rows.settled()
    return settled, replace(
        _row_counts(settled),
        total=rows.seen.n_rows + len(prepared.examples.validation),
        used=n_steps * rows.batch_size,
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
