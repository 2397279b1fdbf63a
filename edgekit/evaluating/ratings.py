"""Filled rating sheets: who won how often, and whether that may be luck."""

import csv
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgekit.errors import DataError, first_of
from edgekit.evaluating.rating_sheet import RATINGS, Key
from edgekit.evaluating.sampling import Interval, check_confidence


@dataclass(frozen=True, kw_only=True, slots=True)
class RatingReport:
    """What a person found.

    Attributes:
        this: The run that was compared.
        other: The run that it was compared with.
        n_this: Rows in which this run's answer is better.
        n_other: Rows in which the other's is.
        n_ties: Rows in which they are equally good or bad.
        n_equal: Rows that both answered alike, which were not on the sheet.
        n_unrated: Rows that the rater left open.
        win_rate: Share of this run among the rows that one of the two won; None without any.
        interval: Of the win rate, exact (Clopper and Pearson).
        p_value: How likely a share at least as far from one half is by throwing a coin.
    """

    this: str
    other: str
    n_this: int
    n_other: int
    n_ties: int
    n_equal: int
    n_unrated: int
    win_rate: float | None
    confidence: float
    interval: Interval | None
    p_value: float | None

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)


def read_key(path: Path) -> Key:
    """Read the key of a sheet.

    Raises:
        DataError: If it is no such file.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        first = {int(number): who for number, who in value["a"].items()}
        if not set(first.values()) <= {"this", "other"}:
            raise ValueError("a: expected 'this' or 'other' for each row")
        return Key(
            sheet=str(value["sheet"]),
            this=str(value["this"]),
            other=str(value["other"]),
            a=first,
            n_equal=int(value["n_equal"]),
        )
    except OSError as err:
        raise DataError(
            f"the key {path} cannot be read: {err.strerror}",
            hint="It was written beside the sheet; name it with --key.",
        ) from err
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        raise DataError(f"{path} is no key of a rating sheet: {err}") from err


def rate(path: Path, key: Key, confidence: float) -> RatingReport:
    """Count the ratings of a filled sheet.

    Raises:
        DataError: With every problem of the file.
        RecipeError: If the confidence is no share.
    """
    from scipy.stats import binomtest

    check_confidence(confidence)
    ratings = _read_ratings(path, key)
    winners: Counter[str] = Counter()
    for number, rating in ratings.items():
        if rating == "tie":
            winners["tie"] += 1
        else:
            is_this = (rating == "a") == (key.a[number] == "this")
            winners["this" if is_this else "other"] += 1
    decided = winners["this"] + winners["other"]
    test = binomtest(winners["this"], decided) if decided else None
    ends = test.proportion_ci(confidence_level=confidence) if test else None
    return RatingReport(
        this=key.this,
        other=key.other,
        n_this=winners["this"],
        n_other=winners["other"],
        n_ties=winners["tie"],
        n_equal=key.n_equal,
        n_unrated=len(key.a) - len(ratings),
        win_rate=winners["this"] / decided if decided else None,
        confidence=confidence,
        interval=(float(ends.low), float(ends.high)) if ends else None,
        p_value=float(test.pvalue) if test else None,
    )


def _read_ratings(path: Path, key: Key) -> dict[int, str]:
    """The given ratings by row."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as err:
        raise DataError(f"{path} cannot be read: {err}") from err
    reader = csv.DictReader(text.splitlines(keepends=True))
    lacking = [name for name in ("sheet", "number", "rating") if name not in _names(reader)]
    if lacking:
        raise DataError(
            f"{path} is no filled rating sheet",
            problems=[f"it lacks the column {name!r}" for name in lacking],
            hint="Of a sheet in HTML, give the csv file that its button saves.",
        )
    found: dict[int, str] = {}
    problems = []
    for place, row in enumerate(reader, start=1):
        problem = _problem(row, key, found)
        if problem is not None:
            problems.append(f"row {place}: {problem}")
        elif rating := _text(row, "rating").lower():
            found[int(_text(row, "number"))] = rating
    if problems:
        raise DataError(f"{path} has ratings that cannot be read", problems=first_of(problems))
    return found


def _names(reader: "csv.DictReader[str]") -> list[str]:
    return list(reader.fieldnames or ())


def _text(row: Mapping[str, Any], name: str) -> str:
    """A cell; a short row has none."""
    return str(row.get(name) or "").strip()


def _problem(row: Mapping[str, Any], key: Key, found: Mapping[int, str]) -> str | None:
    number, rating = _text(row, "number"), _text(row, "rating").lower()
    if _text(row, "sheet") != key.sheet:
        return f"is of the sheet {_text(row, 'sheet')!r}, the key is of {key.sheet!r}"
    if not number.isdecimal() or int(number) not in key.a:
        return f"number: no row {number!r} on the sheet"
    if int(number) in found:
        return f"number: row {number} is there twice"
    if rating and rating not in RATINGS:
        return f"rating: expected {', '.join(RATINGS)} or nothing, got {rating!r}"
    return None
