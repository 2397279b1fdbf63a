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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgekit.bases import Base
from edgekit.building.agreement import Agreement, NllSum
from edgekit.building.comparing import (
    EFFECT_POSITIONS,
    compare_weights,
    mean_nll,
    parity_text,
    token_rows,
)
from edgekit.building.compiled_figures import CompiledFigures
from edgekit.building.parity_figures import AdapterFiles, ParityFigures, raise_breaches
from edgekit.building.qnn.compile import qnn_device
from edgekit.building.qnn.export import export_static
from edgekit.building.qnn.read_back import static_floats, static_weights
from edgekit.building.qnn.runners import DECODED_TOKENS, Logits, Runners, open_runners
from edgekit.building.qnn.target_dir import stored_profile
from edgekit.building.reference import TorchReference, torch_reference
from edgekit.building.tokenizing import compare_tokenizing
from edgekit.quiet import quiet_libraries
from edgekit.targets import ParityBounds
from edgekit_runtime.contract import SocketContract

Rows = Sequence[Sequence[int]]


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
    profile = stored_profile(target)
    source = export_static(base, profile, on_message=on_message)
    longest = profile.context_length
    peft = {name: files.peft for name, files in adapters.items()}
    onnx = {name: files.onnx for name, files in adapters.items()}
    with (
        quiet_libraries(),
        open_runners(
            target, source, profile.execution_provider, onnx, contract, threads
        ) as runners,
        torch_reference(base, peft) as reference,
    ):
        from transformers import AutoTokenizer

        encode = AutoTokenizer.from_pretrained(base.path).encode
        tokens = {
            name: _fit(token_rows(encode, a.prompts), longest) for name, a in adapters.items()
        }
        if check_base:
            tokens = {"": _fit(token_rows(encode, ()), longest)} | tokens
        on_message("parity: the tokenizer and the chat template")
        prompts = [prompt for files in adapters.values() for prompt in files.prompts]
        texts = [parity_text(), *dict.fromkeys(prompts)]
        breaches = compare_tokenizing(runners.tokenizer, base, texts)
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
        weights = static_weights(source, contract)
        breaches += compare_weights(reference, weights, bounds)
        stored = {name: weight.values for name, weight in weights.items()}
        stored |= static_floats(source, base)
        reference.replace_weights(stored)
        reference.round_to_float16(keep=stored)
        figures = {}
        for name, rows in tokens.items():
            who = f"parity: {f'adapter {name!r}' if name else 'the base'}"
            on_message(who)
            measured = _measure(reference, runners, name, rows, nll.get(name))
            if runners.compiled is not None:
                compiled = _compare_compiled(runners, name, few[name], in_float[name])
                on_message(f"{who}: {compiled.positions} positions on {compiled.device}")
                measured = replace(measured, compiled=compiled)
            figures[name] = measured
    raise_breaches(breaches, figures, bounds)
    if profile.verify.note:
        on_message(f"parity: {profile.verify.note}")
    return figures


def _fit(rows: Rows, longest: int) -> list[list[int]]:
    """Rows cut to what the context holds."""
    parts = [list(row[at : at + longest]) for row in rows for at in range(0, len(row), longest)]
    return [part for part in parts if len(part) > 1]


def _few(rows: Rows, bounds: ParityBounds, longest: int) -> list[list[int]]:
    """The first positions, in as few rows as the context allows: each row costs a whole chunk."""
    tokens = [token for row in rows for token in row][: bounds.compiled_positions]
    return _fit([tokens], longest)


def _compare_compiled(
    runners: Runners, name: str, rows: Rows, in_float: Sequence[Logits]
) -> CompiledFigures:
    """Step (e); the CPU provider runs the same graphs before they were compiled."""
    assert runners.compiled is not None
    same, far = Agreement(), Agreement()
    for row, floats in zip(rows, in_float, strict=True):
        compiled = runners.compiled.logits(name, row)
        same.add(runners.shipping.logits(name, row), compiled)
        far.add(floats, compiled)
    return CompiledFigures(
        device=qnn_device(),
        positions=same.n,
        mean_kl=same.mean_kl,
        top1=same.top1,
        float_mean_kl=far.mean_kl,
        float_top1=far.top1,
    )


def _measure(
    reference: TorchReference,
    runners: Runners,
    name: str,
    rows: Rows,
    nll_torch: float | None,
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
            last.add(
                runners.shipping.logits(name, row, 0)[-DECODED_TOKENS:], shipped[-DECODED_TOKENS:]
            )
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
        placement=runners.placement,
    )
