"""The examples of a run: read, held out, looked at."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from edgekit.data_recipe import DataRecipe
from edgekit.errors import DataError
from edgekit.recipes import TrainRecipe
from edgekit.training.augment import augmented_rows
from edgekit.training.data_checks import Finding, check_examples, unseen_rows, warnings_of
from edgekit.training.examples import Example, examples_of
from edgekit.training.row_files import is_file_reference
from edgekit.training.splitting import keep_labels_in_train, mixed, split_examples
from edgekit.training.streaming import ExampleStream
from edgekit.training.tables import Table, read_table, renamed


@dataclass(frozen=True, kw_only=True, slots=True)
class ExampleSplits:
    """The examples of one run.

    Attributes:
        train: Of a stream the first rows only.
        labels: The label set of a classification, sorted.
        n_duplicates: Training and validation rows that repeat an earlier one.
        warnings: What a person should know, one sentence each.
        findings: What is odd about the rows; its problems are among the warnings.
        stream: Of all training rows, where the recipe streams them.
    """

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    labels: tuple[str, ...] | None
    n_duplicates: int
    warnings: tuple[str, ...]
    findings: tuple[Finding, ...]
    stream: ExampleStream | None = None


def load_examples(recipe: TrainRecipe) -> ExampleSplits:
    """Read, check and split the data of a recipe.

    Raises:
        DataError: With every problem of the first file or split that has any.
    """
    data = recipe.data
    if data.streaming:
        return _first_examples(recipe)
    is_classification = recipe.task == "classification"
    everything = _read_training_rows(data, is_classification)
    warnings: list[str] = []
    if isinstance(data.validation, str):
        train, validation = everything, _read_other(data.validation, data, is_classification)
    else:
        train, validation = split_examples(everything, data, recipe.seed, warnings)
    test = _read_other(data.test, data, is_classification) if data.test else []
    if data.augment is not None:
        rows = augmented_rows(data.augment, [example.row for example in train])
        places = tuple(f"data.augment:{number}" for number in range(1, len(rows) + 1))
        columns = tuple(dict.fromkeys(key for row in rows for key in row))
        table = Table(source="data.augment", columns=columns, rows=rows, places=places)
        train = examples_of(table, data, is_classification)
    labels = None
    if is_classification and data.completion is not None:
        if not isinstance(data.validation, str):
            train, validation = keep_labels_in_train(train, validation)
        labels = _labels_of(train)
        _refuse_unknown_labels({"validation": validation, "test": test}, labels)
    findings = check_examples(train, validation, test, data, recipe.task)
    warnings += warnings_of(findings)
    n_duplicates = _count_duplicates([*train, *validation])
    if data.sources and data.sources[0].weight is not None:
        weights = [source.weight or 1 for source in data.sources]
        train = [*mixed(train, weights, recipe.seed)]
    return ExampleSplits(
        train=tuple(train),
        validation=tuple(validation),
        test=tuple(test),
        labels=labels,
        n_duplicates=n_duplicates,
        warnings=tuple(warnings),
        findings=findings,
    )


def _first_examples(recipe: TrainRecipe) -> ExampleSplits:
    """What is held out of a stream, and the first of its training rows."""
    data = recipe.data
    stream = ExampleStream(data=data, seed=recipe.seed)
    if isinstance(data.validation, str):
        validation = _read_other(data.validation, data, False)
    else:
        validation = stream.held_out()
    train, is_all = stream.first()
    test = _read_other(data.test, data, False) if data.test else []
    labels = None
    if recipe.task == "classification" and data.completion is not None:
        labels = _labels_of(train)
        if is_all:
            _refuse_unknown_labels({"validation": validation, "test": test}, labels)
    findings = check_examples(train, validation, test, data, recipe.task)
    if not is_all:
        findings = (*(one.among_first(len(train)) for one in findings), unseen_rows(len(train)))
    return ExampleSplits(
        train=tuple(train),
        validation=tuple(validation),
        test=tuple(test),
        labels=labels,
        n_duplicates=_count_duplicates([*train, *validation]),
        warnings=tuple(warnings_of(findings)),
        findings=findings,
        stream=stream,
    )


def _labels_of(examples: Sequence[Example]) -> tuple[str, ...]:
    return tuple(sorted({(example.completion or "").strip() for example in examples}))


def _read_training_rows(data: DataRecipe, stratify_by_label: bool) -> list[Example]:
    """Read ``data.train``, every source with its own slice and names of columns.

    Raises:
        DataError: If a source cannot be read, or rows cannot be used.
    """
    if not data.sources:
        table = read_table(data.files, split=data.split, subset=data.subset)
        return examples_of(table, data, stratify_by_label)
    examples = []
    for number, source in enumerate(data.sources):
        table = read_table(source.path, split=source.split, subset=source.subset)
        found = examples_of(renamed(table, source.rename), data, stratify_by_label)
        examples += [replace(example, source=number) for example in found]
    return examples


def _read_other(source: str, data: DataRecipe, is_classification: bool) -> list[Example]:
    """Validation or test rows: a file, or a split of the training data."""
    if is_file_reference(source):
        table = read_table([source])
    else:
        table = read_table(data.files, split=source, subset=data.subset)
    return examples_of(table, data, is_classification)


def _refuse_unknown_labels(splits: Mapping[str, Sequence[Example]], labels: Sequence[str]) -> None:
    for split, examples in splits.items():
        unknown: dict[str, list[str]] = {}
        for example in examples:
            label = (example.completion or "").strip()
            if label not in labels:
                unknown.setdefault(label, []).append(example.place)
        if unknown:
            raise DataError(
                f"{split} has labels that never occur in training",
                problems=[
                    f"{label!r}: {len(places)} rows, the first is {places[0]}"
                    for label, places in sorted(unknown.items())
                ],
                hint="Add training rows with these labels, or leave the rows out.",
            )


def _count_duplicates(examples: Sequence[Example]) -> int:
    counts = Counter(example.content for example in examples)
    return sum(count - 1 for count in counts.values())
