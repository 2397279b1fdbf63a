"""The parity gate: what was built is compared with the PyTorch original before it may ship.

Four steps, per target and adapter:

a. empty sockets equal the graph without sockets, token for token;
b. the conversion is exact: the graph with float32 compute and the adapter, against torch with
   that graph's dequantized weights and PEFT;
c. the compute that ships (int8 activations) against the same reference;
d. what quantization costs against the float base, in nats per token.

A breach of (a) to (c) fails the build; (d) fails where a bound is set.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekit.bases import Base
from edgekit.building.dequantize import dequantized_weights
from edgekit.building.passes import set_accuracy_level
from edgekit.errors import ParityError
from edgekit.targets import ParityBounds
from edgekit_runtime.contract import SocketContract

MIN_POSITIONS = 1024
_ROW_TOKENS = 256
_GREEDY_TOKENS = 32
_TEXT = Path(__file__).with_name("parity_text.txt")

Rows = Sequence[Sequence[int]]


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterFiles:
    """An adapter in both forms: PEFT's original, and what was converted from it."""

    peft: Path
    onnx: Path
    prompts: tuple[str, ...] = ()


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
        nll_float: Mean negative log-likelihood of the float base (with the adapter), nats.
        nll_shipping: The same on the graph that ships.
        effect_kl: How far the adapter moves the base, nats; near zero, the gate sees nothing.
    """

    positions: int
    exact_mean_kl: float
    exact_top1: float
    shipping_mean_kl: float
    shipping_top1: float
    last_logits_mean_kl: float
    nll_float: float
    nll_shipping: float
    effect_kl: float | None

    @property
    def nll_increase(self) -> float:
        """Step (d): nats per token that quantization costs."""
        return self.nll_shipping - self.nll_float

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, rounded to four significant digits."""
        values = asdict(self) | {"nll_increase": self.nll_increase}
        return {
            key: float(f"{value:.4g}") if isinstance(value, float) else value
            for key, value in values.items()
        }


def check_parity(
    target: Path,
    base: Base,
    contract: SocketContract,
    adapters: Mapping[str, AdapterFiles],
    bounds: ParityBounds,
    *,
    check_base: bool = True,
    threads: int | None = None,
    on_message: Callable[[str], None] = lambda _: None,
) -> dict[str, ParityFigures]:
    """Run the gate on a target directory.

    Args:
        target: Directory with base.onnx, model.onnx and score.onnx.
        base: The float base that it was built from.
        contract: The target's sockets.
        adapters: By name; the base without an adapter is measured under ``""``.
        bounds: What the profile demands.
        check_base: Also measure the base without an adapter.
        threads: Intra-op threads of every session; equal, since int8 rounding depends on it.
        on_message: Called with a line of progress.

    Returns:
        Figures by adapter name.

    Raises:
        ParityError: With every breach and its figures.
    """
    threads = threads or os.cpu_count() or 1
    tokens = {name: _rows(base, files.prompts) for name, files in adapters.items()}
    if check_base:
        tokens = {"": _rows(base, ())} | tokens
    on_message("parity: empty sockets against the graph without sockets")
    breaches = _compare_empty_sockets(target, _rows(base, ()), threads)
    with _torch_reference(base, adapters) as reference, _graphs(target, threads) as graphs:
        on_message("parity: the float model, for the cost of quantization")
        nll_float = {name: _nll(reference.logits, name, rows) for name, rows in tokens.items()}
        reference.dequantize(target / "score.onnx", contract)
        figures = {}
        for name, rows in tokens.items():
            on_message(f"parity: {f'adapter {name!r}' if name else 'the base'}")
            onnx = adapters[name].onnx if name else None
            figures[name] = _measure(reference, graphs, name, onnx, rows, nll_float[name])
    for name, figure in figures.items():
        breaches += _breaches(name, figure, bounds)
    if breaches:
        raise ParityError(
            "the parity gate failed: the built target does not agree with the PyTorch original",
            problems=breaches,
            hint="Nothing was shipped. `--no-parity` builds it all the same, marked as unchecked.",
        )
    return figures


def _rows(base: Base, prompts: Sequence[str]) -> list[list[int]]:
    """Token rows to compare on: the adapter's own prompts, then the shipped text."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base.path)
    rows = [tokenizer.encode(prompt)[:_ROW_TOKENS] for prompt in prompts]
    text = tokenizer.encode(_TEXT.read_text(encoding="utf-8"))
    count = sum(len(row) for row in rows)
    # A second pass half a row later, where a tokenizer makes few tokens of the text.
    starts = [*range(0, len(text), _ROW_TOKENS), *range(_ROW_TOKENS // 2, len(text), _ROW_TOKENS)]
    for start in starts:
        if count >= MIN_POSITIONS:
            break
        rows.append(text[start : start + _ROW_TOKENS])
        count += len(rows[-1])
    return [row for row in rows if len(row) > 1]


def _measure(
    reference: "_TorchReference",
    graphs: "_Graphs",
    name: str,
    onnx: Path | None,
    rows: Rows,
    nll_float: float,
) -> ParityFigures:
    exact, shipping, last, effect = _Agreement(), _Agreement(), _Agreement(), _Agreement()
    nll = _NllSum()
    for row in rows:
        expected = reference.logits(name, row)
        shipped = graphs.score(row, onnx)
        exact.add(expected, graphs.exact(row, onnx))
        shipping.add(expected, shipped)
        last.add(shipped[-1:], graphs.last(row, onnx))
        nll.add(shipped, row)
        if name:
            effect.add(expected, reference.logits("", row))
    return ParityFigures(
        positions=exact.n,
        exact_mean_kl=exact.mean_kl,
        exact_top1=exact.top1,
        shipping_mean_kl=shipping.mean_kl,
        shipping_top1=shipping.top1,
        last_logits_mean_kl=last.mean_kl,
        nll_float=nll_float,
        nll_shipping=nll.mean,
        effect_kl=effect.mean_kl if name else None,
    )


def _breaches(name: str, figures: ParityFigures, bounds: ParityBounds) -> list[str]:
    who = f"adapter '{name}'" if name else "base"
    found = []
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
    limit = bounds.max_nll_increase
    if limit is not None and not figures.nll_increase <= limit:
        found.append(
            f"{who}: quantization costs {figures.nll_increase:+.3f} nats a token, "
            f"bound {limit:+.3f}"
        )
    return found


class _Agreement:
    """Mean KL(expected || actual) and top-1 agreement over rows of logits."""

    def __init__(self) -> None:
        self.n = 0
        self._kl = 0.0
        self._same = 0

    def add(self, expected: Any, actual: Any) -> None:
        import torch

        p = torch.as_tensor(expected).double().log_softmax(-1)
        q = torch.as_tensor(actual).double().log_softmax(-1)
        self.n += p.shape[0]
        self._kl += float((p.exp() * (p - q)).sum())
        self._same += int((p.argmax(-1) == q.argmax(-1)).sum())

    @property
    def mean_kl(self) -> float:
        return self._kl / self.n

    @property
    def top1(self) -> float:
        return self._same / self.n


class _NllSum:
    """Mean negative log-likelihood of the next token."""

    def __init__(self) -> None:
        self._nll = 0.0
        self._n = 0

    def add(self, logits: Any, row: Sequence[int]) -> None:
        import torch

        targets = torch.tensor(row[1:])
        scores = torch.as_tensor(logits)[:-1].double()
        self._nll += float(torch.nn.functional.cross_entropy(scores, targets, reduction="sum"))
        self._n += len(targets)

    @property
    def mean(self) -> float:
        return self._nll / self._n


def _nll(logits: Callable[[str, Sequence[int]], Any], name: str, rows: Rows) -> float:
    total = _NllSum()
    for row in rows:
        total.add(logits(name, row), row)
    return total.mean


class _TorchReference:
    """The PyTorch original with every adapter attached through PEFT."""

    def __init__(self, model: Any, slots: Mapping[str, str]) -> None:
        self._model = model
        self._slots = slots

    def logits(self, adapter: str, row: Sequence[int]) -> Any:
        """Logits (positions, vocabulary) with an adapter, or without one for ``""``."""
        import torch

        ids = torch.tensor([list(row)])
        with torch.inference_mode():
            if not self._slots:
                return self._model(ids).logits[0]
            if not adapter:
                with self._model.disable_adapter():
                    return self._model(ids).logits[0]
            self._model.set_adapter(self._slots[adapter])
            return self._model(ids).logits[0]

    def dequantize(self, graph: Path, contract: SocketContract) -> None:
        """Replace the base's weights by those that the graph computes with."""
        import torch

        parameters = {
            key.removeprefix("base_model.model.").replace(".base_layer.", "."): parameter
            for key, parameter in self._model.named_parameters(remove_duplicate=False)
        }
        weights = dequantized_weights(ir.load(graph), contract)
        with torch.no_grad():
            for key, weight in weights.items():
                parameters[key].copy_(torch.from_numpy(weight))


@contextmanager
def _torch_reference(base: Base, adapters: Mapping[str, AdapterFiles]) -> Iterator[_TorchReference]:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32).eval()
    slots = {name: f"adapter{index}" for index, name in enumerate(adapters)}
    for name, slot in slots.items():
        path = os.fspath(adapters[name].peft)
        if isinstance(model, PeftModel):
            model.load_adapter(path, adapter_name=slot)
        else:
            model = PeftModel.from_pretrained(model, path, adapter_name=slot)
    yield _TorchReference(model.eval(), slots)


class _Graphs:
    """ONNX Runtime sessions of a target: as it ships, and with float32 compute."""

    def __init__(self, score: Any, exact: Any, model: Any, head_size: int) -> None:
        self._score, self._exact, self._model = score, exact, model
        self._head_size = head_size
        self._adapters: dict[Path, Any] = {}

    def score(self, row: Sequence[int], adapter: Path | None) -> npt.NDArray[np.float32]:
        """Logits (positions, vocabulary) as shipped."""
        return self._run(self._score, row, adapter)

    def exact(self, row: Sequence[int], adapter: Path | None) -> npt.NDArray[np.float32]:
        """Logits (positions, vocabulary) with float32 compute."""
        return self._run(self._exact, row, adapter)

    def last(self, row: Sequence[int], adapter: Path | None) -> npt.NDArray[np.float32]:
        """Logits (1, vocabulary) of the graph that generates."""
        return self._run(self._model, row, adapter)

    def _run(
        self, session: Any, row: Sequence[int], adapter: Path | None
    ) -> npt.NDArray[np.float32]:
        import onnxruntime as ort

        options = ort.RunOptions()
        if adapter is not None:
            if adapter not in self._adapters:
                self._adapters[adapter] = ort.LoraAdapter()
                self._adapters[adapter].Load(os.fspath(adapter))
            options.add_active_adapter(self._adapters[adapter])
        (logits,) = session.run(["logits"], _feeds(session, row, self._head_size), options)
        return np.asarray(logits[0], np.float32)


def _feeds(session: Any, row: Sequence[int], head_size: int) -> dict[str, npt.NDArray[Any]]:
    """Inputs of a first pass: token ids, mask, positions, and an empty key-value cache."""
    n = len(row)
    feeds: dict[str, npt.NDArray[Any]] = {}
    for value in session.get_inputs():
        if value.name == "input_ids":
            feeds[value.name] = np.array([row], np.int64)
        elif value.name == "attention_mask":
            feeds[value.name] = np.ones((1, n), np.int64)
        elif value.name == "position_ids":
            feeds[value.name] = np.arange(n, dtype=np.int64)[None]
        elif value.name.startswith("past_key_values."):
            dtype = np.float16 if value.type == "tensor(float16)" else np.float32
            feeds[value.name] = np.zeros((1, value.shape[1], 0, head_size), dtype)
    return feeds


@contextmanager
def _graphs(target: Path, threads: int) -> Iterator[_Graphs]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    exact = target / ".parity-exact.onnx"
    try:
        model = ir.load(target / "score.onnx")
        set_accuracy_level(model, 1)
        ir.save(model, exact)
        score, exact_score, last = (
            ort.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
            for path in (target / "score.onnx", exact, target / "model.onnx")
        )
        config = json.loads((target / "genai_config.json").read_text(encoding="utf-8"))
        yield _Graphs(score, exact_score, last, config["model"]["decoder"]["head_size"])
    finally:
        exact.unlink(missing_ok=True)


def _compare_empty_sockets(target: Path, rows: Rows, threads: int) -> list[str]:
    """Step (a): greedy tokens of the graph with empty sockets equal those of the plain graph."""
    starts = [list(row[:48]) for row in rows[:3]]
    plain = _greedy(target, "base.onnx", starts, threads)
    socketed = _greedy(target, "model.onnx", starts, threads)
    return [
        f"empty sockets differ from the plain graph on row {index}: {got} instead of {expected}"
        for index, (expected, got) in enumerate(zip(plain, socketed, strict=True))
        if expected != got
    ]


def _greedy(target: Path, graph: str, starts: Rows, threads: int) -> list[list[int]]:
    import onnxruntime_genai as og

    config = og.Config(os.fspath(target))
    config.overlay(
        f'{{"model": {{"decoder": {{"filename": "{graph}", '
        f'"session_options": {{"intra_op_num_threads": {threads}}}}}}}}}'
    )
    model = og.Model(config)
    answers = []
    for start in starts:
        params = og.GeneratorParams(model)
        params.set_search_options(max_length=len(start) + _GREEDY_TOKENS, do_sample=False)
        generator = og.Generator(model, params)
        generator.append_tokens(np.array(start, np.int32))
        while not generator.is_done():
            generator.generate_next_token()
        answers.append([int(token) for token in generator.get_sequence(0)[len(start) :]])
    return answers
