"""Rows become examples: text to read and text to learn, split for training and validation."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from edgekit.data_recipe import DataRecipe
from edgekit.errors import DataError, first_of
from edgekit.recipes import TrainRecipe
from edgekit.templates import field_text, fill_template, template_fields
from edgekit.training.augment import augmented_rows
from edgekit.training.data_checks import Finding, check_examples, warnings_of
from edgekit.training.splitting import keep_labels_in_train, mixed, split_examples
from edgekit.training.tables import (
    Row,
    Table,
    is_file_reference,
    read_table,
    renamed,
    require_columns,
)

_ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One row as text, in one of three shapes.

    Attributes:
        place: Where it came from.
        row: What the source holds, by column.
        source: Which source of ``data.train``, counted from 0.
        group: What training and validation never share.
        stratum: What the split keeps the shares of.
        prompt: With ``completion``: read, then written.
        messages: A conversation; its assistant turns are learnt.
        text: Learnt as a whole.
    """

    place: str
    row: Row = field(default_factory=dict)
    source: int = 0
    stratum: str = ""
    group: str | None = None
    prompt: str | None = None
    completion: str | None = None
    messages: tuple[dict[str, Any], ...] | None = None
    text: str | None = None

    @property
    def content(self) -> str:
        """What makes two examples duplicates of each other."""
        return repr((self.prompt, self.completion, self.messages, self.text))


@dataclass(frozen=True, kw_only=True, slots=True)
class ExampleSplits:
    """The examples of one run.

    Attributes:
        labels: The label set of a classification, sorted.
        n_duplicates: Training and validation rows that repeat an earlier one.
        warnings: What a person should know, one sentence each.
        findings: What is odd about the rows; its problems are among the warnings.
    """

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    labels: tuple[str, ...] | None
    n_duplicates: int
    warnings: tuple[str, ...]
    findings: tuple[Finding, ...]


def load_examples(recipe: TrainRecipe) -> ExampleSplits:
    """Read, check and split the data of a recipe.

    Raises:
        DataError: With every problem of the first file or split that has any.
    """
    data = recipe.data
    is_classification = recipe.task == "classification"
    everything = read_training_rows(data, is_classification)
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
        labels = tuple(sorted({(example.completion or "").strip() for example in train}))
        for name, examples in (("validation", validation), ("test", test)):
            _refuse_unknown_labels(name, examples, labels)
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


def read_training_rows(data: DataRecipe, stratify_by_label: bool) -> list[Example]:
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


def examples_of(table: Table, data: DataRecipe, stratify_by_label: bool = False) -> list[Example]:
    """Turn every row into an example.

    Raises:
        DataError: If columns are missing, or rows cannot be used, with their places.
    """
    require_columns(table, _needed_columns(data))
    examples, problems = [], []
    for row, place in zip(table.rows, table.places, strict=True):
        problem = _row_problem(row, data)
        if problem is not None:
            problems.append(f"{place}: {problem}")
        else:
            examples.append(_example(row, place, data, stratify_by_label))
    if problems:
        raise DataError(
            f"{table.source} has {len(problems)} unusable rows", problems=first_of(problems)
        )
    return examples


def _read_other(source: str, data: DataRecipe, is_classification: bool) -> list[Example]:
    """Validation or test rows: a file, or a split of the training data."""
    if is_file_reference(source):
        table = read_table([source])
    else:
        table = read_table(data.files, split=source, subset=data.subset)
    return examples_of(table, data, is_classification)


def _templates(data: DataRecipe) -> list[tuple[str, str]]:
    """(template, its key in the recipe) pairs."""
    named = [
        (data.prompt, "data.prompt"),
        (data.completion, "data.completion"),
        (data.text_template, "data.text_template"),
    ]
    if isinstance(data.messages, tuple):
        named += [(message.content, "data.messages") for message in data.messages]
    return [(template, asker) for template, asker in named if template is not None]


def _needed_columns(data: DataRecipe) -> list[tuple[str, str]]:
    needed = [
        (field, asker)
        for template, asker in _templates(data)
        for field in template_fields(template)
    ]
    if isinstance(data.messages, str):
        needed.append((data.messages, "data.messages"))
    if data.stratify is not None:
        needed.append((data.stratify, "data.stratify"))
    if data.group is not None:
        needed.append((data.group, "data.group"))
    return list(dict.fromkeys(needed))


def _row_problem(row: Row, data: DataRecipe) -> str | None:
    """What makes a row unusable, if anything does."""
    lacking = sorted({column for column, _ in _needed_columns(data) if column not in row})
    if lacking:
        return f"lacks {', '.join(map(repr, lacking))}"
    if isinstance(data.messages, str):
        return _messages_problem(row[data.messages])
    for template, asker in _templates(data):
        fields = template_fields(template)
        if fields and not any(field_text(row[field]).strip() for field in fields):
            return f"{asker.removeprefix('data.')} is empty"
    return None


def _messages_problem(messages: Any) -> str | None:
    if not isinstance(messages, list) or not messages:
        return "messages should be a list such as [{role: user, content: …}, …]"
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            return f"message {number} should have a role and a content, both text"
        if message.get("role") not in _ROLES:
            return (
                f"message {number} has the role {message.get('role')!r}; known: {', '.join(_ROLES)}"
            )
        if message["role"] == "assistant" and not message["content"].strip():
            return f"message {number}, an assistant turn, is empty"
    if not any(message["role"] == "assistant" for message in messages):
        return "no assistant turn to learn from"
    return None


def _example(row: Row, place: str, data: DataRecipe, stratify_by_label: bool) -> Example:
    completion = fill_template(data.completion, row) if data.completion is not None else None
    stratum = ""
    if data.stratify is not None:
        stratum = field_text(row[data.stratify])
    elif stratify_by_label and completion is not None:
        stratum = completion.strip()
    return Example(
        place=place,
        row=row,
        group=field_text(row[data.group]) if data.group is not None else None,
        stratum=stratum,
        prompt=fill_template(data.prompt, row) if data.prompt is not None else None,
        completion=completion,
        messages=_messages(row, data),
        text=fill_template(data.text_template, row) if data.text_template is not None else None,
    )


def _messages(row: Row, data: DataRecipe) -> tuple[dict[str, Any], ...] | None:
    if data.messages is None:
        return None
    if isinstance(data.messages, str):
        # Arrow fills keys that only other rows have with null; a chat template would print them.
        turns = [{k: v for k, v in turn.items() if v is not None} for turn in row[data.messages]]
    else:
        turns = [
            {"role": turn.role, "content": fill_template(turn.content, row)}
            for turn in data.messages
        ]
    if data.system is not None and turns[0]["role"] != "system":
        turns.insert(0, {"role": "system", "content": data.system})
    return tuple(turns)


def _refuse_unknown_labels(split: str, examples: Sequence[Example], labels: Sequence[str]) -> None:
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
