"""One key-value cache over graphs of fixed shape, with the surface of genai's Generator."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit_runtime.static_graph import (
    DECODE,
    PREFILL,
    ActiveAdapter,
    StaticAdapters,
    StaticGraph,
)


class StaticGenerator:
    """Tokens, their keys and values on the host, and the logits after the last of them.

    A cache slot holds one position, the first slot the first. Slots beyond are masked, so that
    going back to fewer tokens means forgetting a number.

    Args:
        graph: Runs the tokens.
    """

    def __init__(self, graph: StaticGraph) -> None:
        self._graph = graph
        self._adapter: ActiveAdapter | None = None
        self._tokens: list[int] = []
        self._n_cached = 0
        self._next: list[int] = []
        self._hidden: NDArray[Any] | None = None
        self._logits: NDArray[np.float32] | None = None
        layout = graph.layout
        keys, values = layout.past_shapes(1)
        self._dtype = graph.dtype
        self._cache = [
            (np.zeros(keys, self._dtype), np.zeros(values, self._dtype))
            for _ in range(layout.layers)
        ]

    def set_active_adapter(self, adapters: StaticAdapters, name: str) -> None:
        """Run what comes from here on with an adapter."""
        self._adapter = adapters.active(name)

    def append_tokens(self, tokens: Sequence[int] | NDArray[np.int32]) -> None:
        """Add tokens and run them."""
        start = len(self._tokens)
        self._tokens += [int(token) for token in tokens]
        self._catch_up()
        if self._hidden is not None:
            self._hidden = self._hidden[:, start - len(self._tokens) :]

    def get_sequence(self, index: int) -> NDArray[np.int32]:
        """All tokens; there is one sequence."""
        return np.asarray([self._tokens][index], np.int32)

    def token_count(self) -> int:
        """Number of tokens."""
        return len(self._tokens)

    def get_next_tokens(self) -> NDArray[np.int32]:
        """The token that was generated last."""
        return np.asarray(self._next, np.int32)

    def get_logits(self) -> NDArray[np.float32]:
        """Logits (1, 1, vocabulary) after the last token."""
        self._catch_up()
        if self._logits is None:
            self._logits = self._graph.logits(self._states()[:, -1:])
        return self._logits

    def set_logits(self, logits: NDArray[np.float32]) -> None:
        """Replace the logits that the next token is taken from."""
        self._logits = np.asarray(logits, np.float32)

    def get_output(self, name: str) -> NDArray[np.float32]:
        """Logits (1, n, vocabulary) at each token of what was appended last."""
        if name != "logits":
            raise RuntimeError(f"no output {name!r}, only 'logits'")
        return self._graph.logits(self._states())

    def generate_next_token(self) -> None:
        """Take the most likely token; it is run when logits after it are asked for."""
        self._next = [int(self.get_logits().reshape(-1).argmax())]
        self._tokens += self._next
        self._hidden = self._logits = None

    def rewind_to(self, n_tokens: int) -> None:
        """Forget all but the first tokens."""
        del self._tokens[n_tokens:]
        self._n_cached = min(self._n_cached, n_tokens)
        self._hidden = self._logits = None

    def _states(self) -> NDArray[Any]:
        if self._hidden is None:
            raise RuntimeError("no token was run since the start or the last rewind")
        return self._hidden

    def _catch_up(self) -> None:
        """Run every token that has no keys and values yet."""
        if self._n_cached == len(self._tokens):
            return
        parts = []
        while self._n_cached < len(self._tokens):
            parts.append(self._run(self._tokens[self._n_cached :]))
        self._hidden, self._logits = np.concatenate(parts, axis=1), None

    def _run(self, tokens: Sequence[int]) -> NDArray[Any]:
        """Run some of the tokens that come next; returns their hidden states (1, n, hidden)."""
        layout, n_past = self._graph.layout, self._n_cached
        if n_past >= layout.context_tokens:
            raise RuntimeError(f"the context of {layout.context_tokens} tokens is full")
        # The prefill graph has fewer slots for the past: near the end, tokens go one by one.
        is_chunk = len(tokens) > 1 and n_past <= layout.context_tokens - layout.chunk_tokens
        name, size = (PREFILL, layout.chunk_tokens) if is_chunk else (DECODE, 1)
        taken = list(tokens[:size])
        outputs = ["hidden"]
        for index in range(layout.layers):
            outputs += [f"present_k_{index}", f"present_v_{index}"]
        feeds = self._feeds(taken + [taken[-1]] * (size - len(taken)), n_past)
        hidden, *present = self._graph.step(name, feeds, outputs, self._adapter)
        n = len(taken)
        # The last token of a full context is never attended to by another.
        room = min(n, layout.context_tokens - 1 - n_past)
        for index, (keys, values) in enumerate(self._cache):
            keys[..., n_past : n_past + room] = present[2 * index][..., :room]
            values[:, :, n_past : n_past + room] = present[2 * index + 1][:, :, :room]
        self._n_cached += n
        return hidden[:, :n]

    def _feeds(self, tokens: Sequence[int], n_past: int) -> dict[str, NDArray[Any]]:
        """All inputs of a graph for ``len(tokens)`` tokens but the adapter's."""
        layout, n = self._graph.layout, len(tokens)
        feeds = {"inputs_embeds": self._graph.embed(tokens).astype(self._dtype)}
        for index in range(len(layout.windows)):
            feeds[f"mask_{index}"] = layout.mask(index, n_past, n).astype(self._dtype)
        for index, rope in enumerate(layout.ropes):
            cos, sin = rope.tables(n_past, n)
            feeds[f"cos_{index}"] = cos.astype(self._dtype)
            feeds[f"sin_{index}"] = sin.astype(self._dtype)
        past = layout.context_tokens - n
        for index, (keys, values) in enumerate(self._cache):
            feeds[f"past_k_{index}"] = np.ascontiguousarray(keys[..., :past])
            feeds[f"past_v_{index}"] = np.ascontiguousarray(values[:, :, :past])
        return feeds
