"""How likely each token was, told beside the text."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgekit_runtime.decoder import PREFILL_CHUNK_TOKENS, Decoder
from edgekit_runtime.native import Tokenizer
from edgekit_runtime.sampling import Logits
from edgekit_runtime.scoring import log_softmax
from edgekit_runtime.serving.jobs import TokenLogProb

_NEVER: Final = -9999.0


class Watch:
    """Gathers the log probabilities of tokens, under the model itself: before any sampling.

    Args:
        tokenizer: Makes text of tokens.
        n_top: How many likely tokens to tell in the place of each.
    """

    def __init__(self, tokenizer: Tokenizer, n_top: int) -> None:
        self._tokenizer = tokenizer
        self._n_top = n_top
        self._stream = tokenizer.stream()
        self._before: int | None = None
        self._found: list[TokenLogProb] = []

    def __call__(self, logits: Logits, token: int) -> None:
        """Note a token and the logits that it was chosen by."""
        log_probs = log_softmax(logits)
        top = tuple(
            (int(one), self._text_behind(int(one)), _finite(log_probs[one]))
            for one in _likeliest(log_probs, self._n_top)
        )
        self._note(token, _finite(log_probs[token]), top)

    def prompt(self, decoder: Decoder, tokens: Sequence[int]) -> Iterator[None]:
        """Run a prompt on a graph that keeps the logits of every position; yield between pieces."""
        self._note(tokens[0], None, ())
        for start in range(0, len(tokens), PREFILL_CHUNK_TOKENS):
            piece = tokens[start : start + PREFILL_CHUNK_TOKENS]
            following = tokens[start + 1 : start + 1 + len(piece)]
            for logits, token in zip(decoder.piece_logits(piece), following, strict=False):
                self(logits, token)
            yield

    def take(self) -> list[list[Any]]:
        """What was noted since the last call, as it goes to the server."""
        found, self._found = self._found, []
        return [one.to_list() for one in found]

    def _note(
        self, token: int, log_prob: float | None, top: tuple[tuple[int, str, float], ...]
    ) -> None:
        text = self._stream.decode(token)
        self._before = token
        self._found.append(TokenLogProb(token_id=token, text=text, log_prob=log_prob, top=top))

    def _text_behind(self, token: int) -> str:
        """What a token would add here; some tokenizers write a space only between two."""
        stream = self._tokenizer.stream()
        if self._before is not None:
            stream.decode(self._before)
        return str(stream.decode(token))


def _likeliest(log_probs: NDArray[np.float64], n: int) -> NDArray[np.intp]:
    if n == 0:
        return np.zeros(0, dtype=np.intp)
    n = min(n, len(log_probs))
    found = np.argpartition(-log_probs, n - 1)[:n]
    return found[np.argsort(-log_probs[found], kind="stable")]


def _finite(log_prob: np.float64) -> float:
    """JSON has no infinity; this is as good as none."""
    return max(float(log_prob), _NEVER)
