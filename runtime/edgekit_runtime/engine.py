"""The engine: one opened bundle on one target, for any number of threads and sessions."""

import json
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

import numpy as np
from numpy.typing import NDArray

from edgekit_runtime.adapter_choice import AdapterChoice, adapter_name, adapter_text
from edgekit_runtime.adapters import AdapterStatus
from edgekit_runtime.card import AdapterCard
from edgekit_runtime.chat import Message, messages_json
from edgekit_runtime.classifying import (
    Classification,
    check_labels,
    classification_of,
    completions_of,
    continuations,
    label_log_probs,
    recorded_labels,
)
from edgekit_runtime.decoder import Decoder
from edgekit_runtime.errors import ContextLengthError, GenerationError
from edgekit_runtime.extracting import ExtractOptions, extracted
from edgekit_runtime.generation import Generation, GenerationStream, Outcome, Run
from edgekit_runtime.loaded import LoadedTarget
from edgekit_runtime.prompting import fit_answer, prompt_text
from edgekit_runtime.sampling import GenerateOptions, Options, resolve_options
from edgekit_runtime.scoring import Score, score_completions, split_completion, token_log_probs
from edgekit_runtime.stopping import TextStream
from edgekit_runtime.targets import choose_target
from edgekit_runtime.templates import fill_with_text

if TYPE_CHECKING:
    from edgekit_runtime.bundle import Bundle
    from edgekit_runtime.routing import Router
    from edgekit_runtime.session import OnFull, Session


class Engine:
    """Generates with the base or any adapter of a bundle; start one with `Bundle.engine`.

    Graphs and adapters are loaded when first needed. Every method may be called from any
    thread; answers that run at the same time take turns, token by token.
    """

    def __init__(
        self,
        bundle: "Bundle",
        target: str | None = None,
        *,
        threads: int | None = None,
        adapter_budget_bytes: int,
        context_length: int | None = None,
    ) -> None:
        self.bundle = bundle
        self._choice = choose_target(bundle.manifest, target)
        self._loaded = LoadedTarget(
            bundle,
            self._choice.name,
            threads=threads,
            adapter_budget_bytes=adapter_budget_bytes,
            context_length=context_length,
        )

    @property
    def target(self) -> str:
        """Name of the target that runs."""
        return self._loaded.name

    @property
    def target_reason(self) -> str:
        """Why this target runs: asked for, or what kept faster ones from working here."""
        return self._choice.reason

    @property
    def threads(self) -> int:
        """Threads for one operator."""
        return self._loaded.threads

    @property
    def context_length(self) -> int:
        """Longest prompt plus answer, in tokens."""
        return self._loaded.context_length

    def generate(
        self,
        prompt: str | None = None,
        *,
        messages: Sequence[Message] | None = None,
        inputs: Mapping[str, str] | None = None,
        adapter: AdapterChoice = None,
        **options: Unpack[GenerateOptions],
    ) -> Generation:
        """Answer one prompt.

        Args:
            prompt: Raw text; exactly one of prompt, messages and inputs is given.
            messages: A conversation for the base's chat template.
            inputs: Values for the fields of the adapter's recorded prompt template.
            adapter: Name of an adapter, or several with weights, as `{"legal": 0.7, "tone": 0.3}`,
                whose sum answers; None for the base.
            **options: See `edgekit_runtime.sampling.GenerateOptions`.

        Raises:
            AdapterError: If the adapter is unknown or does not fit.
            GenerationError: If the request cannot be run.
        """
        return self.stream(
            prompt, messages=messages, inputs=inputs, adapter=adapter, **options
        ).finish()

    def stream(
        self,
        prompt: str | None = None,
        *,
        messages: Sequence[Message] | None = None,
        inputs: Mapping[str, str] | None = None,
        adapter: AdapterChoice = None,
        **options: Unpack[GenerateOptions],
    ) -> GenerationStream:
        """Like `generate`, piece by piece; the request is checked here, the work starts there."""
        return self._start({"prompt": prompt}, messages, inputs, adapter, options)

    def session(
        self,
        adapter: AdapterChoice = None,
        system: str | None = None,
        *,
        messages: Sequence[Message] = (),
        on_full: "OnFull" = "drop_oldest",
        **options: Unpack[GenerateOptions],
    ) -> "Session":
        """Start a conversation.

        Args:
            adapter: Name of an adapter, or several with weights, as `{"legal": 0.7, "tone": 0.3}`,
                whose sum answers; None for the base.
            system: The system message.
            messages: A conversation to go on with.
            on_full: What to do when the context is full, see `Session`.
            **options: Defaults of every turn.
        """
        from edgekit_runtime.session import Session

        return Session(
            self._loaded,
            adapter=adapter_text(adapter),
            system=system,
            messages=messages,
            on_full=on_full,
            options=options,
        )

    def classify(
        self,
        text: str | None = None,
        labels: Sequence[str] | None = None,
        *,
        prompt: str | None = None,
        messages: Sequence[Message] | None = None,
        inputs: Mapping[str, str] | None = None,
        adapter: AdapterChoice = None,
    ) -> Classification:
        """Pick the label that is likeliest as the whole answer, and say how likely each is.

        The prompt is run once, whatever the number of labels.

        Args:
            text: What is to be classified: fills the adapter's recorded prompt template; raw
                text where it has none. Exactly one of text, prompt, messages, inputs is given.
            labels: What to choose from; those that the adapter records by default. White space
                that the adapter's completions begin with is put before them.
            prompt: Raw text, template filled.
            messages: A conversation for the base's chat template.
            inputs: Values for the fields of the adapter's recorded prompt template.
            adapter: Name of an adapter, or several with weights, as `{"legal": 0.7, "tone": 0.3}`,
                whose sum answers; None for the base.

        Raises:
            AdapterError: If the adapter is unknown or does not fit.
            GenerationError: If the request cannot be run, or there are not two labels.
        """
        chosen = adapter_text(adapter)
        card = None if chosen is None else self.bundle.adapter_card(chosen)
        names = check_labels(recorded_labels(card) if labels is None else labels)
        raw = {"text": text, "prompt": prompt}
        asked, encode = self._asked_text(raw, messages, inputs, card)
        template = card.recipe.get("completion") if card and messages is None else None
        alone = self._loaded.tokenizer().encode_chat
        tokens = encode(asked)
        parts = continuations(asked, tokens, completions_of(names, template), encode, alone)
        if not tokens:
            raise GenerationError("the prompt is empty", hint="Give at least one character.")
        longest = len(tokens) + max(len(part) for part in parts)
        self._check_scored_length(longest)
        ends = self._loaded.tokenizer().eos_ids
        with closing(self._loaded.decoder(adapter=chosen, capacity_tokens=longest)) as decoder:
            log_probs = label_log_probs(decoder, tokens, parts, ends)
        return classification_of(names, log_probs, chosen)

    def extract(
        self,
        text: str | None = None,
        schema: Mapping[str, Any] | str | None = None,
        *,
        prompt: str | None = None,
        messages: Sequence[Message] | None = None,
        inputs: Mapping[str, str] | None = None,
        adapter: AdapterChoice = None,
        **options: Unpack[ExtractOptions],
    ) -> Any:
        """Answer with data: the value that a JSON schema describes.

        Args:
            text: What is to be read: fills the adapter's recorded prompt template; raw text where
                it has none. Exactly one of text, prompt, messages, inputs is given.
            schema: JSON schema, a dict or JSON text; the answer cannot but follow it.
            prompt: Raw text, template filled.
            messages: A conversation for the base's chat template.
            inputs: Values for the fields of the adapter's recorded prompt template.
            adapter: Name of an adapter, or several with weights, as `{"legal": 0.7, "tone": 0.3}`,
                whose sum answers; None for the base.
            **options: See `edgekit_runtime.extracting.ExtractOptions`.

        Returns:
            Dicts, lists, texts, numbers, booleans and None, as the schema has them.

        Raises:
            AdapterError: If the adapter is unknown or does not fit.
            GenerationError: If the request cannot be run, or the answer was cut off.
        """
        if schema is None:
            raise GenerationError(
                "expected a schema", hint="Give a JSON schema, as a dict or text."
            )
        asked = {"text": text, "prompt": prompt}
        told = {**options, "schema": schema}
        return extracted(self._start(asked, messages, inputs, adapter, told).finish())

    def router(
        self,
        examples: Mapping[str, Sequence[str]] | None = None,
        *,
        threshold: float | None = None,
    ) -> "Router":
        """Make what picks the adapter that a request is for; it runs every example once.

        Args:
            examples: Adapter name to texts such as people write; by default those that adapters
                record from their validation data, without the template around them.
            threshold: Least similarity, -1 to 1; by default what keeps the examples apart from
                requests of no special kind.

        Raises:
            GenerationError: If an adapter is unknown, or has fewer than two examples.
        """
        from edgekit_runtime.routing import Router

        return Router(self._loaded, examples, threshold)

    def score(
        self, prompt: str, completions: Sequence[str], *, adapter: AdapterChoice = None
    ) -> list[Score]:
        """Say how likely each completion is after the prompt.

        Raises:
            GenerationError: If a text is empty or does not fit the context.
        """
        empty = [f"completions[{i}]: empty" for i, text in enumerate(completions) if not text]
        if empty or not prompt:
            raise GenerationError(
                "nothing to score", problems=empty or ["prompt: empty"], hint="Give some text."
            )
        name = adapter_text(adapter)
        tokenizer = self._loaded.tokenizer(adapter=name)
        prompt_tokens = tokenizer.encode(prompt)
        pairs = [
            split_completion(prompt_tokens, tokenizer.encode(prompt + text)) for text in completions
        ]
        return self._score_pairs(pairs, name)

    def score_tokens(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], *, adapter: AdapterChoice = None
    ) -> list[Score]:
        """Say how likely tokens are after other tokens; what several pairs begin with is run once.

        Args:
            pairs: Tokens that are given and tokens that are scored, at least one of each.
            adapter: Name of an adapter, or several with weights, as `{"legal": 0.7, "tone": 0.3}`,
                whose sum answers; None for the base.

        Raises:
            GenerationError: If a pair lacks tokens or does not fit the context. The last token
                is not run, so it needs no room.
        """
        problems = [
            f"pairs[{i}]: expected token ids before and behind, none below 0"
            for i, (head, tail) in enumerate(pairs)
            if not len(head) or not len(tail) or min(*head, *tail) < 0
        ]
        if problems:
            raise GenerationError(
                "these tokens cannot be scored", problems=problems, hint="Use Engine.tokenize."
            )
        return self._score_pairs(pairs, adapter_text(adapter))

    def token_log_probs(
        self, token_ids: Sequence[int], *, adapter: AdapterChoice = None
    ) -> NDArray[np.float64]:
        """Log probability of ``token_ids[i]`` given those before it, for every i from 1.

        Raises:
            GenerationError: If there are fewer than two tokens, or more than the context holds.
        """
        tokens = [int(token) for token in token_ids]
        if len(tokens) < 2 or min(tokens) < 0:
            raise GenerationError(
                f"expected at least two token ids, none below 0, got {len(tokens)}",
                hint="Use Engine.tokenize.",
            )
        self._check_scored_length(len(tokens))
        with closing(self._scoring_decoder(adapter_text(adapter), len(tokens))) as decoder:
            return token_log_probs(decoder, tokens)

    def next_logits(
        self, token_ids: Sequence[int], *, adapter: "AdapterChoice" = None
    ) -> NDArray[np.float32]:
        """Logits (vocabulary,) of the token after some tokens, by the graph that generates.

        Raises:
            GenerationError: If there is no token, or more than the context holds.
        """
        tokens = [int(token) for token in token_ids]
        if not tokens or min(tokens) < 0:
            raise GenerationError("expected token ids, none below 0", hint="Use Engine.tokenize.")
        self._check_scored_length(len(tokens))
        name = adapter_text(adapter)
        with closing(self._loaded.decoder(adapter=name, capacity_tokens=len(tokens))) as decoder:
            decoder.append(tokens)
            return decoder.logits()

    def load_adapter(self, name: str | Mapping[str, float], *, pin: bool = False) -> None:
        """Load an adapter ahead of its first use.

        Args:
            name: Its name, or a blend of several.
            pin: Keep it loaded whatever the budget says.

        Raises:
            AdapterError: If it is unknown, changed, does not fit, or finds no room.
        """
        self._loaded.pool().load(adapter_name(name), pin=pin)

    def unload_adapter(self, name: str | Mapping[str, float]) -> None:
        """Unload an adapter, pinned or not.

        Raises:
            AdapterError: If it is unknown or in use.
        """
        self._loaded.pool().unload(adapter_name(name))

    def pin_adapter(self, name: str | Mapping[str, float]) -> None:
        """Load an adapter and keep it loaded."""
        self.load_adapter(name, pin=True)

    def unpin_adapter(self, name: str | Mapping[str, float]) -> None:
        """Let a pinned adapter be unloaded when room is needed."""
        self._loaded.pool().unpin(adapter_name(name))

    def adapters(self) -> list[AdapterStatus]:
        """Every adapter of the bundle that was built for this target."""
        return [self._loaded.adapter_status(name) for name in self._loaded.adapter_names()]

    def tokenize(self, text: str) -> list[int]:
        """Tokens of a text."""
        return self._loaded.tokenizer().encode(text)

    def apply_chat_template(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> str:
        """Render a conversation as the base expects it, ready for its answer.

        Args:
            messages: The conversation.
            tools: JSON descriptions of functions; the template must know what to do with them.
        """
        described = None if tools is None else json.dumps(list(tools), ensure_ascii=False)
        return self._loaded.tokenizer().apply_chat_template(messages_json(messages), described)

    def close(self) -> None:
        """Free everything. Answers that still run fail with a clear error."""
        self._loaded.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _start(
        self,
        asked: Mapping[str, str | None],
        messages: Sequence[Message] | None,
        inputs: Mapping[str, str] | None,
        adapter: AdapterChoice,
        options: Mapping[str, Any],
    ) -> GenerationStream:
        """Check a request; see `generate` and `_asked_text` for what it is made of."""
        started = time.perf_counter()
        name = adapter_text(adapter)
        card = None if name is None else self.bundle.adapter_card(name)
        checked = resolve_options(card.defaults if card else {}, options)
        text, encode = self._asked_text(asked, messages, inputs, card)
        tokens = encode(text)
        checked = fit_answer(checked, n_prompt=len(tokens), context_length=self.context_length)
        outcome = Outcome()
        return GenerationStream(self._pieces(tokens, name, checked, started, outcome), outcome)

    def _asked_text(
        self,
        asked: Mapping[str, str | None],
        messages: Sequence[Message] | None,
        inputs: Mapping[str, str] | None,
        card: AdapterCard | None,
    ) -> tuple[str, Callable[[str], list[int]]]:
        """What is asked, and what makes tokens of it; ``text`` goes into the adapter's template."""
        text = asked.get("text")
        if text is not None and card is not None and card.prompt_template is not None:
            where = f"the prompt of {card.name!r}"
            asked = {**asked, "text": fill_with_text(card.prompt_template, text, where=where)}
        return prompt_text(self._loaded, asked, messages, inputs, card)

    def _pieces(
        self,
        tokens: list[int],
        adapter: str | None,
        options: Options,
        started: float,
        outcome: Outcome,
    ) -> Generator[str, None, None]:
        decoder = self._loaded.decoder(
            adapter=adapter,
            capacity_tokens=len(tokens) + options.max_new_tokens,
            constraint=options.constraint,
        )
        tokenizer = self._loaded.tokenizer()
        with closing(decoder):
            run = Run(
                decoder,
                prompt=tokens,
                n_cached=0,
                options=options,
                text=TextStream(tokenizer.stream().decode, options.stop),
                eos_ids=tokenizer.eos_ids,
                started=started,
                adapter=adapter,
            )
            yield from run.pieces(outcome)

    def _check_scored_length(self, n_tokens: int) -> None:
        if n_tokens > self.context_length:
            raise ContextLengthError(
                "the text is too long for the context",
                problems=[f"expected at most {self.context_length} tokens, got {n_tokens}"],
                hint="Score it in windows.",
            )

    def _score_pairs(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], adapter: str | None
    ) -> list[Score]:
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, (head, _) in enumerate(pairs):
            groups.setdefault(tuple(head), []).append(index)
        longest = max((len(head) + len(tail) - 1 for head, tail in pairs), default=0)
        self._check_scored_length(longest)
        scores: dict[int, Score] = {}
        with closing(self._scoring_decoder(adapter, longest)) as decoder:
            for shared, indices in groups.items():
                tails = [pairs[index][1] for index in indices]
                scores |= zip(indices, score_completions(decoder, shared, tails), strict=True)
        return [scores[index] for index in range(len(pairs))]

    def _scoring_decoder(self, adapter: str | None, n_tokens: int) -> Decoder:
        return self._loaded.decoder(adapter=adapter, capacity_tokens=n_tokens, kind="score")
