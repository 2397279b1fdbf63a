"""Picks one of several labels: the prompt is run once, then the tree of the labels' tokens."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import exp, inf
from typing import Any, Final

import numpy as np

from edgekit_runtime.card import AdapterCard
from edgekit_runtime.decoder import Decoder
from edgekit_runtime.errors import GenerationError
from edgekit_runtime.scoring import log_softmax

# A branch this many nats below the best label is not followed: e**-12 is 6e-6. A trained model with
# 77 labels then runs about 80 tokens of them, not 200; shares moved by less than 1e-4 in trials,
# and each label left out can move them by 6e-6 at most.
_NEGLIGIBLE_NATS: Final = 12.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Classification:
    """The likeliest of several labels; its ``str()`` is that label.

    Attributes:
        label: As it was given.
        probabilities: Of every label, the likeliest first; they sum to 1.
        coverage: How likely the whole answer is any of the labels, from 0 to 1; near 0 where the
            model would rather say something else.
        adapter: The adapter that was active, or None for the base.
    """

    label: str
    probabilities: Mapping[str, float]
    coverage: float
    adapter: str | None

    def __str__(self) -> str:
        return self.label

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)


@dataclass(slots=True)
class _Node:
    """A place in the tree: the tokens from the root to here begin some labels."""

    label: int | None = None
    children: dict[int, "_Node"] = field(default_factory=dict)

    def labels(self) -> Iterator[int]:
        """Every label that ends here or below."""
        below = [self]
        while below:
            node = below.pop()
            below += node.children.values()
            if node.label is not None:
                yield node.label


def check_labels(labels: object) -> list[str]:
    """Refuse what is no set of labels.

    Raises:
        GenerationError: With every problem.
    """
    hint = "Give at least two different texts: labels=['yes', 'no']."
    if isinstance(labels, str) or not isinstance(labels, Sequence):
        raise GenerationError(f"labels: expected a list, got {type(labels).__name__}", hint=hint)
    problems = []
    known: set[str] = set()
    for index, label in enumerate(labels):
        if not isinstance(label, str):
            problems.append(f"labels[{index}]: expected str, got {type(label).__name__}")
        elif not label.strip():
            problems.append(f"labels[{index}]: empty")
        elif label in known:
            problems.append(f"labels[{index}]: {label!r} is there twice")
        else:
            known.add(label)
    if not problems and len(labels) < 2:
        problems.append(f"expected at least two, got {len(labels)}")
    if problems:
        raise GenerationError("the labels cannot be told apart", problems=problems, hint=hint)
    return list(labels)


def recorded_labels(card: AdapterCard | None) -> object:
    """The labels that an adapter was trained to tell apart, as they stand in its card.

    Raises:
        GenerationError: If it records none, or there is no adapter.
    """
    recorded = card.recipe.get("labels") if card is not None else None
    if not recorded:
        who = "the base" if card is None else f"adapter {card.name!r}"
        raise GenerationError(
            f"{who} records no labels to choose from", hint="Give them: labels=['yes', 'no']."
        )
    return recorded


def completions_of(labels: Sequence[str], template: str | None) -> list[str]:
    """Labels as a completion template begins them: white space first, where they have none."""
    template = template or ""
    space = template[: len(template) - len(template.lstrip())]
    return [label if label[:1].isspace() else space + label for label in labels]


def continuations(
    prompt: str,
    prompt_tokens: Sequence[int],
    texts: Sequence[str],
    encode: Callable[[str], list[int]],
    encode_alone: Callable[[str], list[int]],
) -> list[list[int]]:
    """Tokens of texts that follow a prompt, as training cuts them.

    Together with the prompt where that leaves the prompt's own tokens alone; else by themselves.
    """
    n = len(prompt_tokens)
    tokens = []
    for text in texts:
        whole = encode(prompt + text)
        fits = len(whole) > n and whole[:n] == list(prompt_tokens)
        tokens.append(whole[n:] if fits else encode_alone(text))
    return tokens


def label_log_probs(
    decoder: Decoder,
    prompt: Sequence[int],
    labels: Sequence[Sequence[int]],
    end_ids: frozenset[int],
) -> list[float]:
    """Natural logarithm of how likely an answer is exactly each label, its end included.

    The prompt is run once. Labels that begin alike share the tokens that they begin with, the
    likeliest branch is followed first, and one that is e**-12 times less likely than the best
    label so far is not followed: its labels get the likelihood of what they share, which is never
    too low.

    Args:
        decoder: A fresh one, with room for the prompt and the longest label.
        prompt: Its tokens, at least one.
        labels: Tokens of each label, at least one each.
        end_ids: Tokens that end an answer.

    Raises:
        GenerationError: If two labels have the same tokens.
    """
    found = [-inf] * len(labels)
    ends = sorted(end_ids)
    # Places to go to, the likeliest last: node, its depth, its last token, how likely it is.
    ahead: list[tuple[_Node, int, int, float]] = []

    def arrive(node: _Node, depth: int, chance: float) -> None:
        following = log_softmax(decoder.logits())
        if node.label is not None:
            found[node.label] = chance + float(np.logaddexp.reduce(following[ends]))
        for token in sorted(node.children, key=lambda token: float(following[token])):
            child = node.children[token]
            ahead.append((child, depth + 1, token, chance + float(following[token])))

    decoder.append(prompt)
    arrive(_tree(labels), len(prompt), 0.0)
    while ahead:
        node, depth, token, chance = ahead.pop()
        if chance < max(found) - _NEGLIGIBLE_NATS:
            for label in node.labels():
                found[label] = chance
            continue
        decoder.rewind(depth - 1)
        decoder.append([token])
        arrive(node, depth, chance)
    return found


def classification_of(
    labels: Sequence[str], log_probs: Sequence[float], adapter: str | None
) -> Classification:
    """Probabilities among the labels."""
    best = max(log_probs)
    shares = [exp(value - best) for value in log_probs]
    total = sum(shares)
    order = sorted(range(len(labels)), key=lambda index: -log_probs[index])
    return Classification(
        label=labels[order[0]],
        probabilities={labels[index]: shares[index] / total for index in order},
        coverage=min(1.0, total * exp(best)),
        adapter=adapter,
    )


def _tree(labels: Sequence[Sequence[int]]) -> _Node:
    root = _Node()
    for index, tokens in enumerate(labels):
        node = root
        for token in tokens:
            node = node.children.setdefault(token, _Node())
        if node.label is not None:
            raise GenerationError(
                f"labels[{node.label}] and labels[{index}] are the same tokens",
                hint="They differ in what the base's tokenizer does not tell apart.",
            )
        node.label = index
    return root
