"""The rows of a search: split once, so that every trial is judged by the same ones.

What the winner is compared with the defaults on is taken away before the first trial.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgekit.errors import DataError
from edgekit.recipes import TrainRecipe
from edgekit.training.example_splits import load_examples
from edgekit.training.examples import Example
from edgekit.training.splitting import keep_labels_in_train, split_examples
from edgekit.tuning.loading import Search
from edgekit_runtime.disk import replace_file

VALIDATION, TEST = "validation.jsonl", "test.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchRows:
    """The rows of a search.

    Attributes:
        labels: Of a classification.
        warnings: What a person should know of the split.
    """

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    labels: tuple[str, ...] | None
    warnings: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Says which rows they are, and of which split."""
        digest = hashlib.sha256()
        for split in (self.train, self.validation, self.test):
            digest.update(_jsonl(split).encode() + b"\0")
        return "sha256:" + digest.hexdigest()


def split_rows(search: Search) -> SearchRows:
    """Read the recipe's rows, and keep some from every trial.

    Raises:
        DataError: If they cannot be used, or leave nothing to judge a trial by.
    """
    recipe = search.recipe
    data = recipe.data
    kept_out = search.test if isinstance(search.test, str) else None
    # Augmented and repeated rows are made in each trial, of training rows only.
    sources = [source.model_copy(update={"weight": None}) for source in data.sources]
    changes = {"augment": None, "test": kept_out, "train": tuple(sources) or data.train}
    plain = recipe.model_copy(update={"data": data.model_copy(update=changes)})
    found = load_examples(plain)
    rows = SearchRows(
        train=found.train,
        validation=found.validation,
        test=found.test,
        labels=found.labels,
        warnings=found.warnings,
    )
    if isinstance(search.test, float) and search.test > 0:
        rows = _take_test(rows, recipe, search.test)
    if rows.labels is not None and len(rows.labels) < 2:
        raise DataError(
            f"every row has the label {rows.labels[0]!r}, so every trial would score alike",
            hint="A search of a classification needs rows of two labels or more.",
        )
    if not rows.validation:
        raise DataError(
            "no row is left to judge trials by", hint="Give more rows, or data.validation a file."
        )
    return rows


def _take_test(rows: SearchRows, recipe: TrainRecipe, share: float) -> SearchRows:
    """Take a share of the training rows; groups and strata are kept as in validation."""
    data = recipe.data.model_copy(update={"validation": share})
    warnings: list[str] = []
    # Another seed than validation's, or the same places would be drawn.
    train, test = split_examples(rows.train, data, recipe.seed + 1, warnings)
    if rows.labels is not None:
        train, test = keep_labels_in_train(train, test)
    if not test:
        warnings.append("too few rows to keep some for the comparison with the defaults")
    return replace(rows, train=tuple(train), test=tuple(test), warnings=(*rows.warnings, *warnings))


def write_rows(rows: SearchRows, directory: Path) -> None:
    """Write the splits as JSON lines, training rows by source."""
    directory.mkdir(parents=True, exist_ok=True)
    for number in sorted({example.source for example in rows.train}):
        own = [example for example in rows.train if example.source == number]
        _write(directory / _train_file(number), own)
    _write(directory / VALIDATION, rows.validation)
    _write(directory / TEST, rows.test)


def with_rows(recipe: TrainRecipe, directory: Path) -> TrainRecipe:
    """A recipe that trains and validates on written rows; it does not know of the test rows."""
    data = recipe.data
    files = {number: directory / _train_file(number) for number in range(len(data.sources) or 1)}
    sources = [
        source.model_copy(
            update={"path": (str(files[n]),), "split": "train", "subset": None, "rename": {}}
        )
        for n, source in enumerate(data.sources)
        if files[n].is_file()
    ]
    changes = {
        "train": tuple(sources) or (str(files[0]),),
        "split": "train",
        "subset": None,
        "validation": str(directory / VALIDATION),
        "test": None,
        "stratify": None,
        "group": None,
    }
    return recipe.model_copy(update={"data": data.model_copy(update=changes)})


def _train_file(number: int) -> str:
    return f"train-{number}.jsonl"


def _write(path: Path, examples: Sequence[Example]) -> None:
    replace_file(path, _jsonl(examples).encode())


def _jsonl(examples: Sequence[Example]) -> str:
    lines = [json.dumps(example.row, ensure_ascii=False, default=str) for example in examples]
    return "".join(f"{line}\n" for line in lines)
