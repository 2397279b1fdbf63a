"""The one door to onnxruntime-genai: loads a graph of a target and its tokenizer."""

import json
import logging
import os
import time
import unicodedata
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from edgekit_runtime.constraints import Constraint
from edgekit_runtime.errors import BundleError, GenerationError, TargetError
from edgekit_runtime.locking import TurnLock
from edgekit_runtime.providers import load_genai, register_plugin
from edgekit_runtime.strict_json import loads

_log = logging.getLogger(__name__)

_FOLDER_OPTION = "session.model_external_initializers_file_folder_path"
_WEIGHTS = "../../weights"
_REBUILD = "Check the bundle: edgekit bundle verify; if it is sound, build it again."


def default_threads() -> int:
    """Threads for one engine: the cores that this process may use, at most eight.

    Decoding is bound by memory bandwidth: more threads than that cost more than they bring.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(usable or 1, 8))


def configured_threads(folder: Path) -> int | None:
    """Threads that a target's own configuration asks for, if it does."""
    value = _session_options(folder).get("intra_op_num_threads")
    return value if isinstance(value, int) and value > 0 else None


def vocabulary_size(folder: Path) -> int | None:
    """Number of a target's tokens, if its configuration tells."""
    value = _model_config(folder).get("vocab_size")
    return value if isinstance(value, int) else None


def _session_options(folder: Path) -> dict[str, Any]:
    """``session_options`` of a target's genai configuration; empty where there are none."""
    decoder = _model_config(folder).get("decoder")
    options = decoder.get("session_options") if isinstance(decoder, dict) else None
    return options if isinstance(options, dict) else {}


def _model_config(folder: Path) -> dict[str, Any]:
    """``model`` of a target's genai configuration; empty where it cannot be read."""
    try:
        config = loads((folder / "genai_config.json").read_bytes())["model"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # what is wrong with the file is said when genai reads it
    return config if isinstance(config, dict) else {}


class Graph:
    """One loaded graph of a target.

    Args:
        folder: The target's directory.
        filename: The graph in it.
        threads: Threads for one operator.
        lock: Guards every native call on this engine.
        provider: Execution provider that the target is made for; None to compute on the CPU
            whatever the target is made for.
    """

    def __init__(
        self,
        *,
        folder: Path,
        filename: str,
        threads: int,
        lock: TurnLock,
        provider: str | None = None,
    ) -> None:
        started = time.perf_counter()
        self.lock = lock
        self._folder = folder
        self.filename = filename
        self._genai = load_genai()
        options = {"intra_op_num_threads": threads}
        overlay = {"model": {"decoder": {"filename": filename, "session_options": options}}}
        weights = _session_options(folder).get(_FOLDER_OPTION, _WEIGHTS)
        if weights != _WEIGHTS:
            raise TargetError(
                f"{folder.name}/genai_config.json reads weights from a strange folder",
                problems=[f"{_FOLDER_OPTION}: expected {_WEIGHTS}, got {weights!r}"],
                hint="The bundle was not made by edgekit; do not use it.",
            )
        try:
            config = self._genai.Config(str(folder))
            if provider is None:
                config.clear_providers()
            else:
                register_plugin(provider)
            config.overlay(json.dumps(overlay))
            self._model = self._genai.Model(config)
        except (RuntimeError, ValueError) as err:
            raise TargetError(
                f"{folder.name}/{filename} cannot be loaded",
                problems=[str(err).strip()],
                hint=_REBUILD,
            ) from err
        _log.debug("loaded %s in %.0f ms", filename, (time.perf_counter() - started) * 1e3)

    def new_generator(
        self, *, max_length: int, guidance: tuple[str, str] | None = None, ignore_eos: bool = False
    ) -> Any:
        """A generator with a key-value cache for ``max_length`` tokens.

        Args:
            max_length: Most tokens that it holds.
            guidance: Kind and text of a grammar.
            ignore_eos: Never end by an end-of-text token.

        Raises:
            RuntimeError: As genai does, for a grammar that it does not take.
        """
        params = self._genai.GeneratorParams(self._model)
        min_length = max_length if ignore_eos else 0
        params.set_search_options(max_length=max_length, min_length=min_length, do_sample=False)
        if guidance:
            params.set_guidance(*guidance)
        return self._genai.Generator(self._model, params)

    def refusal_of(self, constraint: Constraint) -> str | None:
        """Why a grammar is refused, None if it is not."""
        try:
            self.new_generator(max_length=1, guidance=(constraint.kind, constraint.data))
        except RuntimeError as err:
            return str(err)
        return None

    def new_adapters(self) -> Any:
        """An empty container for this graph's adapters."""
        return self._genai.Adapters(self._model)

    def new_tokenizer(self) -> "Tokenizer":
        """The target's tokenizer.

        Raises:
            TargetError: If its files are malformed.
        """
        try:
            return Tokenizer(self._genai.Tokenizer(self._model), self.lock, self._folder)
        except (RuntimeError, ValueError) as err:
            raise TargetError(
                f"the tokenizer of {self._folder.name} cannot be loaded",
                problems=[str(err).strip()],
                hint=_REBUILD,
            ) from err


class Tokenizer:
    """Text to tokens and back, and the chat template.

    Args:
        native: genai's tokenizer.
        lock: Guards every native call on this engine.
        folder: The target's directory, with tokenizer.json.
    """

    def __init__(self, native: Any, lock: TurnLock, folder: Path) -> None:
        self._native = native
        self._lock = lock
        self._folder = folder
        self.eos_ids = frozenset(int(token) for token in native.eos_token_ids)
        self._bos = int(native.bos_token_id)

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, with what the tokenizer puts before it.

        A text that already begins with the beginning-of-text token, as a filled chat template
        often does, gets no second one.

        Raises:
            GenerationError: For text that the tokenizer would cut short or cannot take.
        """
        tokens = self._encode(text, add_special_tokens=True)
        return self.encode_chat(text) if tokens[:2] == [self._bos] * 2 else tokens

    def encode_chat(self, text: str) -> list[int]:
        """Tokens of a filled chat template, which says itself what comes first.

        Raises:
            GenerationError: As `encode` does.
        """
        return self._encode(text, add_special_tokens=False)

    def _encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
            raise GenerationError(
                "the text holds a NUL or half a surrogate pair, which is no text",
                hint="Remove it; decode bytes with errors='replace'.",
            )
        if not unicodedata.is_normalized("NFC", text) and self._composes:
            text = unicodedata.normalize("NFC", text)
        with self._lock:
            # genai's own default is to add nothing, whatever the tokenizer was trained with.
            self._native.update_options(add_special_tokens=str(add_special_tokens).lower())
            try:
                return [int(token) for token in self._native.encode(text)]
            except RuntimeError as err:
                raise GenerationError(
                    "the text cannot be tokenized", problems=[str(err).strip()], hint=_REBUILD
                ) from err

    @cached_property
    def _composes(self) -> bool:
        """Whether the tokenizer wants composed characters (NFC, as Qwen's); genai leaves them."""
        path = self._folder / "tokenizer.json"
        if not path.is_file():
            return False
        try:
            normalizer = loads(path.read_bytes()).get("normalizer") or {}
            parts = normalizer.get("normalizers", [normalizer])
            return any(part.get("type") == "NFC" for part in parts)
        except (OSError, ValueError, TypeError, AttributeError) as err:
            raise BundleError(
                f"{path.name} is malformed", problems=[str(err)], hint="Build the bundle again."
            ) from err

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of some tokens, without special ones."""
        with self._lock:
            return str(self._native.decode(np.asarray(tokens, dtype=np.int32)))

    def stream(self) -> Any:
        """An incremental decoder."""
        return self._native.create_stream()

    def apply_chat_template(self, messages: str, tools: str | None) -> str:
        """Fill the chat template with messages as JSON.

        Raises:
            GenerationError: If there is no template, or it refuses.
        """
        extra = {"tools": tools} if tools is not None else {}
        try:
            with self._lock:
                return str(
                    self._native.apply_chat_template(messages, add_generation_prompt=True, **extra)
                )
        except (RuntimeError, ValueError) as err:  # ValueError where it makes no UTF-8
            raise GenerationError(
                "the chat template cannot be filled",
                problems=[str(err).strip()],
                hint="A base without a chat template takes raw text: prompt=...",
            ) from err
