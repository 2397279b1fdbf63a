"""Caches of conversations that may go on: the next turn runs only what is new."""

from collections.abc import Sequence
from dataclasses import dataclass

from edgekit_runtime.constraints import Constraint
from edgekit_runtime.decoder import PREFILL_CHUNK_TOKENS, Decoder, grown_capacity
from edgekit_runtime.errors import AdapterError, GraphError
from edgekit_runtime.loaded import GraphKind, LoadedTarget
from edgekit_runtime.serving.jobs import Reuse


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kept:
    adapter: str | None
    decoder: Decoder
    tokens: list[int]


class KeptCaches:
    """The caches of the last few prompts, each to be taken by a prompt that begins alike.

    With ``exact``, only whole pieces of a prompt are kept, and only in a cache of the size that a
    new one would have. An answer is then the same whatever was answered before: native products
    round otherwise for one row, for a few, and for a whole piece. With ``fast``, all is kept, the
    answer too.

    Args:
        loaded: Makes new caches.
        max_kept: Most caches that are kept while nobody uses them.
        reuse: See above.
    """

    def __init__(self, loaded: LoadedTarget, *, max_kept: int, reuse: Reuse) -> None:
        self._loaded = loaded
        self._max_kept = max_kept
        self._is_exact = reuse == "exact"
        self._kept: list[_Kept] = []

    def take(
        self, adapter: str | None, tokens: Sequence[int], *, n_expected: int
    ) -> tuple[Decoder, int]:
        """A decoder for a prompt, and how many of the prompt's tokens it holds.

        Args:
            adapter: What it runs.
            tokens: The prompt.
            n_expected: Tokens of prompt and answer.
        """
        capacity = grown_capacity(n_expected, self._loaded.context_length)
        best, n_best = None, 0
        for kept in self._kept:
            n = self._n_usable(kept, adapter, tokens, capacity)
            # One that shares only its beginning is another conversation, which may go on too.
            if n > n_best and 2 * n >= len(kept.tokens):
                best, n_best = kept, n
        if best is None:
            return self.new(adapter, capacity), 0
        self._kept.remove(best)
        best.decoder.rewind(n_best)
        return best.decoder, n_best

    def new(
        self,
        adapter: str | None,
        n_tokens: int,
        *,
        constraint: Constraint | None = None,
        kind: GraphKind | None = None,
    ) -> Decoder:
        """A new decoder; caches that nobody uses make room where there is none."""
        try:
            return self._decoder(adapter, n_tokens, constraint, kind)
        except (AdapterError, GraphError):
            if not self._kept:
                raise
            self.clear()
            return self._decoder(adapter, n_tokens, constraint, kind)

    def give_back(self, decoder: Decoder, adapter: str | None, n_prompt: int) -> None:
        """Keep what may be used again.

        Args:
            decoder: From `take`, at rest.
            adapter: What it runs.
            n_prompt: Tokens of the prompt.
        """
        try:
            decoder.rewind(n_prompt if self._is_exact else decoder.limit_tokens)
            tokens = decoder.tokens()
            tokens = tokens[: self._whole(len(tokens))]
            decoder.rewind(len(tokens))
        except GraphError:
            tokens = []
        if not tokens or self._max_kept == 0:
            decoder.close()
            return
        self._kept.append(_Kept(adapter=adapter, decoder=decoder, tokens=tokens))
        while len(self._kept) > self._max_kept:
            self._kept.pop(0).decoder.close()

    def drop_adapter(self, adapter: str) -> None:
        """Close the caches of an adapter."""
        for kept in [one for one in self._kept if one.adapter == adapter]:
            self._kept.remove(kept)
            kept.decoder.close()

    def clear(self) -> None:
        """Close every cache."""
        for kept in self._kept:
            kept.decoder.close()
        self._kept.clear()

    def _decoder(
        self,
        adapter: str | None,
        n_tokens: int,
        constraint: Constraint | None,
        kind: GraphKind | None,
    ) -> Decoder:
        return self._loaded.decoder(
            adapter=adapter, capacity_tokens=n_tokens, constraint=constraint, kind=kind
        )

    def _n_usable(
        self, kept: _Kept, adapter: str | None, tokens: Sequence[int], capacity: int
    ) -> int:
        if kept.adapter != adapter or (self._is_exact and kept.decoder.capacity_tokens != capacity):
            return 0
        # One token at least is left to run, since logits come from running.
        most = min(len(kept.tokens), len(tokens) - 1)
        n = next((i for i in range(most) if kept.tokens[i] != tokens[i]), most)
        return self._whole(n)

    def _whole(self, n_tokens: int) -> int:
        """So many of them as may be kept."""
        whole = n_tokens // PREFILL_CHUNK_TOKENS * PREFILL_CHUNK_TOKENS
        return whole if self._is_exact else n_tokens
