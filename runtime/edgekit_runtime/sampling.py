"""Generation options: merged from their layers, checked at once, applied to logits."""

import math
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, TypedDict

import numpy as np
from numpy.typing import NDArray

from edgekit_runtime.constraints import Constraint, read_constraint
from edgekit_runtime.errors import GenerationError, nearest

Logits = NDArray[np.float32]

# Tokens that are ruled out keep their order far below the others, so that a constraint which
# forbids every candidate still finds its best token.
_RULED_OUT: Final = np.float32(1e6)
# Below this the likeliest token always wins, and dividing by it would leave float32.
_COLDEST: Final = 1e-6
_LARGEST: Final = float(np.finfo(np.float32).max)
_CONSTRAINT_KEYS: Final = ("schema", "regex", "choices")


class GenerateOptions(TypedDict, total=False):
    """What a request may say; None means the default.

    Attributes:
        max_new_tokens: Longest answer; default: the adapter's, else 256.
        temperature: 0 picks the likeliest token; default: the adapter's, else 0.
        top_k: Sample among the k likeliest tokens, 0 for all; default 50.
        top_p: Sample among the likeliest tokens that hold this share; default 1.
        repetition_penalty: Above 1 makes tokens that occurred less likely; default 1.
        seed: The same seed, prompt and options give the same text; default: by chance.
        stop: Strings that end the answer; they are not part of it.
        schema: JSON schema (a dict or JSON text) that the answer must follow. The first schema
            of a process costs about two seconds; give strings a maxLength.
        regex: Regular expression that the whole answer must match (Rust's syntax: no look-around).
        choices: The answer is one of these strings.
        timeout_s: Stop after so many seconds and return what there is.
        cancel: Set this event from any thread to stop within one token.
    """

    max_new_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    repetition_penalty: float | None
    seed: int | None
    stop: Sequence[str] | None
    schema: Mapping[str, Any] | str | None
    regex: str | None
    choices: Sequence[str] | None
    timeout_s: float | None
    cancel: threading.Event | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Checked options, every default filled in; see `GenerateOptions`."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_k: int = 50
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    timeout_s: float | None = None
    cancel: threading.Event | None = None
    constraint: Constraint | None = None


def resolve_options(*layers: Mapping[str, Any]) -> Options:
    """Merge option layers, the later ones over the earlier, and check the outcome.

    Raises:
        GenerationError: With every bad option.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        given = {name: value for name, value in layer.items() if value is not None}
        if any(name in given for name in _CONSTRAINT_KEYS):
            merged = {name: merged[name] for name in merged if name not in _CONSTRAINT_KEYS}
        merged |= given
    known = tuple(GenerateOptions.__annotations__)
    problems = [
        f"{name}: no such option; {nearest(name, known)}" for name in merged if name not in known
    ]
    problems += [
        f"{name}: expected {expected}, got {merged[name]!r}"
        for name, (expected, is_valid) in _RULES.items()
        if name in merged and not is_valid(merged[name])
    ]
    constraint = read_constraint(
        schema=merged.get("schema"),
        regex=merged.get("regex"),
        choices=merged.get("choices"),
        problems=problems,
    )
    if problems:
        raise GenerationError(
            "the generation options are wrong",
            problems=problems,
            hint="Correct or leave out what is listed.",
        )
    plain = {f.name: merged[f.name] for f in fields(Options) if f.name in merged}
    plain["stop"] = tuple(plain.get("stop", ()))
    return Options(**plain, constraint=constraint)


def _is_count(value: object, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def _is_number(value: object, low: float, high: float = math.inf) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # Integers have no limit in Python: compared, never converted.
    return is_number and low <= value <= min(high, sys.float_info.max)  # type: ignore[operator]


def _is_stop(value: object) -> bool:
    is_list = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    return is_list and all(isinstance(item, str) and item for item in value)  # type: ignore[attr-defined]


_RULES: Final[Mapping[str, tuple[str, Callable[[Any], bool]]]] = {
    "max_new_tokens": ("a count of at least 1", lambda value: _is_count(value, 1)),
    "temperature": ("a number of at least 0", lambda value: _is_number(value, 0)),
    "top_k": ("a count, 0 for all tokens", lambda value: _is_count(value, 0)),
    "top_p": ("a number over 0, at most 1", lambda v: _is_number(v, 0, 1) and v > 0),
    "repetition_penalty": ("a number over 0", lambda v: _is_number(v, 0) and v > 0),
    "seed": ("a count of at least 0", lambda value: _is_count(value, 0)),
    "stop": ("a list of non-empty strings", _is_stop),
    "timeout_s": ("a number over 0", lambda v: _is_number(v, 0) and v > 0),
    "cancel": ("a threading.Event", lambda value: isinstance(value, threading.Event)),
}


class Sampler:
    """Picks tokens by chance: it moves the logits so that the greedy choice is the sample.

    Gumbel noise on the logits makes their maximum an exact sample of the softmax. So the native
    greedy step serves every temperature and, since it applies constraints after this, every
    constraint; and one key-value cache serves requests with different options.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._random = np.random.default_rng(options.seed)

    def adjust(self, logits: Logits, tokens: NDArray[np.int32]) -> Logits:
        """Return the logits whose maximum is the next token.

        Args:
            logits: One value for each token of the vocabulary.
            tokens: What was said so far, for the repetition penalty.
        """
        options = self._options
        logits = _penalize(logits, tokens, options.repetition_penalty)
        if options.temperature < _COLDEST:
            return logits
        logits = logits / np.float32(min(options.temperature, _LARGEST))
        candidates = _candidates(logits, options.top_k, options.top_p)
        noise = self._random.gumbel(size=len(candidates)).astype(np.float32)
        adjusted = logits - _RULED_OUT
        adjusted[candidates] = logits[candidates] + noise
        return adjusted


def sampler_for(options: Options) -> Sampler | None:
    """The sampler that the options need; None where the native greedy step is all."""
    is_plain = options.temperature < _COLDEST and options.repetition_penalty == 1
    return None if is_plain else Sampler(options)


def _penalize(logits: Logits, tokens: NDArray[np.int32], penalty: float) -> Logits:
    if penalty == 1 or len(tokens) == 0:
        return logits
    seen = np.unique(tokens)
    values = logits[seen].astype(np.float64)
    logits = logits.copy()
    with np.errstate(over="ignore"):  # a penalty may be as large or small as a float can be
        changed = np.where(values > 0, values / penalty, values * penalty)
    logits[seen] = np.clip(changed, -_LARGEST, _LARGEST)
    return logits


def _candidates(logits: Logits, top_k: int, top_p: float) -> NDArray[np.intp]:
    """The tokens to sample from, the likeliest first."""
    if 0 < top_k < len(logits):
        candidates = np.argpartition(-logits, top_k)[:top_k]
    else:
        candidates = np.arange(len(logits))
    if top_p < 1:
        candidates = candidates[np.argsort(-logits[candidates], kind="stable")]
        weights = np.exp(logits[candidates] - logits[candidates[0]])
        before = np.cumsum(weights) / weights.sum() - weights / weights.sum()
        candidates = candidates[before < top_p]
    return candidates
