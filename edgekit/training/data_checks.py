"""What is odd about rows that can be used: repeated, contradicting, leaking, one-sided."""

import unicodedata
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from edgekit.data_recipe import DataRecipe
from edgekit.templates import field_text, template_fields
from edgekit_runtime.templates import template_pieces

if TYPE_CHECKING:
    from edgekit.training.examples import Example

N_PLACES = 5
IMBALANCE = 10
_ONE_ANSWER = ("classification", "extraction")
_MOSTLY = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One oddity of the data.

    Attributes:
        check: Such as ``duplicates`` or ``leakage``.
        n_rows: How many rows it concerns.
        text: One sentence.
        places: Of the first rows that it concerns.
        is_problem: Whether it is likely to spoil the result; the rest is good to know.
    """

    check: str
    n_rows: int
    text: str
    places: tuple[str, ...] = ()
    is_problem: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def among_first(self, n_rows: int) -> "Finding":
        """The same of a stream, of which only the first training rows were looked at."""
        return replace(self, text=f"in the first {n_rows} training rows: {self.text}")


def unseen_rows(n_seen: int) -> Finding:
    """Says of a stream that most of its rows were not looked at."""
    text = f"data.streaming: only the first {n_seen} training rows were looked at"
    return Finding(check="streaming", n_rows=n_seen, text=text, is_problem=False)


def check_examples(
    train: Sequence["Example"],
    validation: Sequence["Example"],
    test: Sequence["Example"],
    data: DataRecipe,
    task: str,
) -> tuple[Finding, ...]:
    """Look at the rows of every split.

    Args:
        train: What is trained on.
        validation: May be empty, as may test.
        test: Scored once at the end.
        data: Its templates are compared with the rows.
        task: Decides whether one prompt may have two answers.
    """
    seen = [*train, *validation]
    findings = [
        *_repeats(seen),
        *_empty_fields([*seen, *test], data),
        *_conflicts([*seen, *test], task),
        *_leaks(train, {"validation": validation, "test": test}),
        *_scripts(seen, data),
    ]
    if task == "classification" and data.completion is not None:
        findings += _classes(train)
    return tuple(findings)


def warnings_of(findings: Iterable[Finding]) -> list[str]:
    """The problems among findings, one line each, with their rows."""
    return [
        f"{one.text} ({', '.join(one.places)}{' …' if one.n_rows > len(one.places) else ''})"
        if one.places
        else one.text
        for one in findings
        if one.is_problem
    ]


def _finding(
    check: str, examples: Sequence["Example"], text: str, *, is_problem: bool = True
) -> Finding:
    places = tuple(example.place for example in examples[:N_PLACES])
    return Finding(
        check=check, n_rows=len(examples), text=text, places=places, is_problem=is_problem
    )


def _repeats(examples: Sequence["Example"]) -> list[Finding]:
    exact = _later(examples, lambda example: example.content)
    places = {example.place for example in exact}
    rest = [example for example in examples if example.place not in places]
    near = _later(rest, lambda example: _normalized(example.content))
    found = []
    if exact:
        text = f"rows that repeat an earlier one, word for word: {len(exact)}"
        found.append(_finding("duplicates", exact, text, is_problem=False))
    if near:
        text = f"rows that repeat an earlier one but for case, spaces, punctuation: {len(near)}"
        found.append(_finding("near duplicates", near, text, is_problem=False))
    return found


def _later(
    examples: Sequence["Example"], key_of: Callable[["Example"], Hashable]
) -> list["Example"]:
    known: set[Hashable] = set()
    later = []
    for example in examples:
        key = key_of(example)
        if key in known:
            later.append(example)
        known.add(key)
    return later


def _normalized(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(character for character in folded if character.isalnum())


def _empty_fields(examples: Sequence["Example"], data: DataRecipe) -> list[Finding]:
    """A template with several fields of which some are empty; all empty is refused before."""
    found = []
    for field in _fields(data):
        empty = [e for e in examples if not field_text(e.row.get(field)).strip()]
        if empty:
            text = f"rows with nothing in column {field!r}: {len(empty)}"
            found.append(_finding("empty fields", empty, text))
    return found


def _templates(data: DataRecipe) -> list[str]:
    turns = data.messages if isinstance(data.messages, tuple) else ()
    named = (data.prompt, data.completion, data.text_template, *(turn.content for turn in turns))
    return [template for template in named if template is not None]


def _fields(data: DataRecipe) -> list[str]:
    return list(dict.fromkeys(f for one in _templates(data) for f in template_fields(one)))


def question_and_answer(example: "Example") -> tuple[str, str]:
    """What the model reads and what it should then write; text has no answer."""
    if example.messages is not None:
        turns = [(str(turn["role"]), str(turn["content"])) for turn in example.messages]
        last = max(n for n, (role, _) in enumerate(turns) if role == "assistant")
        return repr(turns[:last]), turns[last][1].strip()
    if example.prompt is not None:
        return example.prompt, (example.completion or "").strip()
    return example.text or "", ""


def _conflicts(examples: Sequence["Example"], task: str) -> list[Finding]:
    answers: dict[str, set[str]] = {}
    for example in examples:
        question, answer = question_and_answer(example)
        answers.setdefault(question, set()).add(answer)
    torn = [e for e in examples if len(answers[question_and_answer(e)[0]]) > 1]
    if not torn:
        return []
    torn.sort(key=lambda example: question_and_answer(example)[0])
    n_prompts = len({question_and_answer(example)[0] for example in torn})
    text = f"prompts with several answers: {n_prompts}, in {len(torn)} rows"
    return [_finding("conflicts", torn, text, is_problem=task in _ONE_ANSWER)]


def _leaks(train: Sequence["Example"], others: dict[str, Sequence["Example"]]) -> list[Finding]:
    questions = {question_and_answer(example)[0] for example in train}
    groups = {example.group for example in train} - {None}
    found = []
    for name, examples in others.items():
        leaked = [e for e in examples if question_and_answer(e)[0] in questions]
        if leaked:
            text = (
                f"{len(leaked)} of {len(examples)} {name} rows are in training too: "
                "their score says little"
            )
            found.append(_finding("leakage", leaked, text))
        shared = [example for example in examples if example.group in groups]
        if shared:
            text = f"{len(shared)} of {len(examples)} {name} rows are of a group in training too"
            found.append(_finding("leakage", shared, text))
    return found


def _classes(train: Sequence["Example"]) -> list[Finding]:
    counts = Counter((example.completion or "").strip() for example in train)
    (most, n_most), (least, n_least) = counts.most_common(1)[0], counts.most_common()[-1]
    if len(counts) == 1:
        text = f"every training row has the label {most!r}: there is nothing to tell apart"
        return [Finding(check="classes", n_rows=len(train), text=text)]
    text = f"{len(counts)} labels, from {n_least} rows ({least!r}) to {n_most} ({most!r})"
    lopsided = n_most > IMBALANCE * n_least
    return [Finding(check="classes", n_rows=len(train), text=text, is_problem=lopsided)]


def _scripts(examples: Sequence["Example"], data: DataRecipe) -> list[Finding]:
    """Compare the letters of the templates' own words with those of the rows."""
    words = "".join(
        text for one in _templates(data) for text, field in _literals(one) if field is None
    )
    ours = _script(words)
    fields = _fields(data)
    if ours is None:
        return []
    other = [
        example
        for example in examples
        if _script(" ".join(field_text(example.row.get(f)) for f in fields)) not in (None, ours)
    ]
    if len(other) <= _MOSTLY * len(examples):
        return []
    text = f"the template has {ours.lower()} letters, rows mostly in others: {len(other)}"
    return [_finding("template", other, text, is_problem=False)]


def _literals(template: str) -> list[tuple[str, str | None]]:
    return [("" if name is not None else text, name) for name, text in template_pieces(template)]


def _script(text: str) -> str | None:
    """The script of most letters: the first word of their names in Unicode."""
    names = (unicodedata.name(letter, "") for letter in text if letter.isalpha())
    counts = Counter(name.split()[0] for name in names if name)
    return counts.most_common(1)[0][0] if counts else None
