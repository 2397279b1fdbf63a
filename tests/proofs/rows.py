"""The rows of the proofs, made of the data sets as their authors publish them."""

import csv
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_DEMO = ROOT / "bundles" / "demo" / "data"
_INTENTS = ("BookRestaurant", "GetWeather", "PlayMusic", "RateBook")
_SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """Files of one data set.

    Attributes:
        test: Every test row, or the first of them, in an order by chance: published files are
            sorted by label, and the first rows of a file should be a fair sample of it.
    """

    train: Path
    test: Path


def write_rows(source: Path, out: Path, n_test: int | None = None) -> dict[str, Rows]:
    """Write training and test rows of every data set, the same ones each time.

    Args:
        source: Directory with ``banking77`` (train.csv, test.csv) and ``snips`` (train_INTENT.json,
            validate_INTENT.json).
        out: Where files go.
        n_test: Test rows of each set; all of them by default.
    """
    sets = {
        "banking77": [_intents(source / "banking77" / f"{one}.csv") for one in ("train", "test")],
        "snips": [_slots(source / "snips", one) for one in ("train", "validate")],
        "tone": [_table(_DEMO / "tone" / f"{one}.csv") for one in ("train", "test")],
        "appointment": [
            _lines(_DEMO / "appointment" / f"{one}.jsonl") for one in ("train", "test")
        ],
    }
    found = {}
    for name, (train, test) in sets.items():
        random.Random(_SEED).shuffle(test)
        rows = Rows(train=out / f"{name}-train.jsonl", test=out / f"{name}-test.jsonl")
        _write(rows.train, train)
        _write(rows.test, test[:n_test])
        found[name] = rows
    return found


def slots_of(parts: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """A tagged text as text and the JSON of its slots; a slot that is there twice is a list.

    >>> slots_of([{"text": "in "}, {"text": "Rome", "entity": "city"}])
    {'text': 'in Rome', 'json': '{"city": "Rome"}'}
    """
    slots: dict[str, list[str]] = {}
    for part in parts:
        if "entity" in part:
            slots.setdefault(part["entity"], []).append(part["text"].strip())
    values = {name: found[0] if len(found) == 1 else found for name, found in slots.items()}
    text = "".join(part["text"] for part in parts).strip()
    return {"text": text, "json": json.dumps(values, ensure_ascii=False)}


def _intents(path: Path) -> list[dict[str, Any]]:
    """Intents as words, which the base has tokens for: ``card arrival`` for ``card_arrival``."""
    return [row | {"category": row["category"].replace("_", " ")} for row in _table(path)]


def _slots(directory: Path, split: str) -> list[dict[str, Any]]:
    rows = []
    for intent in _INTENTS:
        path = directory / f"{split}_{intent}.json"
        tagged = json.loads(path.read_text(encoding="utf-8"))[intent]
        rows += [slots_of(row["data"]) for row in tagged]
    return rows


def _table(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Written anew only where it differs: a file that is being read stays as it is."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
