"""The parity gate for an ONNX model that somebody else built: no float model, and no PyTorch.

The steps are those of :mod:`edgekit.building.parity` as far as the model itself can tell:

a. empty sockets equal the model as it came, token for token;
b. the conversion is exact: the graph with float32 compute and the adapter as inputs, against the
   plain graph with float weights into which the adapter is merged;
c. the compute that ships against the same;
d. what quantization cost cannot be known without the float model, and is reported as null.

How PEFT's files are read is shared by both sides of (b); it is compared with PEFT in the tests.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from edgekit.adapters.peft_dir import read_peft_adapter
from edgekit.bases import Base
from edgekit.building.comparing import compare_empty_sockets, measure, token_rows
from edgekit.building.merged import MergedReference
from edgekit.building.parity_figures import AdapterFiles, ParityFigures, raise_breaches
from edgekit.building.prebuilt import decoder_graph, linear_shapes
from edgekit.building.sessions import open_sessions
from edgekit.errors import BuildError
from edgekit.targets import ParityBounds
from edgekit_runtime.contract import SocketContract
from edgekit_runtime.locking import TurnLock
from edgekit_runtime.native import Graph


def check_prebuilt_parity(
    target: Path,
    base: Base,
    contract: SocketContract,
    adapters: Mapping[str, AdapterFiles],
    bounds: ParityBounds,
    *,
    check_base: bool = True,
    provider: str = "CPUExecutionProvider",
    threads: int | None = None,
    on_message: Callable[[str], None] = lambda _: None,
) -> dict[str, ParityFigures]:
    """Run the gate on a target directory; nothing is written to it.

    Args:
        target: Directory with base.onnx, model.onnx and score.onnx.
        base: The ONNX model that they were made from; a target of the same bundle where that is
            not at hand.
        contract: The target's sockets.
        adapters: By name; the base without an adapter is measured under ``""``.
        bounds: What the profile demands.
        check_base: Also measure the base without an adapter.
        provider: Execution provider that computes the graphs that ship.
        threads: Intra-op threads of every session; equal, since int8 rounding depends on it.
        on_message: Called with a line of progress.

    Returns:
        Figures by adapter name; ``nll_torch`` and the cost of quantization are None.

    Raises:
        ParityError: With every breach and its figures.
    """
    threads = threads or os.cpu_count() or 1
    encode = Graph(folder=target, filename="base.onnx", threads=1, lock=TurnLock()).new_tokenizer()
    tokens = {name: token_rows(encode.encode, files.prompts) for name, files in adapters.items()}
    if check_base:
        tokens = {"": token_rows(encode.encode, ())} | tokens
    on_message("parity: empty sockets against the model as it came")
    rows = token_rows(encode.encode, ())
    breaches = compare_empty_sockets(
        target / "base.onnx", target / "model.onnx", contract, rows, threads
    )
    if base.path.parent != target.parent:  # not a bundle's own graphs
        plain = decoder_graph(base.path)
        try:
            breaches += compare_empty_sockets(plain, target / "score.onnx", contract, rows, threads)
        except RuntimeError as err:  # what genai raises of its own and of ONNX Runtime's
            raise BuildError(
                f"the ONNX model in '{base.path}' does not run as it came",
                problems=[" ".join(str(err).split())],
                hint="Try it in onnxruntime-genai, or ask whoever built it.",
            ) from err
    shapes = linear_shapes(base)
    modules = {
        name: read_peft_adapter(
            files.peft, base, name=name, max_rank=contract.max_rank, assume_base=True, shapes=shapes
        ).modules
        for name, files in adapters.items()
    }
    sessions = open_sessions(target, threads, provider, rows[0][:4], on_message)
    figures = {}
    with MergedReference(target, contract, modules, threads) as reference:
        for name, own_rows in tokens.items():
            on_message(f"parity: {f'adapter {name!r}' if name else 'the base'}")
            onnx = adapters[name].onnx if name else None
            measured = measure(reference, sessions, name, onnx, own_rows, None)
            figures[name] = replace(measured, nll_torch=None)
    raise_breaches(breaches, figures, bounds, "the model as it came, each adapter merged into it")
    return figures
