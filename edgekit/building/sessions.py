"""Run a target's graphs as the parity gate does: plain ONNX Runtime, and greedily in genai."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekit.building.passes import set_accuracy_level

GREEDY_TOKENS = 32


class TargetSessions:
    """ONNX Runtime sessions of a target: as it ships, and with float32 compute.

    Args:
        target: Directory with model.onnx and score.onnx; nothing is written to it.
        threads: Intra-op threads of every session.
    """

    def __init__(self, target: Path, threads: int) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # PyTorch takes its turn between runs: threads that spin while they wait would slow it.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # The copy with float32 compute exists in memory only; its weights are the target's.
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", os.fspath(target.resolve())
        )
        graphs = [_as_bytes(target / "score.onnx"), _as_bytes(target / "score.onnx", 1)]
        graphs.append(_as_bytes(target / "model.onnx"))
        self._score, self._exact, self._last = (
            ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
            for graph in graphs
        )
        config = json.loads((target / "genai_config.json").read_text(encoding="utf-8"))
        self._decoder: dict[str, Any] = config["model"]["decoder"]
        self._adapters: dict[Path, Any] = {}

    def score(self, row: Sequence[int], adapter: Path | None) -> npt.NDArray[np.float32]:
        """Logits (positions, vocabulary) as shipped."""
        return self._run(self._score, row, adapter)

    def exact(self, row: Sequence[int], adapter: Path | None) -> npt.NDArray[np.float32]:
        """Logits (positions, vocabulary) with float32 compute."""
        return self._run(self._exact, row, adapter)

    def last(self, row: Sequence[int], adapter: Path | None) -> npt.NDArray[np.float32]:
        """Logits (1, vocabulary) of the graph that generates."""
        return self._run(self._last, row, adapter)

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
        (logits,) = session.run(["logits"], _feeds(session, row, self._decoder), options)
        return np.asarray(logits[0], np.float32)


def greedy_tokens(
    target: Path, graph: str, starts: Sequence[Sequence[int]], threads: int
) -> list[list[int]]:
    """What a graph of a target answers in genai, always taking the most likely token."""
    import onnxruntime_genai as og

    config = og.Config(os.fspath(target))
    options = {"intra_op_num_threads": threads}
    decoder = {"filename": graph, "session_options": options}
    config.overlay(json.dumps({"model": {"decoder": decoder}}))
    model = og.Model(config)
    answers = []
    for start in starts:
        params = og.GeneratorParams(model)
        params.set_search_options(max_length=len(start) + GREEDY_TOKENS, do_sample=False)
        generator = og.Generator(model, params)
        generator.append_tokens(np.array(start, np.int32))
        while not generator.is_done():
            generator.generate_next_token()
        answers.append([int(token) for token in generator.get_sequence(0)[len(start) :]])
    return answers


def _as_bytes(path: Path, accuracy_level: int | None = None) -> bytes:
    """A graph without its weights, optionally at another precision of compute."""
    if accuracy_level is None:
        return path.read_bytes()
    model = ir.load(path)
    set_accuracy_level(model, accuracy_level)
    return bytes(ir.to_proto(model).SerializeToString())


def _feeds(
    session: Any, row: Sequence[int], decoder: dict[str, Any]
) -> dict[str, npt.NDArray[Any]]:
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
            feeds[value.name] = np.zeros((1, value.shape[1], 0, decoder["head_size"]), dtype)
    return feeds
