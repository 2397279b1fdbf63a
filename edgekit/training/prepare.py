"""Everything that a run knows before its first step; no weight is loaded yet."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgekit.bases import Base, resolve_base
from edgekit.building.export import refuse_unsupported
from edgekit.errors import DataError, RecipeError
from edgekit.evaluating.metrics import default_metrics
from edgekit.licenses import License, read_license
from edgekit.method_recipes import NF4
from edgekit.recipes import TrainRecipe
from edgekit.targets import TargetProfile, load_target
from edgekit.training.class_weights import weights_by_label
from edgekit.training.events import Message, OnEvent
from edgekit.training.example_splits import ExampleSplits, load_examples
from edgekit.training.examples import Example
from edgekit.training.generating import end_token_ids
from edgekit.training.nf4 import check_nf4
from edgekit.training.packing import packed
from edgekit.training.provenance import DataSet, data_sets_of
from edgekit.training.tokens import TokenizedExample, TokenizedSplit, tokenize_examples

_DEFAULT_MAX_NEW_TOKENS = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """Everything that is known before the first step; of a stream that is its first rows."""

    recipe: TrainRecipe
    base: Base
    tokenizer: Any
    end_ids: frozenset[int]
    examples: ExampleSplits
    train: TokenizedSplit
    validation: TokenizedSplit
    test: TokenizedSplit
    profile: TargetProfile | None
    label_weights: dict[str, float] | None
    data_sets: tuple[DataSet, ...]
    warnings: tuple[str, ...]

    @property
    def license(self) -> License:
        """The base's, with its limits."""
        return read_license(self.base.path, known_id=self.base.license)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The recipe's metrics, or the task's own."""
        return self.recipe.metrics or default_metrics(self.recipe.task)

    @property
    def training_rows(self) -> tuple[TokenizedExample, ...]:
        """What a step reads rows of: the training sequences, packed if the recipe says so."""
        if not self.recipe.data.packing:
            return self.train.sequences
        return packed(self.train.sequences, self.recipe.data.max_length)

    def tokenized(self, examples: Sequence[Example]) -> TokenizedSplit:
        """Training examples as tokens, each sequence with the weight of its label."""
        split = tokenize_examples(
            examples,
            self.tokenizer,
            max_length=self.recipe.data.max_length,
            end_ids=self.end_ids,
        )
        return _weighted(split, self.label_weights) if self.label_weights is not None else split

    @property
    def base_digest(self) -> str:
        """Says on which weights the run trains."""
        profile = self.profile.model_dump_json() if self.profile else ""
        return f"{self.base.fingerprint}{profile}"

    @property
    def max_new_tokens(self) -> int:
        """Room for the longest completion that was seen, in steps of eight."""
        longest = max(split.longest_completion for split in (self.train, self.validation))
        return -(-longest // 8) * 8 or _DEFAULT_MAX_NEW_TOKENS


def prepare(recipe: TrainRecipe, tell: OnEvent) -> Prepared:
    """Resolve, read and tokenize.

    Raises:
        RecipeError: If the recipe asks for more than the base can do.
        DataError: If the data cannot be used.
        BaseModelError: If the base cannot be resolved.
    """
    from transformers import AutoTokenizer, GenerationConfig

    if recipe.weights == NF4:
        check_nf4()
    profile = load_target(recipe.target) if recipe.target else None
    if profile is not None:
        _check_rank(recipe, profile)
    tell(Message(text="reading the data"))
    examples = load_examples(recipe)
    data_sets = data_sets_of(recipe.data)
    tell(Message(text=f"resolving the base '{recipe.base}'"))
    base = resolve_base(recipe.base)
    if profile is not None:
        refuse_unsupported(base)
    _check_max_length(recipe, base)
    tokenizer = AutoTokenizer.from_pretrained(base.path)
    has_generation_config = (base.path / "generation_config.json").is_file()
    generation_config = (
        GenerationConfig.from_pretrained(base.path) if has_generation_config else GenerationConfig()
    )
    end_ids = end_token_ids(tokenizer, generation_config)
    tell(Message(text="tokenizing"))
    train_split, validation, test = (
        tokenize_examples(split, tokenizer, max_length=recipe.data.max_length, end_ids=end_ids)
        for split in (examples.train, examples.validation, examples.test)
    )
    warnings = [*examples.warnings]
    label_weights = _label_weights(recipe, examples, warnings)
    if label_weights is not None:
        train_split = _weighted(train_split, label_weights)
    if not train_split.sequences:
        raise nothing_fits(recipe)
    for name, split, n_rows in (
        ("training", train_split, len(examples.train)),
        ("validation", validation, len(examples.validation)),
        ("test", test, len(examples.test)),
    ):
        which = "the first " if examples.stream is not None and name == "training" else ""
        if split.n_too_long:
            warnings.append(
                f"{split.n_too_long} of {which}{n_rows} {name} rows are longer than "
                f"{recipe.data.max_length} tokens and left out (data.max_length)"
            )
    return Prepared(
        recipe=recipe,
        base=base,
        tokenizer=tokenizer,
        end_ids=end_ids,
        examples=examples,
        train=train_split,
        validation=validation,
        test=test,
        profile=profile,
        label_weights=label_weights,
        data_sets=data_sets,
        warnings=tuple(warnings),
    )


def nothing_fits(recipe: TrainRecipe) -> DataError:
    """Of training rows that are all too long."""
    read = " that was read" if recipe.data.streaming else ""
    return DataError(
        f"every training row{read} is longer than max_length ({recipe.data.max_length} tokens)",
        hint="Raise data.max_length, or shorten the rows.",
    )


def _label_weights(
    recipe: TrainRecipe, examples: ExampleSplits, warnings: list[str]
) -> dict[str, float] | None:
    """Weight of each label; those that no row has are refused, or told where rows are to come."""
    if recipe.class_weights is None:
        return None
    labels = [(example.completion or "").strip() for example in examples.train]
    if examples.stream is None:
        return weights_by_label(recipe.class_weights, labels)
    unseen = [repr(label) for label in recipe.class_weights if label not in labels]
    if unseen:
        warnings.append(
            f"class_weights name labels that none of the first {len(labels)} training rows has: "
            + ", ".join(unseen)
        )
    return dict(recipe.class_weights)


def _weighted(split: TokenizedSplit, weights: dict[str, float]) -> TokenizedSplit:
    """Each sequence with the weight of its label; a classification has a question for each."""
    pairs = zip(split.sequences, split.questions, strict=True)
    sequences = (
        replace(one, weight=weights.get(question.reference, 1.0)) for one, question in pairs
    )
    return replace(split, sequences=tuple(sequences))


def _check_rank(recipe: TrainRecipe, profile: TargetProfile) -> None:
    limit = profile.adapters.max_rank
    largest = recipe.lora.largest_r
    if largest > limit:
        raise RecipeError(
            f"lora: rank {largest} is over what target '{profile.name}' takes, {limit}"
        )


def _check_max_length(recipe: TrainRecipe, base: Base) -> None:
    config = json.loads((base.path / "config.json").read_text(encoding="utf-8"))
    limit = config.get("max_position_embeddings")
    if isinstance(limit, int) and recipe.data.max_length > limit:
        raise RecipeError(
            f"data.max_length is {recipe.data.max_length}, but '{base.name}' reads at most "
            f"{limit} tokens"
        )
