"""Picks the adapter that a request is for, from a few examples of each.

A text's meaning is read off the base itself: what it would say next after ``This sentence: "…"
means in one word: "`` (PromptEOL, Jiang et al. 2023, https://arxiv.org/abs/2307.16645). The logits
there, centred, are compared by their cosine with the mean of each adapter's examples. Requests of
no special kind, which ship with the runtime, say how alike two texts are that have nothing in
common: below the threshold that keeps these apart from the examples, a request is for the base.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from edgekit_runtime.card import AdapterCard
from edgekit_runtime.errors import ContextLengthError, GenerationError, nearest
from edgekit_runtime.templates import template_pieces

if TYPE_CHECKING:
    from edgekit_runtime.loaded import LoadedTarget

_FORM: Final = 'This sentence: "{text}" means in one word: "'
# What a request is about, it says early; and the context may be short.
_MAX_CHARS: Final = 400
_MIN_EXAMPLES: Final = 2

Vectors = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """Where a request goes.

    Attributes:
        adapter: The adapter whose examples are most alike; None where none is alike enough.
        similarities: Cosine with the examples of each adapter, -1 to 1, the greatest first.
        threshold: What the greatest has to reach.
    """

    adapter: str | None
    similarities: Mapping[str, float]
    threshold: float

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)


class Router:
    """Routes requests to adapters; make one with `Engine.router`. For any number of threads.

    Attributes:
        adapters: Names of those that it routes to.
        threshold: How alike a request has to be.
    """

    def __init__(
        self,
        loaded: "LoadedTarget",
        examples: Mapping[str, Sequence[str]] | None = None,
        threshold: float | None = None,
    ) -> None:
        known = loaded.adapter_names()
        if examples is None:
            recorded = {name: recorded_examples(loaded.card(name)) for name in known}
            examples = {name: texts for name, texts in recorded.items() if texts}
        _check(examples, known)
        self._loaded = loaded
        self.adapters = tuple(examples)
        groups = [
            np.stack([self._logits(text) for text in texts])
            for texts in (*examples.values(), general_requests())
        ]
        self._mean: NDArray[np.float32] = np.concatenate(groups).mean(axis=0)
        *own, general = (_unit(group - self._mean) for group in groups)
        self._means = np.stack([_unit(vectors.mean(axis=0)) for vectors in own])
        if threshold is None:
            alike = np.concatenate([_left_out(vectors) for vectors in own])
            threshold = _between(alike, (general @ self._means.T).max(axis=1))
        self.threshold = float(threshold)

    def route(self, text: str) -> Route:
        """Say which adapter a request is for.

        Args:
            text: What somebody wrote, in no template; of a long text its beginning counts.

        Raises:
            GenerationError: If there is no text.
        """
        if not isinstance(text, str) or not text.strip():
            raise GenerationError("nothing to route", hint="Give what somebody wrote.")
        cosines = self._means @ _unit(self._logits(text) - self._mean)
        order = np.argsort(-cosines, kind="stable")
        best = int(order[0])
        return Route(
            adapter=self.adapters[best] if cosines[best] >= self.threshold else None,
            similarities={self.adapters[i]: float(cosines[i]) for i in order},
            threshold=self.threshold,
        )

    def _logits(self, text: str) -> NDArray[np.float32]:
        """What the base would say next, centred over the vocabulary: (vocabulary,)."""
        asked = _FORM.format(text=text.strip()[:_MAX_CHARS].strip())
        tokens = self._loaded.tokenizer().encode(asked)
        if len(tokens) > (longest := self._loaded.context_length):
            raise ContextLengthError(
                "a text is too long to be routed",
                problems=[f"expected at most {longest} tokens, got {len(tokens)}"],
                hint="Name the adapter, or allow a longer context.",
            )
        with closing(self._loaded.decoder(adapter=None, capacity_tokens=len(tokens))) as decoder:
            decoder.append(tokens)
            logits = decoder.logits()
        centred: NDArray[np.float32] = logits - logits.mean()
        return centred


def general_requests() -> list[str]:
    """Requests of no special kind, one a line of a file of this package."""
    text = files("edgekit_runtime").joinpath("general_requests.txt").read_text(encoding="utf-8")
    return text.splitlines()


def recorded_examples(card: AdapterCard) -> list[str]:
    """An adapter's examples without the template around them; none of a conversation's."""
    template = card.prompt_template
    if template is None:
        return [] if card.recipe.get("messages") else list(card.examples)
    pieces = template_pieces(template)
    named = [index for index, (field, _) in enumerate(pieces) if field is not None]
    if not named:
        return list(card.examples)
    before = "".join(text for _, text in pieces[: named[0]])
    after = "".join(text for _, text in pieces[named[-1] + 1 :])
    return [text.removeprefix(before).removesuffix(after) for text in card.examples]


def _check(examples: Mapping[str, Sequence[str]], known: Sequence[str]) -> None:
    problems = [f"{name}: {nearest(name, known)}" for name in examples if name not in known]
    for name, texts in examples.items():
        is_list = isinstance(texts, Sequence) and not isinstance(texts, str)
        if not is_list or not all(isinstance(text, str) for text in texts):
            problems.append(f"{name}: expected a list of texts")
        elif len([text for text in texts if text.strip()]) < max(len(texts), _MIN_EXAMPLES):
            n_texts = len(texts)
            problems.append(f"{name}: expected {_MIN_EXAMPLES} texts or more, got {n_texts}")
    if not examples:
        problems.append("no adapter of this bundle records examples of what it is asked")
    if problems:
        raise GenerationError(
            "requests cannot be routed",
            problems=problems,
            hint='Give examples={"NAME": [texts, …]}: eight of each or more work well.',
        )


def _unit(vectors: Vectors) -> Vectors:
    """Vectors of length 1, along the last axis."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: Vectors = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return scaled


def _left_out(vectors: Vectors) -> Vectors:
    """How alike each example is to the mean of the others."""
    others = _unit(vectors.sum(axis=0) - vectors)
    alike: Vectors = (vectors * others).sum(axis=1)
    return alike


def _between(alike: Vectors, unlike: Vectors) -> float:
    """The threshold that most of the ones reach and most of the others do not."""
    candidates = np.sort(np.concatenate([alike, unlike]))
    balance = [(alike >= at).mean() + (unlike < at).mean() for at in candidates]
    return float(candidates[int(np.argmax(balance))])
