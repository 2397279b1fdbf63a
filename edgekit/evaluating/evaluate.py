"""Score a torch model or a bundle, with an adapter or without, on a person's data."""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from edgekit.adapters.peft_dir import RECORD_FILE
from edgekit.errors import DataError, RecipeError
from edgekit.evaluating.answers import (
    choose_labels,
    generate_answers,
    tfidf_answers,
    with_shots,
)
from edgekit.evaluating.metrics import check_metrics, default_metrics, perplexity_of, score
from edgekit.evaluating.subjects import Subject, bundle_subject, torch_subject
from edgekit.method_recipes import NF4, TARGET_WEIGHTS, target_of
from edgekit.quiet import quiet_libraries
from edgekit.recipes import DataRecipe, parse_recipe
from edgekit.targets import load_target
from edgekit.training.examples import Example, examples_of
from edgekit.training.tables import read_table
from edgekit.training.tokens import TokenizedSplit, tokenize_examples
from edgekit_runtime import Bundle

Method = Literal["generate", "labels", "few-shot", "tfidf"]
_DEFAULT_MAX_NEW_TOKENS = 64
_FLOAT_WEIGHTS = "float"
_N_SHOWN = 5
_SHAPE_KEYS = ("prompt", "completion", "messages", "text_template", "system")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationReport:
    """Scores of one subject on one data set.

    Attributes:
        subject: What was scored: ``bundle NAME`` or ``torch BASE``, ``tfidf``; with the weights
            of the torch base where they are not its own.
        metrics: Shares from 0 to 1; ``perplexity`` of the references' tokens.
        losses: Loss per token of the references on the weights that were scored, and on the
            ``float`` ones; empty where those are the same, or perplexity was not asked for.
        n_too_long: Rows left out because they are over the context.
        wrong: Up to five rows that were answered otherwise than the reference.
    """

    subject: str
    adapter: str | None
    method: str
    data: str
    n_rows: int
    n_too_long: int
    metrics: Mapping[str, float]
    losses: Mapping[str, float]
    seconds: float
    wrong: tuple[Mapping[str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)


def evaluate(
    *,
    data: str,
    bundle: Path | None = None,
    base: str | None = None,
    adapter: str | None = None,
    recipe_of: str | None = None,
    recipe: Mapping[str, Any] | None = None,
    method: Method = "generate",
    train: str | None = None,
    shots: int = 5,
    stop: str | None = None,
    metrics: Sequence[str] = (),
    limit: int | None = None,
    max_new_tokens: int | None = None,
    target: str | None = None,
    weights: str | None = None,
    perplexity: bool = True,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> EvaluationReport:
    """Score predictions on held-out rows.

    Args:
        data: csv, tsv, json, jsonl or parquet file, or a Hub data set id.
        bundle: Score this bundle …
        base: … or this base in torch.
        adapter: Name in the bundle, or PEFT directory for torch; None scores the base alone.
        recipe_of: Take prompt, completion and metrics from this adapter, when scoring the base.
        recipe: Prompt, completion, task, labels … that win over the recorded ones.
        method: ``generate`` free-running; ``labels`` picks the likeliest label; ``few-shot``
            puts training rows before every prompt; ``tfidf`` is TF-IDF + logistic regression.
        train: Training rows, for ``few-shot`` and ``tfidf``.
        shots: How many, for ``few-shot``.
        stop: Text that ends an answer.
        metrics: Names; the recorded ones by default.
        limit: Score the first rows only.
        max_new_tokens: Limit of an answer.
        target: Target of the bundle.
        weights: Weights of the torch base: ``float``, or ``target:NAME`` for what that target
            computes with; by default those that the adapter was trained on.
        perplexity: Also measure it, for ``generate``.
        on_progress: Called with rows done and rows in all.

    Raises:
        EdgekitError: A child of it, if data, recipe, base, adapter or bundle cannot be used.
    """
    if (bundle is None) == (base is None):
        raise RecipeError("say what to score: a bundle, or a base")
    started = time.perf_counter()
    given = {key: value for key, value in (recipe or {}).items() if value is not None}
    recorded = _recorded(bundle, recipe_of or adapter) | given
    names = tuple(metrics) or tuple(recorded.get("metrics") or ())
    names = names or default_metrics(recorded.get("task"))
    check_metrics(names)
    examples = _read(data, recorded)[:limit]
    known = _read(train, recorded) if train else []
    if method in {"few-shot", "tfidf"} and not known:
        raise RecipeError(f"method '{method}' needs training rows", hint="Give --train FILE.")
    labels = _labels(recorded, known)
    weights = _weights(weights, recorded) if bundle is None else None
    with quiet_libraries():
        losses: dict[str, float] = {}
        if method == "tfidf":
            answers = tfidf_answers(known, examples)
        else:
            if method == "few-shot":
                examples, stop = with_shots(examples, known, shots), stop or "\n"
            with _open(bundle, base, adapter, target, weights) as subject:
                split = _tokenize(examples, subject, data)
                if method == "labels":
                    chosen = _label_completions(recorded, labels)
                    answers = choose_labels(subject, split, chosen, on_progress)
                else:
                    limit_tokens = max_new_tokens or recorded.get("max_new_tokens")
                    answers = generate_answers(
                        subject, split, limit_tokens or _DEFAULT_MAX_NEW_TOKENS, stop, on_progress
                    )
                if perplexity and method == "generate":
                    answers = replace(
                        answers, perplexity=perplexity_of(*subject.nll(split.sequences))
                    )
            if weights is not None and answers.perplexity is not None:
                with _open(None, base, adapter, None, None) as plain:
                    nll, n_tokens = plain.nll(split.sequences)
                losses = {weights: math.log(answers.perplexity), _FLOAT_WEIGHTS: nll / n_tokens}
    scores = score(names, answers.predictions, answers.references, labels)
    if answers.perplexity is not None:
        scores["perplexity"] = answers.perplexity
    return EvaluationReport(
        subject="tfidf" if method == "tfidf" else _subject_name(bundle, base, weights),
        adapter=None if method == "tfidf" else adapter,
        method=method,
        data=data,
        n_rows=len(answers.references),
        n_too_long=answers.n_too_long,
        metrics=scores,
        losses=losses,
        seconds=time.perf_counter() - started,
        wrong=answers.wrong(_N_SHOWN),
    )


def _open(
    bundle: Path | None,
    base: str | None,
    adapter: str | None,
    target: str | None,
    weights: str | None,
) -> AbstractContextManager[Subject]:
    if bundle is not None:
        return bundle_subject(bundle, adapter, target=target)
    name = target_of(weights)
    profile = load_target(name) if name else None
    return torch_subject(base or "", Path(adapter) if adapter else None, profile=profile)


def _weights(given: str | None, recorded: Mapping[str, Any]) -> str | None:
    """``target:NAME``, or None for the float weights."""
    weights = given or recorded.get("weights") or _FLOAT_WEIGHTS
    if not given and weights == NF4:
        return None  # no device has NF4 weights; its adapter is scored as any other
    if weights != _FLOAT_WEIGHTS and target_of(weights) is None:
        raise RecipeError(
            f"weights: expected '{_FLOAT_WEIGHTS}' or '{TARGET_WEIGHTS}NAME', got {weights!r}"
        )
    return None if weights == _FLOAT_WEIGHTS else str(weights)


def _subject_name(bundle: Path | None, base: str | None, weights: str | None) -> str:
    if bundle is not None:
        return f"bundle {bundle}"
    return f"torch {base}, weights of {weights}" if weights else f"torch {base}"


def _recorded(bundle: Path | None, adapter: str | None) -> dict[str, Any]:
    """What an adapter records of its task; nothing for one that was trained elsewhere."""
    if adapter is None:
        return {}
    if bundle is not None:
        card = Bundle.open(bundle).adapter_card(adapter)
        return dict(card.recipe) | {"max_new_tokens": card.defaults.get("max_new_tokens")}
    path = Path(adapter) / RECORD_FILE
    if not Path(adapter).is_dir():
        raise RecipeError(f"no adapter directory '{adapter}'")
    if not path.is_file():
        return {}
    value = json.loads(path.read_text(encoding="utf-8"))
    return value if isinstance(value, dict) else {}


def _read(source: str, recorded: Mapping[str, Any]) -> list[Example]:
    """Rows as examples, by the recorded templates."""
    shape = {key: recorded.get(key) for key in _SHAPE_KEYS if recorded.get(key) is not None}
    if not shape:
        raise RecipeError(
            "nothing says how a row becomes a prompt",
            hint="Give --prompt and --completion, or --recipe-of an adapter that records them.",
        )
    values = {"train": source, "validation": 0, "max_length": 1 << 20} | shape
    recipe = parse_recipe(values, DataRecipe)
    return examples_of(read_table([source], split="train"), recipe)


def _labels(recorded: Mapping[str, Any], known: Sequence[Example]) -> tuple[str, ...] | None:
    """The label set: recorded, or what the training rows hold."""
    if recorded.get("labels"):
        return tuple(recorded["labels"])
    if recorded.get("task") == "classification" and known:
        return tuple(sorted({(example.completion or "").strip() for example in known}))
    return None


def _label_completions(
    recorded: Mapping[str, Any], labels: Sequence[str] | None
) -> tuple[str, ...]:
    """Every label as the completion template would write it."""
    if not labels:
        raise RecipeError(
            "method 'labels' needs the label set",
            hint="Give --train FILE and --task classification, or an adapter that records labels.",
        )
    space = " " if str(recorded.get("completion") or "").startswith(" ") else ""
    return tuple(space + label for label in labels)


def _tokenize(examples: Sequence[Example], subject: Subject, data: str) -> TokenizedSplit:
    split = tokenize_examples(
        examples, subject.tokenizer, max_length=subject.max_length, end_ids=subject.end_ids
    )
    if not split.questions:
        raise DataError(
            f"'{data}': no row can be asked as a question",
            problems=[f"{split.n_too_long} of {len(examples)} rows are over the context"],
            hint="Rows need a prompt and a completion (or messages) that fit the context.",
        )
    return split
