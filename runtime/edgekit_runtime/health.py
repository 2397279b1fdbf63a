"""Whether a bundle answers on this device as it did where it was built.

A bundle records for each target a short prompt and how likely the next tokens are, for the base
and for each adapter. Processors differ in the last digits, so the check allows a tolerance; what it
is to find is a runtime, driver or device on which the numbers are wrong, or nothing runs at all.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from edgekit_runtime.errors import BundleError, EdgekitRuntimeError
from edgekit_runtime.manifest import Fields
from edgekit_runtime.strict_json import loads

HEALTH_FILE: Final = "health.json"
# What is asked where a bundle records nothing.
PROMPT: Final = "The capital of France is"
N_TOP: Final = 8
# Nats, on the mean over the recorded tokens: int8 against float32 compute gave up to 0.35.
TOLERANCE: Final = 1.0
CHILD_SECONDS: Final = 600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class HealthRecord:
    """What a target answered where it was built.

    Attributes:
        prompt: Raw text.
        tokens: Its tokens.
        top: The likeliest next tokens.
        log_probs: Their log probabilities, in nats.
        tolerance: Largest mean difference of these log probabilities, in nats.
    """

    prompt: str
    tokens: tuple[int, ...]
    top: tuple[int, ...]
    log_probs: tuple[float, ...]
    tolerance: float

    @classmethod
    def of(cls, prompt: str, tokens: list[int], logits: NDArray[np.float32]) -> Self:
        """Record the logits (vocabulary,) after a prompt."""
        log_probs = log_softmax(logits)
        top = np.argsort(-log_probs, kind="stable")[:N_TOP]
        return cls(
            prompt=prompt,
            tokens=tuple(tokens),
            top=tuple(int(token) for token in top),
            log_probs=tuple(round(float(log_probs[token]), 3) for token in top),
            tolerance=TOLERANCE,
        )

    @classmethod
    def from_dict(cls, value: object, *, where: str) -> Self:
        """Read the JSON form.

        Raises:
            BundleError: If it is malformed.
        """
        problems: list[str] = []
        fields = Fields(value, where, problems)
        prompt = fields.text("prompt")
        tokens, top = (_numbers(fields, key, int) for key in ("tokens", "top"))
        log_probs = _numbers(fields, "log_probs", float)
        tolerance = fields.data.get("tolerance")
        sound = tokens and top and len(top) == len(log_probs) and min(*tokens, *top) >= 0
        if not sound or type(tolerance) is not float:
            problems.append(f"{where}: expected tokens, as many top as log_probs, and a tolerance")
        if problems:
            raise BundleError("a health record is malformed", problems=problems)
        return cls(
            prompt=prompt,
            tokens=tuple(int(token) for token in tokens),
            top=tuple(int(token) for token in top),
            log_probs=tuple(log_probs),
            tolerance=float(tolerance or 0),
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "prompt": self.prompt,
            "tokens": list(self.tokens),
            "top": list(self.top),
            "log_probs": list(self.log_probs),
            "tolerance": self.tolerance,
        }

    def problem(self, tokens: list[int], logits: NDArray[np.float32]) -> str | None:
        """Say what is wrong with an answer, or None."""
        if tuple(tokens) != self.tokens:
            return f"the prompt has other tokens: expected {list(self.tokens)}, got {tokens}"
        if max(self.top) >= len(logits):
            return f"expected at least {max(self.top) + 1} logits, got {len(logits)}"
        found = log_softmax(logits)[list(self.top)]
        difference = float(np.abs(found - np.array(self.log_probs)).mean())
        if difference <= self.tolerance:
            return None
        return f"expected log probabilities within {self.tolerance:g}, off by {difference:.3g}"


def health_problems(bundle: Path, target: str | None = None) -> list[str]:
    """Open a bundle, ask the base and every adapter, and name what is wrong.

    Args:
        bundle: Its directory.
        target: A target of it; the best one here by default.
    """
    from edgekit_runtime.bundle import Bundle

    problems: list[str] = []
    try:
        with (
            Bundle.open(bundle, verify="sizes", cache_dir=None) as opened,
            opened.engine(target) as engine,
        ):
            for adapter, record in _records(opened, engine.target):
                if problem := _ask(engine, adapter, record):
                    problems.append(f"{adapter or 'the base'}: {problem}")
    except EdgekitRuntimeError as err:
        problems += [err.what, *err.problems]
    return problems


def check_health(bundle: Path, target: str | None = None) -> list[str]:
    """Like `health_problems`, in a process of its own: what crashes there does no harm here."""
    if not sys.executable:
        return health_problems(bundle, target)
    command = [sys.executable, "-m", "edgekit_runtime.health", os.fspath(bundle), target or ""]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=CHILD_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return [f"no answer within {CHILD_SECONDS:.0f} seconds"]
    try:
        problems = json.loads(done.stdout.splitlines()[-1])
        return [str(problem) for problem in problems]
    except (ValueError, LookupError):
        told = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        return [f"the runtime ended with exit code {done.returncode}: {told[0]}"]


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Log probabilities of logits (vocabulary,)."""
    values = logits.astype(np.float64).reshape(-1)
    top = values.max()
    shifted: NDArray[np.float64] = values - top - np.log(np.exp(values - top).sum())
    return shifted


def _records(bundle: Any, target: str) -> Iterator[tuple[str | None, HealthRecord | None]]:
    """The base, and every adapter that was built for the target; each with its record."""
    manifest = bundle.manifest
    path = f"{manifest.targets[target].path}/{HEALTH_FILE}"
    is_recorded = any(file.path == path for file in manifest.files)
    yield None, _read(_parsed(bundle, path), path) if is_recorded else None
    for name, entry in sorted(manifest.adapters.items()):
        if target in entry.files:
            card = _parsed(bundle, entry.card)
            told = card.get("health") if isinstance(card, Mapping) else None
            record = told.get(target) if isinstance(told, Mapping) else None
            yield name, None if record is None else _read(record, entry.card)


def _parsed(bundle: Any, path: str) -> Any:
    try:
        return loads(bundle.read(path))
    except ValueError as err:
        raise BundleError(f"{path} is no JSON: {err}", hint="Build the bundle again.") from err


def _read(value: object, where: str) -> HealthRecord:
    return HealthRecord.from_dict(value, where=where)


def _ask(engine: Any, adapter: str | None, record: HealthRecord | None) -> str | None:
    """Run the prompt and compare; without a record, the logits have to be numbers."""
    tokens = engine.tokenize(record.prompt if record else PROMPT)
    logits = engine.next_logits(tokens, adapter=adapter)
    if not np.isfinite(logits).all():
        return "the logits are not all numbers"
    return record.problem(tokens, logits) if record else None


def _numbers(fields: Fields, key: str, kind: type) -> list[Any]:
    values = fields.data.get(key)
    allowed = (int,) if kind is int else (int, float)
    if not isinstance(values, list) or not all(type(value) in allowed for value in values):
        fields.problems.append(f"{fields.at(key)}: expected a list of numbers")
        return [0]
    return values


if __name__ == "__main__":
    _, _bundle, _target = sys.argv
    print(json.dumps(health_problems(Path(_bundle), _target or None)))
