"""The steps of the parity gate: what is compared with what, on which tokens."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgekit.building.agreement import Agreement, NllSum
from edgekit.building.dequantize import QuantizedWeight
from edgekit.building.parity_figures import ParityFigures
from edgekit.building.reference import TorchReference
from edgekit.building.sessions import TargetSessions, float32_logits, greedy_tokens
from edgekit.quantizing.blocks import Blocks
from edgekit.quantizing.weights import EMBEDDING, HEAD
from edgekit.targets import ParityBounds
from edgekit_runtime.contract import SocketContract

MIN_POSITIONS = 1024
_ROW_TOKENS = 256
# Enough to see whether an adapter moves the base at all; its own prompts come first.
EFFECT_POSITIONS = 256
# A weight that is farther off is another weight. Stock int4 moves weights by 9 % of their size;
# two layers that were swapped are 140 % apart.
_MAX_WEIGHT_ERROR_SHARE = 0.5
# float16 scales round what was quantized, by up to 0.07 steps at the end of an 8-bit range.
_MAX_STEPS_FROM_QUANTIZED = 0.1
# Of the largest logit: what float32 rounding may add up to.
_LAST_BITS = 1e-5
_TEXT = Path(__file__).with_name("parity_text.txt")

Rows = Sequence[Sequence[int]]


class Reference(Protocol):
    """What a built graph is compared with."""

    def logits(self, adapter: str, row: Sequence[int], /) -> Any:
        """Logits (positions, vocabulary) with an adapter, or without one for ``""``."""


def parity_text() -> str:
    """The text that ships to compare models on."""
    return _TEXT.read_text(encoding="utf-8")


def token_rows(encode: Callable[[str], Sequence[int]], prompts: Sequence[str]) -> list[list[int]]:
    """Token rows to compare on: the adapter's own prompts, then the shipped text.

    Args:
        encode: Text to tokens, with those that begin every text.
        prompts: The adapter's own.
    """
    rows = [list(encode(prompt)[:_ROW_TOKENS]) for prompt in prompts]
    text = list(encode(parity_text()))
    # Models that were trained with a token before every text compute nonsense without it.
    first = list(encode(""))
    first = first if text[: len(first)] == first else []
    text, length = text[len(first) :], _ROW_TOKENS - len(first)
    count = sum(len(row) for row in rows)
    # A second pass half a row later, where a tokenizer makes few tokens of the text.
    starts = [*range(0, len(text), length), *range(length // 2, len(text), length)]
    for start in starts:
        if count >= MIN_POSITIONS:
            break
        rows.append([*first, *text[start : start + length]])
        count += len(rows[-1])
    return [row for row in rows if len(row) > 1]


def compare_empty_sockets(
    plain: Path, socketed: Path, contract: SocketContract, rows: Rows, threads: int
) -> list[str]:
    """Step (a): a graph with empty sockets computes what the plain graph computes.

    Float32 graphs answer token for token the same, as a rule: where the plain graph adds a bias
    inside its matmul, the last bit may differ, and int8 activations make more of it. So answers
    that differ, and float16 graphs, which the CPU computes in part in float32, are compared by
    their logits in float32.

    Args:
        plain: The graph without sockets, in a folder that genai loads.
        socketed: The graph with sockets, in a folder that genai loads.
        contract: Its sockets.
        rows: Tokens to start from.
        threads: Intra-op threads.
    """
    starts = [list(row[:48]) for row in rows[:3]]
    both = (plain, socketed)
    if contract.dtype == "float32":
        answers = [greedy_tokens(graph.parent, graph.name, starts, threads) for graph in both]
        if answers[0] == answers[1]:
            return []
        starts = [start + answer for start, answer in zip(starts, answers[0], strict=True)]
    graphs = (float32_logits(graph, starts, threads) for graph in both)
    return [
        f"empty sockets differ from the plain graph on row {index}: logits by up to "
        f"{np.abs(got - expected).max():.3g}"
        for index, (expected, got) in enumerate(zip(*graphs, strict=True))
        if not np.allclose(expected, got, rtol=0, atol=_LAST_BITS * np.abs(expected).max())
    ]


def compare_weights(
    reference: TorchReference,
    weights: Mapping[str, QuantizedWeight],
    bounds: ParityBounds,
    quantized: Mapping[str, Blocks] | None = None,
) -> list[str]:
    """Step (d): how far each weight lies from its float original, and from what was quantized."""
    quantized = quantized or {}
    found = []
    if HEAD in quantized and np.array_equal(reference.weight(HEAD), reference.weight(EMBEDDING)):
        table = replace(quantized[HEAD], input_scale=1.0)
        quantized = {EMBEDDING: table} | dict(quantized)
    for name, weight in weights.items():
        original = reference.weight(name)
        share = float(np.linalg.norm(weight.values - original) / np.linalg.norm(original))
        if not share <= _MAX_WEIGHT_ERROR_SHARE:
            found.append(
                f"{name}: {share:.0%} of its size away from the float weight, "
                f"bound {_MAX_WEIGHT_ERROR_SHARE:.0%}"
            )
        if name in quantized:
            limit, what = _MAX_STEPS_FROM_QUANTIZED, "quantized"
            expected = quantized[name].values()
        elif bounds.max_weight_error_steps is not None:
            limit, what, expected = bounds.max_weight_error_steps, "float", original
        else:
            continue
        steps = np.maximum(np.abs(weight.steps), np.finfo(np.float32).tiny)
        error = np.abs(weight.values - expected) / steps
        row, column = np.unravel_index(error.argmax(), error.shape)
        if not (worst := float(error[row, column])) <= limit:
            found.append(
                f"{name}[{row}, {column}]: {worst:.3g} quantization steps from the {what} weight, "
                f"bound {limit:.3g}"
            )
    return found


def measure(
    reference: Reference,
    sessions: TargetSessions,
    name: str,
    onnx: Path | None,
    rows: Rows,
    nll_torch: float | None,
) -> ParityFigures:
    """Measure one adapter; without ``nll_torch`` it is that of the weights compared with."""
    exact, shipping, last, effect = Agreement(), Agreement(), Agreement(), Agreement()
    nll, nll_expected = NllSum(), NllSum()
    for row in rows:
        expected = reference.logits(name, row)
        shipped = sessions.score(row, onnx)
        exact.add(expected, sessions.exact(row, onnx))
        shipping.add(expected, shipped)
        last.add(shipped[-1:], sessions.last(row, onnx))
        nll.add(shipped, row)
        nll_expected.add(expected, row)
        if name and effect.n < EFFECT_POSITIONS:
            effect.add(expected, reference.logits("", row))
    return ParityFigures(
        positions=exact.n,
        exact_mean_kl=exact.mean_kl,
        exact_top1=exact.top1,
        shipping_mean_kl=shipping.mean_kl,
        shipping_top1=shipping.top1,
        last_logits_mean_kl=last.mean_kl,
        nll_torch=nll_expected.mean if nll_torch is None else nll_torch,
        nll_shipping=nll.mean,
        effect_kl=effect.mean_kl if name else None,
        placement=sessions.placement(),
    )


def mean_nll(reference: TorchReference, name: str, rows: Rows) -> float:
    """Mean negative log-likelihood of rows of tokens in torch, nats a token."""
    total = NllSum()
    for row in rows:
        total.add(reference.logits(name, row), row)
    return total.mean
