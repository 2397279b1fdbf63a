"""Checks the demonstration data sets against the promises in ``data/README.md``.

Run with ``python bundles/demo/check_data.py`` from the repository root. Prints the share of nulls
per appointment key and, as a yardstick for the tuned model, the tone accuracy of a TF-IDF and
logistic regression classifier (needs scikit-learn).
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from pathlib import Path

DATA = Path(__file__).parent / "data"
TONES = ("anger", "fear", "joy", "sadness", "surprise")
KEYS = ("what", "day", "time", "place")
ROWS = {"train": 300, "test": 100}
MAX_WORDS = 45
GRAM = 6

Row = dict[str, str]


def load_tone(split: str) -> list[Row]:
    """Reads one split of the tone set."""
    with (DATA / "tone" / f"{split}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def load_appointment(split: str) -> list[Row]:
    """Reads one split of the appointment set."""
    lines = (DATA / "appointment" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def grams(text: str) -> set[tuple[str, ...]]:
    """Returns the word 6-grams of a text, lower-cased."""
    words = re.findall(r"[a-z0-9']+", text.lower())
    return {tuple(words[i : i + GRAM]) for i in range(len(words) - GRAM + 1)}


def check_columns(name: str, splits: dict[str, list[Row]], columns: list[str]) -> list[str]:
    """Checks that every row has exactly the expected columns, each a string."""
    return [
        f"{name}/{split}: row {number} has not the columns {columns}"
        for split, rows in splits.items()
        for number, row in enumerate(rows, start=1)
        if list(row) != columns or not all(isinstance(value, str) for value in row.values())
    ]


def check_texts(name: str, splits: dict[str, list[Row]]) -> list[str]:
    """Checks what both sets promise: counts, lengths, no duplicates, no shared 6-gram."""
    problems = []
    for split, rows in splits.items():
        if len(rows) != ROWS[split]:
            problems.append(f"{name}/{split}: {len(rows)} rows, expected {ROWS[split]}")
        for row in rows:
            if len(row["text"].split()) > MAX_WORDS:
                problems.append(f"{name}/{split}: over {MAX_WORDS} words: {row['text']!r}")
    counts = Counter(row["text"].lower() for rows in splits.values() for row in rows)
    problems += [f"{name}: duplicate text {text!r}" for text, n in counts.items() if n > 1]
    seen: set[tuple[str, ...]] = set()
    for row in splits["train"]:
        seen |= grams(row["text"])
    for row in splits["test"]:
        for gram in sorted(grams(row["text"]) & seen):
            problems.append(f"{name}: 6-gram in both splits: {' '.join(gram)!r}")
    return problems


def check_tone(splits: dict[str, list[Row]]) -> list[str]:
    """Checks that the tones are the five expected ones, in equal shares."""
    problems = []
    for split, rows in splits.items():
        counts = Counter(row["tone"] for row in rows)
        expected = {tone: ROWS[split] // len(TONES) for tone in TONES}
        if counts != expected:
            problems.append(f"tone/{split}: {dict(counts)}, expected {expected}")
    return problems


def check_appointment(splits: dict[str, list[Row]]) -> list[str]:
    """Checks that each answer is canonical JSON whose values are copied from the text."""
    problems = []
    for split, rows in splits.items():
        for row in rows:
            where = f"appointment/{split}: {row['text']!r}"
            try:
                answer = json.loads(row["json"])
            except json.JSONDecodeError as error:
                problems.append(f"{where}: not JSON: {error}")
                continue
            if not isinstance(answer, dict) or tuple(answer) != KEYS:
                problems.append(f"{where}: expected an object with the keys {KEYS} in this order")
                continue
            if json.dumps(answer, ensure_ascii=False, separators=(", ", ": ")) != row["json"]:
                problems.append(f"{where}: the JSON is not in its canonical form")
            if answer["what"] is None:
                problems.append(f"{where}: 'what' is null")
            for key, value in answer.items():
                if value is not None and (not value or value not in row["text"]):
                    problems.append(f"{where}: {key} {value!r} is not in the text")
    return problems


def check_bytes() -> list[str]:
    """Checks that the files are UTF-8 with LF line endings and a final newline."""
    problems = []
    for path in sorted(DATA.glob("*/*")):
        content = path.read_bytes()
        content.decode("utf-8")
        if b"\r" in content or not content.endswith(b"\n"):
            problems.append(f"{path.relative_to(DATA)}: expected LF line ends and a final newline")
    return problems


def tone_baseline(splits: dict[str, list[Row]]) -> float:
    """Returns the test accuracy of TF-IDF (words and word pairs) and logistic regression."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(max_iter=1000))
    text = {split: [row["text"] for row in rows] for split, rows in splits.items()}
    tone = {split: [row["tone"] for row in rows] for split, rows in splits.items()}
    model.fit(text["train"], tone["train"])
    return float(model.score(text["test"], tone["test"]))


def main() -> None:
    """Checks both sets and prints their figures.

    Raises:
        SystemExit: With status 1 when a promise is broken; every problem is printed.
    """
    tone = {split: load_tone(split) for split in ROWS}
    appointment = {split: load_appointment(split) for split in ROWS}
    problems = [
        *check_bytes(),
        *check_columns("tone", tone, ["text", "tone"]),
        *check_columns("appointment", appointment, ["text", "json"]),
    ]
    if not problems:  # The checks below rely on the columns.
        problems = [
            *check_texts("tone", tone),
            *check_texts("appointment", appointment),
            *check_tone(tone),
            *check_appointment(appointment),
        ]
    if problems:
        print("\n".join(problems))
        raise SystemExit(1)
    for split, rows in appointment.items():
        answers = [json.loads(row["json"]) for row in rows]
        for key in KEYS:
            share = sum(answer[key] is None for answer in answers) / len(answers)
            print(f"appointment/{split}: {key} is null in {share:.1%}")
    print(f"tone/test: TF-IDF + logistic regression accuracy {tone_baseline(tone):.2f}")


if __name__ == "__main__":
    main()
