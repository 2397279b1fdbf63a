"""What quantization costs: a target's own graph against the float base, on a text."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import exp
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bases import Base
from edgekit.building.reference import torch_reference
from edgekit.building.sessions import TargetSessions
from edgekit.errors import RecipeError
from edgekit.quantizing.measured_rows import RowSums, add_row, key_of, read_rows, rows_file
from edgekit.quiet import quiet_libraries

_ROW_TOKENS = 512
_MIN_ROWS = 8
_CHUNK_TOKENS = 128
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

    Every row that was measured stays in the user's cache, so that what was stopped goes on there.

    Args:
        base: The float base.
        targets: Directories with score.onnx, by name.
        rows: Tokens to compare on.
        threads: Of ONNX Runtime's sessions.
        on_message: Called with a line of progress.

    Returns:
        Figures by name.
    """
    files = {name: rows_file(base, path) for name, path in targets.items()}
    known = {name: read_rows(file) for name, file in files.items()}
    keys = [key_of(row) for row in rows]
    missing = {name: path for name, path in targets.items() if set(keys) - set(known[name])}
    if missing:
        with quiet_libraries(), torch_reference(base, {}) as reference:
            sessions = {name: TargetSessions(path, threads) for name, path in missing.items()}
            for index, (key, row) in enumerate(zip(keys, rows, strict=True)):
                left = [name for name in sessions if key not in known[name]]
                if not left:
                    continue
                on_message(f"comparing with the float base: row {index + 1} of {len(rows)}")
                expected = reference.logits("", row)
                actual = {name: sessions[name].score(row, None) for name in left}
                for name, sums in _compare_row(expected, actual, row).items():
                    add_row(files[name], row, sums)
                    known[name][key] = sums
    return {name: _figures([known[name][key] for key in keys], rows) for name in targets}


def _compare_row(
    expected: Any, actual: Mapping[str, Any], row: Sequence[int]
) -> dict[str, RowSums]:
    """Compare logits (tokens, vocabulary) in pieces: vocabularies are large."""
    import torch

    following = torch.tensor([*row[1:], 0])[:, None]
    has_next = (torch.arange(len(row)) < len(row) - 1).double()
    sums = {name: np.zeros(4) for name in actual}
    for start in range(0, len(row), _CHUNK_TOKENS):
        part = slice(start, start + _CHUNK_TOKENS)
        log_p = expected[part].log_softmax(-1)
        p, best = log_p.exp(), log_p.argmax(-1)
        nll_float = -log_p.gather(1, following[part])[:, 0].double() @ has_next[part]
        for name, logits in actual.items():
            log_q = torch.from_numpy(logits[part]).log_softmax(-1)
            nll = -log_q.gather(1, following[part])[:, 0].double() @ has_next[part]
            same = (log_q.argmax(-1) == best).sum()
            kl = log_q.sub_(log_p).mul_(p).sum(-1).double().sum().neg()
            sums[name] += [float(value) for value in (nll_float, nll, kl, same)]
    return {
        name: RowSums(nll_float=float(a), nll=float(b), kl=float(kl), same=int(same))
        for name, (a, b, kl, same) in sums.items()
    }


def _figures(by_row: Sequence[RowSums], rows: Rows) -> QuantizationFigures:
    n_tokens, n_following = sum(map(len, rows)), sum(len(row) - 1 for row in rows)
    increases = [
        (sums.nll - sums.nll_float) / (len(row) - 1) for sums, row in zip(by_row, rows, strict=True)
    ]
    return QuantizationFigures(
        n_tokens=n_tokens,
        nll_float=sum(sums.nll_float for sums in by_row) / n_following,
        nll=sum(sums.nll for sums in by_row) / n_following,
        nll_increase_se=_standard_error(increases),
        mean_kl=sum(sums.kl for sums in by_row) / n_tokens,
        top1=sum(sums.same for sums in by_row) / n_tokens,
    )


def _standard_error(values: Sequence[float]) -> float | None:
    """Of the mean; None of one value."""
    if len(values) < 2:
        return None
    return float(np.std(values, ddof=1) / len(values) ** 0.5)
