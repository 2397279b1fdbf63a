"""What quantization costs: a target's own graph against the float base, on a text."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import exp
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bases import Base
from edgekit.building.agreement import Agreement, NllSum
from edgekit.building.reference import torch_reference
from edgekit.building.sessions import TargetSessions
from edgekit.errors import RecipeError
from edgekit.quiet import quiet_libraries

_ROW_TOKENS = 512
_MIN_ROWS = 8
_OWN_TEXT = Path(__file__).parent.parent / "building" / "parity_text.txt"

Rows = Sequence[Sequence[int]]


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizationFigures:
    """A quantized base against its float self.

    Attributes:
        n_tokens: Tokens compared.
        nll_float: Mean negative log-likelihood of the next token, nats; e to it is perplexity.
        nll: The same of the graph that ships.
        nll_increase_se: Standard error of the difference, from the differences of the rows; None
            for a single row, which says nothing about it.
        mean_kl: KL(float || graph), nats a token.
        top1: Share of positions with the same most likely token.
    """

    n_tokens: int
    nll_float: float
    nll: float
    nll_increase_se: float | None
    mean_kl: float
    top1: float

    @property
    def nll_increase(self) -> float:
        """Nats a token that quantization costs on this text."""
        return self.nll - self.nll_float

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, rounded to four significant digits."""
        values = asdict(self) | {
            "nll_increase": self.nll_increase,
            "perplexity_float": exp(self.nll_float),
            "perplexity": exp(self.nll),
        }
        return {
            key: float(f"{value:.4g}") if isinstance(value, float) else value
            for key, value in values.items()
        }


def text_rows(base: Base, text: Path | None, n_tokens: int | None) -> list[list[int]]:
    """Rows of a text, spread evenly over it.

    Args:
        base: Where the tokenizer is.
        text: UTF-8 file; the gate's own short text by default.
        n_tokens: About as many, in rows of 512; all by default.

    Raises:
        RecipeError: If the file cannot be read or is too short.
    """
    from transformers import AutoTokenizer

    try:
        content = (text or _OWN_TEXT).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise RecipeError(f"text '{text}' cannot be read: {err}") from err
    tokenizer = AutoTokenizer.from_pretrained(base.path)
    first = tokenizer("").input_ids[:1]  # what the tokenizer puts before every text
    tokens = tokenizer.encode(content, add_special_tokens=False)
    # A short text makes shorter rows: their differences give the standard error.
    length = min(_ROW_TOKENS, len(tokens) // _MIN_ROWS) - len(first)
    if length < 1:
        raise RecipeError(f"text '{text}' has {len(tokens)} tokens, too few to compare on")
    available = len(tokens) // length
    wanted = (
        available if n_tokens is None else min(available, max(1, n_tokens // (length + len(first))))
    )
    starts = [index * available // wanted * length for index in range(wanted)]
    return [first + tokens[start : start + length] for start in starts]


def compare_with_float(
    base: Base,
    targets: Mapping[str, Path],
    rows: Rows,
    *,
    threads: int,
    on_message: Callable[[str], None] = lambda _: None,
) -> dict[str, QuantizationFigures]:
    """Measure built targets of one base; nothing is written to them.

    Args:
        base: The float base.
        targets: Directories with score.onnx, by name.
        rows: Tokens to compare on.
        threads: Of ONNX Runtime's sessions.
        on_message: Called with a line of progress.

    Returns:
        Figures by name.
    """
    with quiet_libraries(), torch_reference(base, {}) as reference:
        sessions = {name: TargetSessions(path, threads) for name, path in targets.items()}
        agreements = {name: Agreement() for name in targets}
        increases: dict[str, list[float]] = {name: [] for name in targets}
        floats, n_targets = [], sum(len(row) - 1 for row in rows)
        for index, row in enumerate(rows):
            on_message(f"comparing with the float base: row {index + 1} of {len(rows)}")
            expected = reference.logits("", row)
            floats.append(_nll(expected, row))
            for name, session in sessions.items():
                actual = session.score(row, None)
                agreements[name].add(expected, actual)
                increases[name].append(_nll(actual, row) - floats[-1])
    weights = np.array([len(row) - 1 for row in rows]) / n_targets
    nll_float = float(weights @ np.array(floats))
    return {
        name: QuantizationFigures(
            n_tokens=agreements[name].n,
            nll_float=nll_float,
            nll=nll_float + float(weights @ np.array(by_row)),
            nll_increase_se=_standard_error(by_row),
            mean_kl=agreements[name].mean_kl,
            top1=agreements[name].top1,
        )
        for name, by_row in increases.items()
    }


def _nll(logits: Any, row: Sequence[int]) -> float:
    total = NllSum()
    total.add(logits, row)
    return total.mean


def _standard_error(values: Sequence[float]) -> float | None:
    """Of the mean; None of one value."""
    if len(values) < 2:
        return None
    return float(np.std(values, ddof=1) / len(values) ** 0.5)
