"""Graphs of fixed shape, run by plain ONNX Runtime: what `native.Graph` is for genai's graphs."""

import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from edgekit_runtime.errors import GenerationError, TargetError
from edgekit_runtime.locking import TurnLock
from edgekit_runtime.native import Tokenizer
from edgekit_runtime.providers import BY_NAME, load_genai, plugin_devices, provider_problem
from edgekit_runtime.static_layout import LAYOUT_FILE, StaticLayout

if TYPE_CHECKING:
    from edgekit_runtime.constraints import Constraint
    from edgekit_runtime.static_generator import StaticGenerator

_log = logging.getLogger(__name__)

QNN: Final = "QNNExecutionProvider"
STATIC_INPUTS: Final = "static_inputs"
# Graph names of a static target; the first two run on its execution provider.
PREFILL, DECODE, EMBED, HEAD = "prefill", "decode", "embed", "head"

Feeds = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class ActiveAdapter:
    """An adapter as a run takes it.

    Attributes:
        options: RunOptions with the adapter.
        adapter: Its tensors; the options point to them, but do not keep them.
    """

    options: Any
    adapter: Any


class StaticAdapters:
    """Loaded adapters by name, with the surface of genai's Adapters."""

    def __init__(self) -> None:
        self._loaded: dict[str, ActiveAdapter] = {}

    def load(self, path: str, name: str) -> None:
        """Load an ``.onnx_adapter`` file."""
        import onnxruntime

        adapter = onnxruntime.LoraAdapter()
        try:
            adapter.Load(path)
        except Exception as err:  # ONNX Runtime's errors are of no common class
            raise RuntimeError(str(err).strip()) from err
        options = onnxruntime.RunOptions()
        options.add_active_adapter(adapter)
        self._loaded[name] = ActiveAdapter(options, adapter)

    def unload(self, name: str) -> None:
        """Let an adapter go; a generator that has it keeps it."""
        del self._loaded[name]

    def active(self, name: str) -> ActiveAdapter:
        """What makes a run use an adapter."""
        return self._loaded[name]


class StaticGraph:
    """A decoder of fixed shapes: two graphs on a provider, embedding and head on the processor.

    Attributes:
        layout: Shapes and host-side tables.
        dtype: What prefill and decode take and give.

    Args:
        folder: The target's directory.
        graphs: File names of prefill, decode, embed and head.
        execution_provider: Where prefill and decode run.
        threads: Threads for one operator.
        lock: Guards every native call on this engine.
    """

    def __init__(
        self,
        *,
        folder: Path,
        graphs: Mapping[str, str],
        execution_provider: str,
        threads: int,
        lock: TurnLock,
    ) -> None:
        started = time.perf_counter()
        self.lock = lock
        self.layout = StaticLayout.from_file(folder / LAYOUT_FILE)
        self._folder = folder
        self._threads = threads
        if missing := sorted({PREFILL, DECODE, EMBED, HEAD} - set(graphs)):
            raise TargetError(
                f"target {folder.name!r} lacks graphs: {', '.join(missing)}",
                hint="Build the bundle again.",
            )
        self._sessions = {
            name: self._session(graphs[name], execution_provider) for name in (PREFILL, DECODE)
        }
        kinds = {value.name: value.type for value in self._sessions[DECODE].get_inputs()}
        is_half = kinds["inputs_embeds"] == "tensor(float16)"
        self.dtype = np.dtype(np.float16 if is_half else np.float32)
        for name in (EMBED, HEAD):
            self._sessions[name] = self._session(graphs[name], "CPUExecutionProvider")
        _log.debug("loaded %s in %.0f ms", folder.name, (time.perf_counter() - started) * 1e3)

    def new_generator(
        self, *, max_length: int, guidance: tuple[str, str] | None = None, ignore_eos: bool = False
    ) -> "StaticGenerator":
        """A generator with an empty cache; it never ends by itself, so ``ignore_eos`` is moot.

        Raises:
            GenerationError: For a grammar, or more tokens than the graphs have slots.
        """
        from edgekit_runtime.static_generator import StaticGenerator

        if guidance is not None:
            raise GenerationError(
                "a schema, regex or choices cannot be followed on this target",
                problems=["its graphs are driven without onnxruntime-genai, which masks tokens"],
                hint="Use another target of the bundle for constrained answers, e.g. cpu.",
            )
        if max_length > self.layout.context_tokens:
            raise GenerationError(
                f"the graphs hold {self.layout.context_tokens} tokens, {max_length} were asked for"
            )
        return StaticGenerator(self)

    def refusal_of(self, constraint: "Constraint") -> str | None:
        """Every grammar is refused."""
        return f"{constraint.kind} cannot be followed on this target"

    def new_adapters(self) -> StaticAdapters:
        """An empty container for this graph's adapters."""
        return StaticAdapters()

    def new_tokenizer(self) -> Tokenizer:
        """The target's tokenizer; genai reads it without a decoder."""
        genai = load_genai()
        try:
            native = genai.Tokenizer(genai.Config(str(self._folder)))
        except RuntimeError as err:
            raise TargetError(
                f"the tokenizer of {self._folder.name!r} cannot be loaded",
                problems=[str(err).strip()],
                hint="Check the bundle: edgekit bundle verify.",
            ) from err
        return Tokenizer(native, self.lock, self._folder)

    def embed(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Embeddings (1, n, hidden) of tokens."""
        ids = np.asarray(tokens, np.int64)[None]
        return self._run(EMBED, {"input_ids": ids}, ["inputs_embeds"])[0]

    def logits(self, hidden: NDArray[Any]) -> NDArray[np.float32]:
        """Logits (1, n, vocabulary) of hidden states (1, n, hidden)."""
        return self._run(HEAD, {"hidden": hidden.astype(np.float32)}, ["logits"])[0]

    def step(
        self, name: str, feeds: Feeds, outputs: list[str], adapter: ActiveAdapter | None
    ) -> list[NDArray[Any]]:
        """Run prefill or decode.

        Args:
            name: Which.
            feeds: All inputs but those of the adapter.
            outputs: What to return.
            adapter: None for the base.
        """
        return self._run(name, feeds, outputs, adapter.options if adapter else None)

    def _run(
        self, name: str, feeds: Feeds, outputs: list[str], options: Any = None
    ) -> list[NDArray[Any]]:
        try:
            arrays: list[NDArray[Any]] = self._sessions[name].run(outputs, dict(feeds), options)
        except Exception as err:  # ONNX Runtime's errors are of no common class
            raise RuntimeError(str(err).strip()) from err
        return arrays

    def _session(self, filename: str, execution_provider: str) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 3
        providers = {}
        if execution_provider == QNN:
            # What the NPU cannot run was refused at build; here it would be a silent slowdown.
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
            with _stdout_to_stderr():
                add_qnn(options, self.layout.provider_options)
        else:
            providers = {"providers": [execution_provider]}
        try:
            with _stdout_to_stderr():  # QNN's library prints a line when it is loaded
                session = onnxruntime.InferenceSession(
                    str(self._folder / filename), options, **providers
                )
        except Exception as err:  # ONNX Runtime raises classes of its own for each status
            raise TargetError(
                f"{self._folder.name}/{filename} cannot be loaded on {execution_provider}",
                problems=[str(err).strip()],
                hint="Check the bundle: edgekit bundle verify; if it is sound, build it again.",
            ) from err
        session.disable_fallback()
        if execution_provider not in session.get_providers():
            raise TargetError(
                f"{self._folder.name}/{filename} was not taken by {execution_provider}",
                problems=[f"it would run on {', '.join(session.get_providers())}"],
                hint="Install what the target requires, or use another target of the bundle.",
            )
        return session


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Keep what native code prints out of the output that programs read."""
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # no standard output at all
        yield
        return
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def add_qnn(options: Any, provider_options: Mapping[str, str]) -> None:
    """Make a session run on Qualcomm's NPU, or its simulator on x86-64 Linux.

    Args:
        options: ONNX Runtime's SessionOptions, changed in place.
        provider_options: ``htp_arch``, ``soc_model`` and others of the QNN provider.

    Raises:
        TargetError: If the package is missing or finds no device.
    """
    provider = BY_NAME[QNN]
    if problem := provider_problem(provider):
        raise TargetError(f"{QNN} does not work here", problems=[problem])
    import onnxruntime_qnn

    backend = {"backend_path": onnxruntime_qnn.get_qnn_htp_path()}
    devices = list(plugin_devices(provider))[:1]
    options.add_provider_for_devices(devices, dict(provider_options) | backend)
