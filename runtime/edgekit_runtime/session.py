"""A session: one conversation, with its key-value cache and its adapter."""

import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Literal, Self, Unpack

from edgekit_runtime.adapter_choice import AdapterChoice, adapter_text
from edgekit_runtime.card import AdapterCard
from edgekit_runtime.chat import Message, messages_json
from edgekit_runtime.decoder import Decoder, grown_capacity
from edgekit_runtime.errors import ContextLengthError, GenerationError
from edgekit_runtime.generation import (
    Generation,
    GenerationStream,
    Outcome,
    Run,
    Timings,
    Usage,
)
from edgekit_runtime.loaded import LoadedTarget
from edgekit_runtime.prompting import fit_answer
from edgekit_runtime.sampling import GenerateOptions, Options, resolve_options
from edgekit_runtime.stopping import TextStream
from edgekit_runtime.templates import fill_template, fill_with_text

OnFull = Literal["drop_oldest", "error"]

# A cache grows in steps while an answer is longer than this.
_EXPECTED_ANSWER_TOKENS: Final = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionStats:
    """Where a session stands.

    Attributes:
        usage: Tokens of the last answer, None before the first.
        timings: Times of the last answer, None before the first.
        context_used: Tokens of prompt and answer after the last turn.
        context_limit: Tokens that the context holds.
        dropped_turns: Turns at the beginning that the model no longer sees.
    """

    usage: Usage | None
    timings: Timings | None
    context_used: int
    context_limit: int
    dropped_turns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """What a turn will run."""

    tokens: list[int]
    options: Options
    n_dropped: int


class Session:
    """One conversation; start one with `Engine.session`.

    Every turn renders the whole conversation with the chat template; the part that is in the
    cache already is not run again. An adapter that records a prompt template is a single-turn
    skill: each turn fills that template and sees no history.

    A swap of the adapter, or a change of the system message, runs the conversation anew in the
    next turn: no cache ever mixes two adapters.

    When the context is full (prompt and answer do not fit, where an answer counts for at most
    a quarter of the context), the oldest turns are left out until at most half of the context
    is used; the system message and the newest turn always stay. `messages` keeps everything,
    and `Generation.dropped_turns` tells how much the model no longer sees. With
    ``on_full="error"`` the turn is refused instead.

    A cancelled, timed-out or closed answer is recorded as far as it came (a turn without a
    token is not recorded). One session serves one thread at a time.
    """

    def __init__(
        self,
        loaded: LoadedTarget,
        *,
        adapter: str | None,
        system: str | None,
        messages: Sequence[Message],
        on_full: OnFull,
        options: GenerateOptions,
    ) -> None:
        if on_full not in ("drop_oldest", "error"):
            raise GenerationError(f"on_full: expected 'drop_oldest' or 'error', got {on_full!r}")
        self._loaded = loaded
        self._card = None if adapter is None else loaded.bundle.adapter_card(adapter)
        resolve_options(options)
        self._options = options
        self._on_full = on_full
        self._system = system
        if messages:
            messages_json(messages)
        self._messages: list[dict[str, Any]] = [dict(message) for message in messages]
        self._n_hidden = 0
        self._decoder: Decoder | None = None
        self._last: Generation | None = None
        self._busy = threading.Lock()

    @property
    def adapter(self) -> str | None:
        """The active adapter, None for the base."""
        return self._card.name if self._card else None

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The whole conversation, without the system message; a copy."""
        return [dict(message) for message in self._messages]

    @property
    def system(self) -> str | None:
        """The system message."""
        return self._system

    @system.setter
    def system(self, text: str | None) -> None:
        with self._exclusive():
            self._system = text

    @property
    def stats(self) -> SessionStats:
        """Figures of the last turn and of the context."""
        last = self._last
        used = last.usage.prompt_tokens + last.usage.completion_tokens if last else 0
        return SessionStats(
            usage=last.usage if last else None,
            timings=last.timings if last else None,
            context_used=used,
            context_limit=self._loaded.context_length,
            dropped_turns=self._n_hidden,
        )

    def generate(
        self,
        text: str | None = None,
        *,
        inputs: Mapping[str, str] | None = None,
        **overrides: Unpack[GenerateOptions],
    ) -> Generation:
        """Say something and get the whole answer; see `stream`."""
        return self.stream(text, inputs=inputs, **overrides).finish()

    def stream(
        self,
        text: str | None = None,
        *,
        inputs: Mapping[str, str] | None = None,
        **overrides: Unpack[GenerateOptions],
    ) -> GenerationStream:
        """Say something and get the answer piece by piece.

        Args:
            text: The user's message.
            inputs: Instead of text, values for the fields of the adapter's prompt template.
            **overrides: Options of this turn, see `edgekit_runtime.sampling.GenerateOptions`.

        Raises:
            GenerationError: If the turn cannot be run; the session stays as it was.
        """
        started = time.perf_counter()
        defaults = self._card.defaults if self._card else {}
        options = resolve_options(defaults, self._options, overrides)
        said = self._said(text, inputs)
        outcome = Outcome()
        return GenerationStream(self._turn(said, inputs, options, started, outcome), outcome)

    def swap(self, adapter: AdapterChoice) -> None:
        """Go on with another adapter, with several as `Engine.generate` takes them, or the base.

        Raises:
            AdapterError: If it is unknown or does not fit; the session stays as it was.
        """
        with self._exclusive():
            name = adapter_text(adapter)
            if name == self.adapter:
                return
            card = None if name is None else self._loaded.bundle.adapter_card(name)
            if name is not None:
                self._loaded.pool().check(name)
            self._drop_cache()
            if name is not None:
                self._loaded.pool().load(name)
            self._card = card

    def reset(self) -> None:
        """Forget the conversation; the system message and the adapter stay."""
        with self._exclusive():
            self._messages.clear()
            self._n_hidden = 0
            self._last = None

    def close(self) -> None:
        """Free the cache and let the adapter go."""
        self._drop_cache()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _turn(
        self,
        said: str,
        inputs: Mapping[str, str] | None,
        options: Options,
        started: float,
        outcome: Outcome,
    ) -> Generator[str, None, None]:
        with self._exclusive():
            plan = self._plan(said, inputs, options)
            decoder = self._decoder_for(plan)
            tokenizer = self._loaded.tokenizer()
            run = Run(
                decoder,
                prompt=plan.tokens,
                n_cached=decoder.keep_prefix(plan.tokens),
                options=plan.options,
                text=TextStream(tokenizer.stream().decode, options.stop),
                eos_ids=tokenizer.eos_ids,
                started=started,
                adapter=self.adapter,
                dropped_turns=plan.n_dropped,
            )
            try:
                yield from run.pieces(outcome)
            finally:
                if decoder is not self._decoder:
                    decoder.close()
                if outcome.result is None:
                    self._drop_cache()
                else:
                    self._record(said, outcome.result)

    def _record(self, said: str, answer: Generation) -> None:
        self._last = answer
        self._n_hidden = answer.dropped_turns
        if answer.token_ids or answer.finish_reason == "stop":
            self._messages.append({"role": "user", "content": said})
            self._messages.append({"role": "assistant", "content": answer.text})

    def _said(self, text: str | None, inputs: Mapping[str, str] | None) -> str:
        """The user's message as the conversation records it."""
        if (text is None) == (inputs is None):
            raise GenerationError("expected either text or inputs")
        if inputs is not None:
            if self._card is None or self._card.prompt_template is None:
                raise GenerationError(
                    "inputs fill an adapter's prompt template, and none is active",
                    hint="Swap to an adapter that records one, or pass text.",
                )
            return "\n".join(str(value) for value in inputs.values())
        if not isinstance(text, str) or not text:
            raise GenerationError(f"text: expected a non-empty str, got {text!r}")
        return text

    def _plan(self, said: str, inputs: Mapping[str, str] | None, options: Options) -> _Plan:
        limit = self._loaded.context_length
        if self._card is not None and self._card.prompt_template is not None:
            tokens, n_dropped = self._skill_tokens(self._card, said, inputs), self._n_hidden
        else:
            tokens, n_dropped = self._fitting_chat(said, options)
        fitted = fit_answer(options, n_prompt=len(tokens), context_length=limit)
        return _Plan(tokens=tokens, options=fitted, n_dropped=n_dropped)

    def _skill_tokens(
        self, card: AdapterCard, said: str, inputs: Mapping[str, str] | None
    ) -> list[int]:
        template, where = card.prompt_template or "", f"the prompt of {card.name!r}"
        if inputs is None:
            prompt = fill_with_text(template, said, where=where)
        else:
            prompt = fill_template(template, inputs, where=where)
        return self._loaded.tokenizer(adapter=self.adapter).encode(prompt)

    def _fitting_chat(self, said: str, options: Options) -> tuple[list[int], int]:
        """Render the conversation, without as many of its oldest turns as the context asks."""
        limit = self._loaded.context_length
        room = min(options.max_new_tokens, limit // 4)
        n_dropped = self._n_hidden
        tokens = self._chat_tokens(said, n_dropped)
        if len(tokens) + room <= limit:
            return tokens, n_dropped
        if self._on_full == "error":
            raise ContextLengthError(
                "the conversation is too long for the context",
                problems=[f"expected at most {limit - room} tokens, got {len(tokens)}"],
                hint="Reset the session, shorten max_new_tokens, or use on_full='drop_oldest'.",
            )
        n_turns = len(self._turn_starts())
        while n_dropped < n_turns and len(tokens) > limit // 2:
            n_dropped += 1
            tokens = self._chat_tokens(said, n_dropped)
        return tokens, n_dropped

    def _turn_starts(self) -> list[int]:
        """Where each turn begins in the messages: at what the user says."""
        return [i for i, message in enumerate(self._messages) if message["role"] == "user"]

    def _chat_tokens(self, said: str, n_dropped: int) -> list[int]:
        starts = [*self._turn_starts(), len(self._messages)]
        kept = self._messages[starts[n_dropped] if n_dropped else 0 :]
        system = self._system if self._system is not None else self._card and self._card.system
        head = [{"role": "system", "content": system}] if system else []
        tokenizer = self._loaded.tokenizer(adapter=self.adapter)
        messages = [*head, *kept, {"role": "user", "content": said}]
        rendered = tokenizer.apply_chat_template(messages_json(messages), None)
        return tokenizer.encode_chat(rendered)

    def _decoder_for(self, plan: _Plan) -> Decoder:
        """The session's own decoder, or one for this turn where a grammar rules it."""
        n_prompt, options = len(plan.tokens), plan.options
        if options.constraint is not None:
            return self._loaded.decoder(
                adapter=self.adapter,
                capacity_tokens=n_prompt + options.max_new_tokens,
                constraint=options.constraint,
            )
        if self._decoder is None or self._decoder.is_closed:
            n_tokens = n_prompt + min(options.max_new_tokens, _EXPECTED_ANSWER_TOKENS)
            self._decoder = self._loaded.decoder(
                adapter=self.adapter,
                capacity_tokens=grown_capacity(n_tokens, self._loaded.context_length),
            )
        return self._decoder

    def _drop_cache(self) -> None:
        if self._decoder is not None:
            self._decoder.close()
            self._decoder = None

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        if not self._busy.acquire(blocking=False):
            raise GenerationError(
                "the session is busy with another answer",
                hint="Read that stream to its end or close it; use one session per thread.",
            )
        try:
            yield
        finally:
            self._busy.release()
