"""What a trained model is worth: the loss of every held-out split, and its answers' metrics."""

from collections.abc import Sequence
from typing import Any

from edgekit.evaluating.metrics import perplexity_of, score
from edgekit.training.events import GenerationProgress, Message, OnEvent
from edgekit.training.generating import generate_texts
from edgekit.training.prepare import Prepared
from edgekit.training.processes import processes
from edgekit.training.tokens import Question

MAX_GENERATED = 200


def score_splits(
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
        answers = _answers(prepared, trainer, questions, tell)
        references = [question.reference for question in questions]
        metrics[name] |= score(prepared.metric_names, answers, references, prepared.examples.labels)
        n_generated[name] = len(questions)
    return metrics, n_generated, warnings


def losses_by_weights(
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
    prepared: Prepared, trainer: Any, questions: Sequence[Question], tell: OnEvent
) -> list[str]:
    everyone = processes()
    # Sharded weights are gathered for every token, so all processes write the same answers.
    n_shares = 1 if trainer.is_fsdp_enabled else everyone.n
    own = questions[everyone.rank % n_shares :: n_shares]

    def on_progress(done: int) -> None:
        tell(GenerationProgress(done=min(done * n_shares, len(questions)), total=len(questions)))

    texts = generate_texts(
        trainer.model,
        prepared.tokenizer,
        [question.prompt_ids for question in own],
        max_new_tokens=prepared.max_new_tokens,
        end_ids=prepared.end_ids,
        # Packed weights are dequantized for every step of a batch, whatever its size.
        batch_size=64 if prepared.profile else 16,
        on_progress=on_progress,
    )
    if n_shares == 1:
        return texts
    answers = [""] * len(questions)
    for rank, some in enumerate(everyone.gathered(texts)):
        answers[rank::n_shares] = some
    return answers
