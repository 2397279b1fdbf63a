"""The parity gate: what was built is compared with the PyTorch original before it may ship.

Four steps, per target and adapter, after the runtime's tokenizer and chat template were found to
say what the base's own say:

a. empty sockets equal the graph without sockets, token for token;
b. the conversion is exact: the graph with float32 compute and the adapter, against torch with
   that graph's dequantized weights and PEFT;
c. the compute that ships (int8 activations) against the same reference;
d. what quantization costs: every weight is the one that was quantized and lies within the bound
   of its float original, and the cost in nats per token against the weights that the adapter was
   trained on.

A breach fails the build; the bounds of (d) may be left open by the profile.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgekit.bases import Base
from edgekit.building.agreement import Agreement, NllSum
from edgekit.building.compiled_figures import CompiledFigures, rounded
from edgekit.building.dequantize import QuantizedWeight, quantized_weights
from edgekit.building.reference import TorchReference, torch_reference
from edgekit.building.sessions import TargetSessions, float32_logits, greedy_tokens, open_sessions
from edgekit.building.tokenizing import compare_tokenizing
from edgekit.building.weights import load_graph
from edgekit.errors import ParityError
from edgekit.quantizing.blocks import Blocks
from edgekit.quantizing.weights import EMBEDDING, HEAD
from edgekit.quiet import quiet_libraries
from edgekit.targets import ParityBounds
from edgekit_runtime.contract import SocketContract
from edgekit_runtime.locking import TurnLock
from edgekit_runtime.native import Graph
from edgekit_runtime.static_layout import LAYOUT_FILE

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


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterFiles:
    """An adapter in both forms: PEFT's original, and what was converted from it.

    Attributes:
        on_device_weights: It was trained on a target's weights, not on the float base.
    """

    peft: Path
    onnx: Path
    prompts: tuple[str, ...] = ()
    on_device_weights: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ParityFigures:
    """What the gate measured for one adapter (or for none).

    Attributes:
        positions: Token positions compared.
        exact_mean_kl: Step (b), nats: KL(torch || graph), mean over positions.
        exact_top1: Step (b): share of positions with the same most likely token.
        shipping_mean_kl: Step (c), nats.
        shipping_top1: Step (c).
        last_logits_mean_kl: The generating graph's last position against the scoring graph's.
        nll_torch: Mean negative log-likelihood in torch, nats: on the weights that the adapter was
            trained on, which are the float base's unless it was trained on a target's; None for
            an ONNX model that somebody else built, whose float weights are not known.
        nll_shipping: The same on the graph that ships.
        effect_kl: How far the adapter moves the base, nats; near zero, the gate sees nothing.
        placement: Execution provider to the nodes of the shipping graph that it computed.
        compiled: What the compiled graphs do, where the target has such.
    """

    positions: int
    exact_mean_kl: float
    exact_top1: float
    shipping_mean_kl: float
    shipping_top1: float
    last_logits_mean_kl: float
    nll_torch: float | None
    nll_shipping: float
    effect_kl: float | None
    placement: Mapping[str, int] = field(default_factory=dict)
    compiled: CompiledFigures | None = None

    @property
    def nll_increase(self) -> float | None:
        """Step (d): nats per token that quantization costs; None where that cannot be known."""
        return None if self.nll_torch is None else self.nll_shipping - self.nll_torch

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, rounded to four significant digits."""
        values = rounded(asdict(self) | {"nll_increase": self.nll_increase})
        del values["compiled"]
        return values if self.compiled is None else values | {"compiled": self.compiled.to_dict()}


def check_parity(
    target: Path,
    base: Base,
    contract: SocketContract,
    adapters: Mapping[str, AdapterFiles],
    bounds: ParityBounds,
    *,
    quantized: Mapping[str, Blocks] | None = None,
    check_base: bool = True,
    provider: str = "CPUExecutionProvider",
    threads: int | None = None,
    on_message: Callable[[str], None] = lambda _: None,
) -> dict[str, ParityFigures]:
    """Run the gate on a target directory; nothing is written to it.

    Args:
        target: Directory with base.onnx, model.onnx and score.onnx.
        base: The float base that it was built from.
        contract: The target's sockets.
        adapters: By name; the base without an adapter is measured under ``""``.
        bounds: What the profile demands.
        quantized: Weights that were put into the graph; it must still hold them.
        check_base: Also measure the base without an adapter.
        provider: Execution provider that computes the graphs that ship.
        threads: Intra-op threads of every session; equal, since int8 rounding depends on it.
        on_message: Called with a line of progress.

    Returns:
        Figures by adapter name.

    Raises:
        ParityError: With every breach and its figures.
    """
    from transformers import AutoTokenizer

    threads = threads or os.cpu_count() or 1
    if (target / LAYOUT_FILE).is_file():
        from edgekit.building.qnn.gate import check_static_parity

        return check_static_parity(
            target, base, contract, adapters, bounds, check_base, threads, on_message
        )
    figures = {}
    with quiet_libraries():
        encode = AutoTokenizer.from_pretrained(base.path).encode
        tokens = {name: token_rows(encode, files.prompts) for name, files in adapters.items()}
        if check_base:
            tokens = {"": token_rows(encode, ())} | tokens
        on_message("parity: the tokenizer and the chat template")
        prompts = {prompt: None for files in adapters.values() for prompt in files.prompts}
        graph = Graph(folder=target, filename="base.onnx", threads=1, lock=TurnLock())
        breaches = compare_tokenizing(graph.new_tokenizer(), base, [parity_text(), *prompts])
        on_message("parity: empty sockets against the graph without sockets")
        breaches += compare_empty_sockets(
            target / "base.onnx", target / "model.onnx", contract, token_rows(encode, ()), threads
        )
        peft = {name: files.peft for name, files in adapters.items()}
        probe = token_rows(encode, ())[0][:4]
        sessions = open_sessions(target, threads, provider, probe, on_message)
        with torch_reference(base, peft) as reference:
            on_message("parity: the float model, for the cost of quantization")
            on_device = {name for name, files in adapters.items() if files.on_device_weights}
            nll_torch = {
                name: mean_nll(reference, name, rows)
                for name, rows in tokens.items()
                if name not in on_device
            }
            weights = quantized_weights(load_graph(target / "score.onnx"), contract)
            breaches += compare_weights(reference, weights, bounds, quantized)
            reference.replace_weights({name: weight.values for name, weight in weights.items()})
            if contract.dtype == "float16":
                reference.round_to_float16(keep=weights)
            for name, rows in tokens.items():
                on_message(f"parity: {f'adapter {name!r}' if name else 'the base'}")
                onnx = adapters[name].onnx if name else None
                figures[name] = measure(reference, sessions, name, onnx, rows, nll_torch.get(name))
    raise_breaches(breaches, figures, bounds)
    return figures


def raise_breaches(
    found: Sequence[str],
    figures: Mapping[str, ParityFigures],
    bounds: ParityBounds,
    original: str = "the PyTorch original",
) -> None:
    """Raise a ParityError if anything was found, or figures break their bounds."""
    breaches = [*found]
    for name, figure in figures.items():
        breaches += breaches_of(name, figure, bounds)
    if breaches:
        raise ParityError(
            f"the parity gate failed: the built target does not agree with {original}",
            problems=breaches,
            hint="Nothing was shipped. `--no-parity` builds it all the same, marked as unchecked.",
        )


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
        quantized = {EMBEDDING: quantized[HEAD]} | dict(quantized)
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


def breaches_of(name: str, figures: ParityFigures, bounds: ParityBounds) -> list[str]:
    """Say every bound that an adapter's figures break (``""`` is the base)."""
    who = f"adapter '{name}'" if name else "base"
    found = []
    # Written as `not a <= b`, so that NaN is a breach.
    if not figures.exact_mean_kl < bounds.exact_max_mean_kl:
        found.append(
            f"{who}: conversion is not exact: mean KL {figures.exact_mean_kl:.3g}, "
            f"bound {bounds.exact_max_mean_kl:.3g}"
        )
    if not figures.exact_top1 >= bounds.exact_min_top1:
        found.append(
            f"{who}: conversion is not exact: top-1 {figures.exact_top1:.2%}, "
            f"bound {bounds.exact_min_top1:.2%}"
        )
    for what, value in (
        ("shipping compute", figures.shipping_mean_kl),
        ("generating graph against scoring graph", figures.last_logits_mean_kl),
    ):
        if not value <= bounds.shipping_max_mean_kl:
            found.append(
                f"{who}: {what}: mean KL {value:.3g}, bound {bounds.shipping_max_mean_kl:.3g}"
            )
    if (compiled := figures.compiled) is not None:
        if not compiled.top1 >= bounds.compiled_min_top1:
            found.append(
                f"{who}: compiled graphs: top-1 {compiled.top1:.2%} against the uncompiled ones, "
                f"bound {bounds.compiled_min_top1:.2%}"
            )
        if not compiled.mean_kl <= bounds.shipping_max_mean_kl:
            found.append(
                f"{who}: compiled graphs: mean KL {compiled.mean_kl:.3g} against the uncompiled "
                f"ones, bound {bounds.shipping_max_mean_kl:.3g}"
            )
    limit = bounds.max_nll_increase
    cost = figures.nll_increase
    if limit is not None and cost is not None and not cost <= limit:
        found.append(f"{who}: quantization costs {cost:+.3f} nats a token, bound {limit:+.3f}")
    return found


def mean_nll(reference: TorchReference, name: str, rows: Rows) -> float:
    """Mean negative log-likelihood of rows of tokens in torch, nats a token."""
    total = NllSum()
    for row in rows:
        total.add(reference.logits(name, row), row)
    return total.mean
