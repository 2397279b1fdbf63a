"""A decoder: one key-value cache on one graph under one adapter."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgekit_runtime.adapters import AdapterLease
from edgekit_runtime.constraints import Constraint
from edgekit_runtime.errors import GenerationError, GraphError
from edgekit_runtime.graphs import DecoderGraph
from edgekit_runtime.sampling import Sampler

# Native calls cannot be interrupted: a long prompt goes in by pieces, which costs nothing
# and gives the same numbers.
PREFILL_CHUNK_TOKENS: Final = 128


class Decoder:
    """Tokens go in, tokens come out.

    The adapter is set once, before the first token, so no cache ever mixes two adapters.

    Args:
        graph: The graph to run.
        limit_tokens: The context: most tokens that this decoder may ever hold.
        capacity_tokens: Tokens that the cache has room for now. Memory and start-up time are
            in proportion to it; when it is full, a larger cache is filled anew.
        lease: The adapter, or None. The decoder releases it.
        constraint: Grammar of what it generates. Its state does not survive a larger cache,
            so the capacity must hold the whole answer.
        ignore_eos: Never end by an end-of-text token, for measurements.
    """

    def __init__(
        self,
        graph: DecoderGraph,
        *,
        limit_tokens: int,
        capacity_tokens: int,
        lease: AdapterLease | None = None,
        constraint: Constraint | None = None,
        ignore_eos: bool = False,
    ) -> None:
        self._graph = graph
        self._lease = lease
        self._constraint = constraint
        self._ignore_eos = ignore_eos
        self.limit_tokens = limit_tokens
        self.capacity_tokens = min(capacity_tokens, limit_tokens)
        self._generator: Any = None
        self._is_closed = False
        self._n_settled = 0
        with graph.lock:
            self._generator = self._new_generator()

    @property
    def is_closed(self) -> bool:
        """Whether the cache is gone."""
        return self._is_closed

    def tokens(self) -> list[int]:
        """Everything in the sequence, the prompt first."""
        with self._graph.lock:
            generator = self._open()
            return [int(token) for token in generator.get_sequence(0)]

    def keep_prefix(self, tokens: Sequence[int]) -> int:
        """Forget everything that does not begin ``tokens``.

        At least one token of ``tokens`` is left to append, since logits come from appending.

        Returns:
            How many tokens stay in the cache.
        """
        with self._graph.lock:
            generator = self._open()
            held = generator.get_sequence(0)[: self._n_settled]
            n = min(len(held), len(tokens) - 1)
            differs = np.flatnonzero(held[:n] != np.asarray(tokens[:n], dtype=held.dtype))
            n = int(differs[0]) if len(differs) else n
            self.rewind(n)
            return n

    def rewind(self, n_tokens: int) -> None:
        """Forget all but the first tokens."""
        with self._graph.lock:
            generator = self._open()
            self._n_settled = min(n_tokens, self._n_settled)
            if self._n_settled < generator.token_count():
                with _translated():
                    generator.rewind_to(self._n_settled)

    def append(self, tokens: Sequence[int]) -> None:
        """Run tokens through the graph, piece by piece."""
        self.reserve(len(tokens))
        for start in range(0, len(tokens), PREFILL_CHUNK_TOKENS):
            self._append_piece(tokens[start : start + PREFILL_CHUNK_TOKENS])

    def reserve(self, n_tokens: int) -> None:
        """Make room for so many more tokens, so that they can come by pieces."""
        with self._graph.lock:
            if self._n_settled + n_tokens > self.capacity_tokens:
                self._grow(self._n_settled + n_tokens)

    def next(self, sampler: Sampler | None = None) -> int:
        """Generate one token.

        Raises:
            GenerationError: If the engine was closed meanwhile.
        """
        with self._graph.lock:
            generator = self._open()
            if generator.token_count() >= self.capacity_tokens:
                generator = self._grow()
            if sampler is not None:
                logits = generator.get_logits()
                tokens = generator.get_sequence(0)
                adjusted = sampler.adjust(logits.reshape(-1), tokens)
                generator.set_logits(adjusted.reshape(logits.shape))
            n_before = int(generator.token_count())
            with _translated():
                generator.generate_next_token()
            # The step has run what was generated before it; its own token is not in the cache.
            self._n_settled = n_before
            return int(generator.get_next_tokens()[0])

    def logits(self) -> NDArray[np.float32]:
        """Logits after the last token, one for each token of the vocabulary."""
        with self._graph.lock:
            return np.array(self._open().get_logits().reshape(-1))

    def piece_logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Append at most a piece and return the logits at each of its tokens.

        Only on a graph that keeps the logits of every position.
        """
        with self._graph.lock:
            self._append_piece(tokens)
            logits = self._open().get_output("logits")
            return np.asarray(logits[0], dtype=np.float32)

    def close(self) -> None:
        """Free the cache and let the adapter go; further calls do nothing."""
        with self._graph.lock:
            self._is_closed = True
            self._generator = None
            if self._lease is not None:
                self._lease.release()

    def _append_piece(self, tokens: Sequence[int]) -> None:
        with self._graph.lock:
            generator = self._open()
            # genai 0.18 appends wrongly right after a generated token, whose keys and values
            # are not in the cache yet; keep_prefix() never leaves the cache in that state.
            with _translated():
                generator.append_tokens(np.asarray(tokens, dtype=np.int32))
            self._n_settled += len(tokens)

    def _open(self) -> Any:
        if self._generator is None:
            raise GenerationError(
                "the engine or session was closed while it was in use",
                hint="Keep it open until the answer is complete.",
            )
        return self._generator

    def _new_generator(self) -> Any:
        guidance = (self._constraint.kind, self._constraint.data) if self._constraint else None
        try:
            generator = self._graph.new_generator(
                max_length=self.capacity_tokens, guidance=guidance, ignore_eos=self._ignore_eos
            )
        except RuntimeError as err:
            if self._constraint is None:
                raise _failure("no key-value cache can be made", err) from err
            raise self._constraint.refusal(str(err), self._graph.refusal_of) from err
        except MemoryError as err:
            raise _failure(f"no memory for {self.capacity_tokens} tokens", err) from err
        if self._lease is not None:
            self._lease.activate(generator)
        return generator

    def _grow(self, n_tokens: int = 0) -> Any:
        """Move to a larger cache: a new generator, filled with the same tokens."""
        tokens = self.tokens()
        self.capacity_tokens = grown_capacity(
            max(n_tokens, self.capacity_tokens + 1), self.limit_tokens
        )
        # Free the old cache first, so that both are never held at once.
        self._generator = None
        self._generator = self._new_generator()
        self._n_settled = 0
        for start in range(0, len(tokens), PREFILL_CHUNK_TOKENS):
            self._append_piece(tokens[start : start + PREFILL_CHUNK_TOKENS])
        return self._generator


@contextmanager
def _translated() -> Iterator[None]:
    """Turn what the native code raises into an error of ours."""
    try:
        yield
    except (RuntimeError, MemoryError, ValueError) as err:  # ValueError: its message is no UTF-8
        raise _failure("the graph failed", err) from err


def _failure(what: str, err: Exception) -> GraphError:
    return GraphError(
        what,
        problems=[str(err).strip() or "out of memory"],
        hint="Try a shorter context_length, and check the bundle: edgekit bundle verify.",
    )


def grown_capacity(n_tokens: int, limit_tokens: int) -> int:
    """The step of 512, 1024, 2048, ... that holds ``n_tokens``, within the context."""
    capacity = 512
    while capacity < n_tokens:
        capacity *= 2
    return min(capacity, limit_tokens)
