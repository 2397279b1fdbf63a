"""A sheet on which a person compares two runs row by row without knowing which is which."""

import csv
import hashlib
import io
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgekit.errors import DataError
from edgekit.evaluating.rows import AnsweredRow

RATINGS = ("a", "b", "tie")
_COLUMNS = ("sheet", "number", "prompt", "reference", "a", "b", "rating")
_TEMPLATE = Path(__file__).with_name("rating_sheet.html.j2")
_FORMULA = ("=", "+", "-", "@", "\t")
_SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two answers to one row, in an order by chance."""

    number: int
    prompt: str
    reference: str
    a: str
    b: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """Which answer is whose; not for the rater.

    Attributes:
        sheet: Name of the sheet that this is the key of.
        this: The run that was compared.
        other: The run that it was compared with.
        a: By the row's number: ``this`` or ``other``.
        n_equal: Rows that both answered alike, which are not on the sheet.
    """

    sheet: str
    this: str
    other: str
    a: dict[int, Literal["this", "other"]]
    n_equal: int

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        a = {str(number): who for number, who in self.a.items()}
        return {
            "sheet": self.sheet,
            "this": self.this,
            "other": self.other,
            "a": a,
            "n_equal": self.n_equal,
        }


def make_sheet(
    rows: Sequence[AnsweredRow], others: Sequence[AnsweredRow], this: str, other: str
) -> tuple[list[Pair], Key]:
    """Pair up two runs' answers to the same rows, rows and sides shuffled by a fixed seed.

    Raises:
        DataError: If there is nothing to rate.
    """
    pairs: list[Pair] = []
    first: dict[int, Literal["this", "other"]] = {}
    rng = random.Random(_SEED)
    for mine, theirs in zip(rows, others, strict=True):
        texts = [(mine.prediction or "").strip(), (theirs.prediction or "").strip()]
        is_mine_first = rng.random() < 0.5
        if texts[0] == texts[1]:
            continue
        a, b = texts if is_mine_first else reversed(texts)
        first[mine.number] = "this" if is_mine_first else "other"
        pairs.append(
            Pair(number=mine.number, prompt=mine.prompt, reference=mine.reference, a=a, b=b)
        )
    if not pairs:
        raise DataError(
            "there is nothing to rate: both runs answered every row alike",
            hint="Compare with a run of another adapter, base or method.",
        )
    rng.shuffle(pairs)
    content = json.dumps([this, other, [[p.number, p.prompt, p.a, p.b] for p in pairs]])
    name = hashlib.sha256(content.encode()).hexdigest()[:12]
    n_equal = len(rows) - len(pairs)
    return pairs, Key(sheet=name, this=this, other=other, a=first, n_equal=n_equal)


def csv_sheet(pairs: Sequence[Pair], sheet: str) -> str:
    """The sheet for a spreadsheet; the rater fills the column ``rating`` with a, b or tie."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    for pair in pairs:
        texts = [_as_text(cell) for cell in (pair.prompt, pair.reference, pair.a, pair.b)]
        writer.writerow([sheet, pair.number, *texts, ""])
    return text.getvalue()


def html_sheet(pairs: Sequence[Pair], sheet: str) -> str:
    """The sheet as a page that saves the ratings as csv."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(pairs=pairs, sheet=sheet)


def key_path(sheet: Path) -> Path:
    """Where the key of a sheet is written: beside it."""
    return sheet.with_name(f"{sheet.name}.key.json")


def _as_text(cell: str) -> str:
    """A spreadsheet would run a cell that begins like a formula."""
    return f"'{cell}" if cell.startswith(_FORMULA) else cell
