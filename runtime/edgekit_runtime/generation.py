"""One answer: the loop that makes it, the stream that shows it, the record that is left."""

import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, TypeVar

from edgekit_runtime.decoder import PREFILL_CHUNK_TOKENS, Decoder
from edgekit_runtime.errors import GenerationError
from edgekit_runtime.sampling import Logits, Options, sampler_for
from edgekit_runtime.stopping import TextStream

FinishReason = Literal["stop", "stop_string", "length", "cancelled", "timeout"]
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Tokens of one answer.

    Attributes:
        prompt_tokens: Length of the prompt.
        completion_tokens: Length of the answer, without the end-of-text token.
        cached_tokens: How many of the prompt's tokens were in the cache already.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Timings:
    """Times of one answer.

    Attributes:
        ttft_ms: From the request to the first token, loading included; None without a token.
        total_ms: From the request to the end.
        load_ms: Share of it for loading graph and adapter and allocating the cache.
        prefill_tokens_per_s: Prompt tokens that were run, in a second; None if unknown.
        decode_tokens_per_s: Tokens after the first, in a second, without the time in which
            the caller held the stream; None if unknown.
    """

    ttft_ms: float | None
    total_ms: float
    load_ms: float
    prefill_tokens_per_s: float | None
    decode_tokens_per_s: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """An answer; its ``str()`` is the text.

    Attributes:
        token_ids: All generated tokens, also those of a stop string; not the end-of-text token.
        finish_reason: "stop" (the model ended it), "stop_string", "length", "cancelled",
            "timeout".
        adapter: The adapter that was active, or None for the base.
        dropped_turns: Turns that a session left out to make room in the context.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    adapter: str | None
    dropped_turns: int = 0

    def __str__(self) -> str:
        return self.text

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self) | {"token_ids": list(self.token_ids)}


class Outcome:
    """Where a run leaves its answer.

    Attributes:
        is_unwanted: Set from another thread, it ends the run at its next step.
    """

    def __init__(self) -> None:
        self.result: Generation | None = None
        self.is_unwanted = False


class Run:
    """Makes one answer on a decoder that holds the first ``n_cached`` tokens of the prompt.

    Args:
        started: `time.perf_counter` at the request.
        watch: Told the logits before each generated token, and that token; the end-of-text
            token too.
    """

    def __init__(
        self,
        decoder: Decoder,
        *,
        prompt: Sequence[int],
        n_cached: int,
        options: Options,
        text: TextStream,
        eos_ids: frozenset[int],
        started: float,
        adapter: str | None,
        dropped_turns: int = 0,
        watch: Callable[[Logits, int], None] | None = None,
    ) -> None:
        self._decoder = decoder
        self._prompt = prompt
        self._n_cached = n_cached
        self._options = options
        self._text = text
        self._eos_ids = eos_ids
        self._started = started
        self._load_s = time.perf_counter() - started
        self._adapter = adapter
        self._dropped_turns = dropped_turns
        self._watch = watch
        self._sampler = sampler_for(options)
        self._tokens: list[int] = []
        self._prefill_s = 0.0
        self._first_at: float | None = None
        self._decode_s = 0.0

    def pieces(self, outcome: Outcome) -> Generator[str, None, None]:
        """Yield the text as it comes; the outcome is there once this has ended or was closed."""
        with closing(self.steps(outcome)) as steps:
            for piece in steps:
                if piece:
                    yield piece

    def steps(self, outcome: Outcome) -> Generator[str, None, None]:
        """Like `pieces`, but yield after every piece of the prompt and every token.

        Most of the former and some of the latter bring no text.
        """
        try:
            reason = yield from self._prefill(outcome)
            while reason is None:
                reason, piece = self._step(outcome)
                yield piece
            tail = self._text.finish()
        except (GeneratorExit, KeyboardInterrupt):
            self._text.finish()
            outcome.result = self._record("cancelled")
            raise
        outcome.result = self._record(reason)
        if tail:
            yield tail

    def _interrupted(self, outcome: Outcome) -> FinishReason | None:
        options = self._options
        if outcome.is_unwanted or (options.cancel is not None and options.cancel.is_set()):
            return "cancelled"
        elapsed = time.perf_counter() - self._started
        if options.timeout_s is not None and elapsed > options.timeout_s:
            return "timeout"
        return None

    def _prefill(self, outcome: Outcome) -> Generator[str, None, FinishReason | None]:
        """Run the prompt; return why it was interrupted, if so."""
        before = time.perf_counter()
        self._decoder.reserve(len(self._prompt) - self._n_cached)
        for start in range(self._n_cached, len(self._prompt), PREFILL_CHUNK_TOKENS):
            if reason := self._interrupted(outcome):
                return reason
            self._decoder.append(self._prompt[start : start + PREFILL_CHUNK_TOKENS])
            self._prefill_s += time.perf_counter() - before
            yield ""
            before = time.perf_counter()
        return None

    def _step(self, outcome: Outcome) -> tuple[FinishReason | None, str]:
        """Generate one token; return why it was the last, if so, and the text it brings."""
        if reason := self._interrupted(outcome):
            return reason, ""
        before = time.perf_counter()
        logits = self._decoder.logits() if self._watch else None
        token = self._decoder.next(self._sampler)
        now = time.perf_counter()
        if self._watch and logits is not None:
            self._watch(logits, token)
        if self._first_at is None:
            self._first_at = now
        else:
            self._decode_s += now - before
        if token in self._eos_ids:
            return "stop", ""
        self._tokens.append(token)
        piece = self._text.push(token)
        if self._text.stopped:
            return "stop_string", piece
        is_full = len(self._tokens) >= self._options.max_new_tokens
        return ("length" if is_full else None), piece

    def _record(self, reason: FinishReason) -> Generation:
        total_s = time.perf_counter() - self._started
        n_run, n_decoded = len(self._prompt) - self._n_cached, len(self._tokens) - 1
        is_prefilled = self._first_at is not None and self._prefill_s > 0
        return Generation(
            text=self._text.text,
            token_ids=tuple(self._tokens),
            finish_reason=reason,
            usage=Usage(
                prompt_tokens=len(self._prompt),
                completion_tokens=len(self._tokens),
                cached_tokens=self._n_cached,
            ),
            timings=Timings(
                ttft_ms=None if self._first_at is None else (self._first_at - self._started) * 1e3,
                total_ms=total_s * 1e3,
                load_ms=self._load_s * 1e3,
                prefill_tokens_per_s=n_run / self._prefill_s if is_prefilled else None,
                decode_tokens_per_s=n_decoded / self._decode_s
                if n_decoded > 0 and self._decode_s > 0
                else None,
            ),
            adapter=self._adapter,
            dropped_turns=self._dropped_turns,
        )


class GenerationStream(Iterator[str], AsyncIterator[str]):
    """The pieces of an answer as they come, by ``for`` or by ``async for``.

    Nothing runs before the first piece is asked for. Closing it early, by `close` or the end
    of a ``with`` block, stops the answer; `result` then holds what there was.

    In an asyncio program each piece is made in a thread, so that the event loop goes on. A task
    that is cancelled ends the answer within one token, or 128 tokens of the prompt.
    """

    def __init__(self, pieces: Generator[str, None, None], outcome: Outcome) -> None:
        self._pieces = pieces
        self._outcome = outcome

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Stop here."""
        self._pieces.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def result(self) -> Generation:
        """The whole answer.

        Raises:
            GenerationError: While the answer is not complete.
        """
        if self._outcome.result is None:
            raise GenerationError(
                "the answer is not complete", hint="Read the stream to its end, or close it, first."
            )
        return self._outcome.result

    def finish(self) -> Generation:
        """Read to the end and return the whole answer."""
        for _ in self:
            pass
        return self.result

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        piece = await self._in_thread(lambda: next(self._pieces, None))
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Like `close`, in an asyncio program."""
        await self._in_thread(self._pieces.close)

    async def afinish(self) -> Generation:
        """Like `finish`, in an asyncio program."""
        async for _ in self:
            pass
        return self.result

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        """Do it in a thread; a cancelled task waits until the thread is done."""
        import asyncio

        running = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            self._outcome.is_unwanted = True
            await asyncio.wait([running])
            running.exception()  # seen, so that asyncio does not complain of it
            raise
