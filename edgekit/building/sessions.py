"""Run a target's graphs as the parity gate does: plain ONNX Runtime, and greedily in genai."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekit.building.passes import keep_whole_cache, set_accuracy_level, widen_to_float32
from edgekit.building.weights import FOLDER_OPTION, load_graph, weights_folder
from edgekit.targets import TargetProfile
from edgekit_runtime.providers import BY_NAME, is_simulated, plugin_devices, provider_problem

GREEDY_TOKENS = 32
_CPU = "CPUExecutionProvider"


class TargetSessions:
    """ONNX Runtime sessions of a target: as it ships, and with float32 compute.

    Args:
        target: Directory with model.onnx and score.onnx; nothing is written to it.
        threads: Intra-op threads of every session.
        provider: Execution provider that computes the graphs that ship; the copy with float32
            compute runs on the CPU provider.
    """

    def __init__(self, target: Path, threads: int, provider: str = _CPU) -> None:
        score, last = (target / name for name in ("score.onnx", "model.onnx"))
        self._score = _session(score.read_bytes(), provider, target, threads)
        self._last = _session(last.read_bytes(), provider, target, threads)
        self._exact = _session(_with_float32_compute(score), _CPU, target, threads)
        config = json.loads((target / "genai_config.json").read_text(encoding="utf-8"))
        self._decoder: dict[str, Any] = config["model"]["decoder"]
        self._adapters: dict[Path, Any] = {}

    def score(self, row: Sequence[int], adapter: Path | None) -> npt.NDArray[np.float32]:
        """Logits (positions, vocabulary) as shipped."""
        return self._run(self._score, row, adapter)

    def exact(self, row: Sequence[int], adapter: Path | None) -> npt.NDArray[np.float32]:
        """Logits (positions, vocabulary) with float32 compute."""
        import onnxruntime as ort

        feeds = feeds_of(self._exact, row, self._decoder)
        if adapter is not None:
            stored = ort.AdapterFormat.read_adapter(os.fspath(adapter)).get_parameters()
            feeds |= {name: value.numpy().astype(np.float32) for name, value in stored.items()}
        (logits,) = self._exact.run(["logits"], feeds)
        return np.asarray(logits[0], np.float32)

    def placement(self) -> dict[str, int]:
        """How many nodes of the scoring graph each execution provider was given."""
        counts: dict[str, int] = {}
        for part in self._score.get_provider_graph_assignment_info():
            counts[part.ep_name] = counts.get(part.ep_name, 0) + len(part.get_nodes())
        return counts

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
        (logits,) = session.run(["logits"], feeds_of(session, row, self._decoder), options)
        return np.asarray(logits[0], np.float32)


def open_sessions(
    target: Path,
    threads: int,
    provider: str,
    probe: Sequence[int],
    on_message: Callable[[str], None] = lambda _: None,
) -> TargetSessions:
    """Sessions on a provider, or on the CPU where the device cannot compute the graph.

    Args:
        target: Directory with model.onnx and score.onnx.
        threads: Intra-op threads of every session.
        provider: The execution provider to try.
        probe: Tokens to try it with.
        on_message: Told why it is the CPU instead.
    """
    if provider != _CPU:
        try:
            sessions = TargetSessions(target, threads, provider)
            sessions.score(probe, None)
        except Exception as err:  # ONNX Runtime's errors share no base but this
            reason = str(err).strip().splitlines()[0]
            on_message(f"parity: {provider} cannot compute the graph here, the CPU does: {reason}")
        else:
            return sessions
    return TargetSessions(target, threads)


def last_logits(
    target: Path, rows: Sequence[tuple[Sequence[int], Path | None]]
) -> list[npt.NDArray[np.float32]]:
    """Logits (vocabulary,) after each row of tokens under an adapter, by the graph that generates.

    On the CPU with one thread, as it ships.

    Args:
        target: Directory with model.onnx.
        rows: Tokens, and an ``.onnx_adapter`` or None.
    """
    import onnxruntime as ort

    session = _session((target / "model.onnx").read_bytes(), _CPU, target, threads=1)
    config = json.loads((target / "genai_config.json").read_text(encoding="utf-8"))
    found = []
    for row, adapter in rows:
        options, loaded = ort.RunOptions(), ort.LoraAdapter()
        if adapter is not None:
            loaded.Load(os.fspath(adapter))
            options.add_active_adapter(loaded)
        feeds = feeds_of(session, row, config["model"]["decoder"])
        (logits,) = session.run(["logits"], feeds, options)
        found.append(np.asarray(logits[0, -1], np.float32))
    return found


def gate_provider(profile: TargetProfile) -> str:
    """What computes a target's graphs in the gate: its own provider where it works here.

    A simulator is no such place: a gate on it would take hours.
    """
    provider = BY_NAME[profile.execution_provider]
    if provider.plugin is None and provider.name not in _available():
        return profile.verify.execution_provider
    works = provider_problem(provider) is None and not is_simulated(provider)
    return provider.name if works else profile.verify.execution_provider


def _available() -> list[str]:
    import onnxruntime as ort

    return list(ort.get_available_providers())


def _session(graph: bytes, provider: str, target: Path, threads: int) -> Any:
    """A session on a provider; what it does not take runs on the CPU."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # PyTorch takes its turn between runs: threads that spin while they wait would slow it.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # A copy with float32 compute exists in memory only; its weights are the target's.
    options.add_session_config_entry(FOLDER_OPTION, os.fspath(weights_folder(target)))
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if BY_NAME[provider].plugin is not None:
        options.add_provider_for_devices(list(plugin_devices(BY_NAME[provider])[:1]), {})
        return ort.InferenceSession(graph, options)
    providers = [provider] if provider == _CPU else [provider, _CPU]
    return ort.InferenceSession(graph, options, providers=providers)


def greedy_tokens(
    target: Path, graph: str, starts: Sequence[Sequence[int]], threads: int
) -> list[list[int]]:
    """What a graph of a target answers in genai, always taking the most likely token."""
    model = genai_model(target, graph, threads)
    answers = []
    for start in starts:
        generator = greedy_generator(model, start, GREEDY_TOKENS)
        while not generator.is_done():
            generator.generate_next_token()
        answers.append([int(token) for token in generator.get_sequence(0)[len(start) :]])
    return answers


def genai_model(target: Path, graph: str, threads: int) -> Any:
    """A graph of a target, opened by genai."""
    import onnxruntime_genai as og

    config = og.Config(os.fspath(target))
    config.clear_providers()  # the CPU computes every target's graphs
    options = {"intra_op_num_threads": threads}
    decoder = {"filename": graph, "session_options": options}
    config.overlay(json.dumps({"model": {"decoder": decoder}}))
    return og.Model(config)


def greedy_generator(
    model: Any, start: Sequence[int], n_tokens: int, *, min_tokens: int = 0
) -> Any:
    """A generator of the most likely tokens that has read ``start``."""
    import onnxruntime_genai as og

    params = og.GeneratorParams(model)
    params.set_search_options(
        max_length=len(start) + n_tokens, min_length=len(start) + min_tokens, do_sample=False
    )
    generator = og.Generator(model, params)
    generator.append_tokens(np.array(start, np.int32))
    return generator


def float32_logits(
    graph: Path, rows: Sequence[Sequence[int]], threads: int
) -> list[npt.NDArray[np.float32]]:
    """Logits of the last token of each row, computed in float32 without an adapter."""
    session = _session(_with_float32_compute(graph), _CPU, graph.parent, threads)
    config = json.loads((graph.parent / "genai_config.json").read_text(encoding="utf-8"))
    feeds = (feeds_of(session, row, config["model"]["decoder"]) for row in rows)
    return [np.asarray(session.run(["logits"], feed)[0][0, -1]) for feed in feeds]


def _with_float32_compute(path: Path) -> bytes:
    """A copy of a graph that computes in float32 on the weights that ship; its weights aside."""
    model = load_graph(path)
    keep_whole_cache(model)  # a model that came from elsewhere may have a ring
    set_accuracy_level(model, 1)
    widen_to_float32(model)
    return bytes(ir.to_proto(model).SerializeToString())


def feeds_of(
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
