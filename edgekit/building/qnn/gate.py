"""The parity gate of static graphs: torch, then the graphs as exported, then as compiled.

Three comparisons, with and without each adapter, through the runtime's own host code:

b. the conversion is exact: the graphs with float32 compute against torch with their dequantized
   weights and PEFT;
c. shipping compute: the float16 graphs on the CPU provider against the same;
e. compiled: what ships, on the NPU or its simulator, against those float16 graphs (and the float
   model, which is reported). A simulator takes seconds a token, so this step has fewer positions.

What quantization costs (d) is measured on the float16 graphs. Empty sockets need no step of their
own: the base is measured through them.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekit.adapters.convert import write_onnx_adapter
from edgekit.bases import Base
from edgekit.building.agreement import Agreement, NllSum
from edgekit.building.dequantize import QuantizedWeight, quantized_weights
from edgekit.building.parity import (
    EFFECT_POSITIONS,
    AdapterFiles,
    CompiledFigures,
    ParityFigures,
    compare_weights,
    mean_nll,
    parity_text,
    raise_breaches,
    token_rows,
)
from edgekit.building.qnn.export import BARE, EXACT, GRAPHS, export_static
from edgekit.building.qnn.target_dir import stored_profile
from edgekit.building.reference import TorchReference, torch_reference
from edgekit.building.tokenizing import compare_tokenizing
from edgekit.quiet import quiet_libraries
from edgekit.targets import ParityBounds
from edgekit_runtime.adapter_file import AdapterFile
from edgekit_runtime.contract import SocketContract
from edgekit_runtime.locking import TurnLock
from edgekit_runtime.providers import QNN
from edgekit_runtime.static_graph import StaticAdapters, StaticGraph

_CPU = "CPUExecutionProvider"
# Tokens of a row that go one by one through the decode graph.
_DECODED = 2

Rows = Sequence[Sequence[int]]
Logits = npt.NDArray[np.float32]


class _Runner:
    """A target's graphs and its adapters, run on rows of tokens."""

    def __init__(self, graph: StaticGraph, adapters: Mapping[str, Path]) -> None:
        self._graph = graph
        self._adapters = StaticAdapters()
        for name, path in adapters.items():
            self._adapters.load(str(path), name)

    def logits(self, adapter: str, row: Sequence[int], n_decoded: int = _DECODED) -> Logits:
        """Logits (positions, vocabulary), the last of them from the decode graph."""
        generator = self._graph.new_generator(max_length=len(row))
        if adapter:
            generator.set_active_adapter(self._adapters, adapter)
        split = max(1, len(row) - n_decoded)
        generator.append_tokens(row[:split])
        parts = [generator.get_output("logits")[0]]
        for token in row[split:]:
            generator.append_tokens([token])
            parts.append(generator.get_output("logits")[0])
        return np.concatenate(parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Runners:
    """The same model three times; ``compiled`` only where the target is."""

    exact: _Runner
    shipping: _Runner
    compiled: _Runner | None


def check_static_parity(
    target: Path,
    base: Base,
    contract: SocketContract,
    adapters: Mapping[str, AdapterFiles],
    bounds: ParityBounds,
    check_base: bool,
    threads: int,
    on_message: Callable[[str], None],
) -> dict[str, ParityFigures]:
    """Run the gate on a directory of static graphs; see `edgekit.building.parity.check_parity`."""
    with quiet_libraries():
        profile = stored_profile(target)
        source = export_static(base, profile, on_message=on_message)
        longest = profile.context_length
        tokens = {name: _fit(token_rows(base, a.prompts), longest) for name, a in adapters.items()}
        if check_base:
            tokens = {"": _fit(token_rows(base, ()), longest)} | tokens
        peft = {name: files.peft for name, files in adapters.items()}
        with (
            _runners(target, source, profile.execution_provider, adapters, contract, threads) as (
                runners,
                tokenizer,
            ),
            torch_reference(base, peft) as reference,
        ):
            on_message("parity: the tokenizer and the chat template")
            prompts = [prompt for files in adapters.values() for prompt in files.prompts]
            breaches = compare_tokenizing(tokenizer, base, [parity_text(), *dict.fromkeys(prompts)])
            on_message("parity: the float model, for the cost of quantization")
            few = {name: _few(rows, bounds, longest) for name, rows in tokens.items()}
            in_float = {
                name: [np.asarray(reference.logits(name, row)) for row in rows]
                for name, rows in (few.items() if runners.compiled else ())
            }
            nll = {
                name: mean_nll(reference, name, rows)
                for name, rows in tokens.items()
                if not (name and adapters[name].on_device_weights)
            }
            weights = _weights(source, contract)
            breaches += compare_weights(reference, weights, bounds)
            reference.replace_weights({name: weight.values for name, weight in weights.items()})
            figures = {}
            for name, rows in tokens.items():
                who = f"adapter {name!r}" if name else "the base"
                on_message(f"parity: {who}")
                compiled = None
                if runners.compiled is not None:
                    compiled = _compare_compiled(
                        runners,
                        name,
                        few[name],
                        in_float[name],
                        lambda m, w=who: on_message(f"parity: {w}: {m}"),
                    )
                figures[name] = _measure(reference, runners, name, rows, nll.get(name), compiled)
    raise_breaches(breaches, figures, bounds)
    return figures


def _fit(rows: Rows, longest: int) -> list[list[int]]:
    """Rows cut to what the context holds."""
    parts = [list(row[at : at + longest]) for row in rows for at in range(0, len(row), longest)]
    return [part for part in parts if len(part) > 1]


def _few(rows: Rows, bounds: ParityBounds, longest: int) -> list[list[int]]:
    """The first positions, in as few rows as the context allows: each row costs a whole chunk."""
    tokens = [token for row in rows for token in row][: bounds.compiled_positions]
    return _fit([tokens], longest)


@contextmanager
def _runners(
    target: Path,
    source: Path,
    execution_provider: str,
    adapters: Mapping[str, AdapterFiles],
    contract: SocketContract,
    threads: int,
) -> Iterator[tuple[_Runners, Any]]:
    """Open all graphs, and the target's tokenizer."""

    def load(folder: Path, graphs: Mapping[str, str], provider: str) -> StaticGraph:
        return StaticGraph(
            folder=folder,
            graphs=graphs,
            execution_provider=provider,
            threads=threads,
            lock=TurnLock(),
        )

    shipped = {name: files.onnx for name, files in adapters.items()}
    with tempfile.TemporaryDirectory() as temporary:
        wide = {
            name: _in_float32(path, Path(temporary) / f"{index}.onnx_adapter", contract)
            for index, (name, path) in enumerate(shipped.items())
        }
        compiled = load(target, GRAPHS, execution_provider)
        is_compiled = execution_provider == QNN
        shipping = load(source, GRAPHS, _CPU) if is_compiled else compiled
        runners = _Runners(
            exact=_Runner(load(source, EXACT, _CPU), wide),
            shipping=_Runner(shipping, shipped),
            compiled=_Runner(compiled, shipped) if is_compiled else None,
        )
        yield runners, compiled.new_tokenizer()


def _in_float32(path: Path, to: Path, contract: SocketContract) -> Path:
    """The shipped adapter's own numbers for graphs with float32 compute."""
    from dataclasses import replace

    file = AdapterFile.from_bytes(path.read_bytes(), where=path.name)
    wide = {name: file.tensor(name).astype(np.float32) for name in file.infos}
    write_onnx_adapter(wide, replace(contract, dtype="float32"), to)
    return to


def _weights(source: Path, contract: SocketContract) -> dict[str, QuantizedWeight]:
    """What the graphs compute with, by Hugging Face name."""
    weights: dict[str, QuantizedWeight] = {}
    for name in (BARE["decode"], GRAPHS["embed"], GRAPHS["head"]):
        weights |= quantized_weights(ir.load(source / name), contract)
    return weights


def _compare_compiled(
    runners: _Runners,
    name: str,
    rows: Rows,
    in_float: Sequence[Logits],
    on_message: Callable[[str], None],
) -> CompiledFigures:
    """Step (e); the CPU provider runs the same graphs before they were compiled."""
    assert runners.compiled is not None
    same, far = Agreement(), Agreement()
    for row, floats in zip(rows, in_float, strict=True):
        started = time.perf_counter()
        compiled = runners.compiled.logits(name, row)
        same.add(runners.shipping.logits(name, row), compiled)
        far.add(floats, compiled)
        on_message(
            f"compiled: {same.n} positions, top-1 {same.top1:.2%}, mean KL {same.mean_kl:.2g}, "
            f"{time.perf_counter() - started:.0f} s"
        )
    return CompiledFigures(
        positions=same.n,
        mean_kl=same.mean_kl,
        top1=same.top1,
        float_mean_kl=far.mean_kl,
        float_top1=far.top1,
    )


def _measure(
    reference: TorchReference,
    runners: _Runners,
    name: str,
    rows: Rows,
    nll_torch: float | None,
    compiled: CompiledFigures | None,
) -> ParityFigures:
    """Steps (b) to (d) for one adapter."""
    exact, shipping, last, effect = Agreement(), Agreement(), Agreement(), Agreement()
    nll, nll_expected = NllSum(), NllSum()
    for row in rows:
        expected = reference.logits(name, row)
        shipped = runners.shipping.logits(name, row)
        exact.add(expected, runners.exact.logits(name, row))
        shipping.add(expected, shipped)
        nll.add(shipped, row)
        nll_expected.add(expected, row)
        if not last.n:  # the decode graph against the prefill graph
            last.add(runners.shipping.logits(name, row, 0)[-_DECODED:], shipped[-_DECODED:])
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
        compiled=compiled,
    )
