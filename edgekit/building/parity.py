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
from collections.abc import Callable, Mapping
from pathlib import Path

from edgekit.bases import Base
from edgekit.building.comparing import (
    compare_empty_sockets,
    compare_weights,
    mean_nll,
    measure,
    parity_text,
    token_rows,
)
from edgekit.building.dequantize import quantized_weights
from edgekit.building.parity_figures import AdapterFiles, ParityFigures, raise_breaches
from edgekit.building.passes import has_float32_norms
from edgekit.building.reference import torch_reference
from edgekit.building.sessions import open_sessions
from edgekit.building.tokenizing import compare_tokenizing
from edgekit.building.weights import load_graph
from edgekit.quantizing.blocks import Blocks
from edgekit.quiet import quiet_libraries
from edgekit.targets import ParityBounds
from edgekit_runtime.contract import SocketContract
from edgekit_runtime.locking import TurnLock
from edgekit_runtime.native import Graph
from edgekit_runtime.static_layout import LAYOUT_FILE


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
            scoring = load_graph(target / "score.onnx")
            weights = quantized_weights(scoring, contract)
            if check_base:
                breaches += compare_weights(reference, weights, bounds, quantized)
            reference.replace_weights({name: weight.values for name, weight in weights.items()})
            if contract.dtype == "float16":
                reference.round_to_float16(keep=weights, norms=not has_float32_norms(scoring))
            for name, rows in tokens.items():
                on_message(f"parity: {f'adapter {name!r}' if name else 'the base'}")
                onnx = adapters[name].onnx if name else None
                figures[name] = measure(reference, sessions, name, onnx, rows, nll_torch.get(name))
    raise_breaches(breaches, figures, bounds)
    return figures
