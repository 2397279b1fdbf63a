"""What can be scored: a torch model with an adapter, or a bundle with an adapter.

Both answer the same questions, so that one scoring code serves both.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from edgekit.bases import resolve_base
from edgekit.building.device_weights import use_device_weights
from edgekit.evaluating.torch_scoring import (
    TokenPair,
    continuation_log_probs,
    nll_in_batches,
    score_pairs,
)
from edgekit.targets import TargetProfile
from edgekit.tokenizing import encode
from edgekit.training.generating import end_token_ids, generate_texts
from edgekit.training.tokens import IGNORED, Question, TokenizedExample
from edgekit_runtime import Bundle
from edgekit_runtime.classifying import classification_of, continuations

Progress = Callable[[int], None]


class Subject(Protocol):
    """Something that answers questions."""

    @property
    def tokenizer(self) -> Any:
        """The Hugging Face tokenizer of its base."""

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""

    @property
    def max_length(self) -> int:
        """Longest prompt plus answer, in tokens."""

    def answer(
        self,
        questions: Sequence[Question],
        *,
        max_new_tokens: int,
        stops: Sequence[str],
        done: Progress,
    ) -> list[str]:
        """Continue every prompt greedily; any of the stop strings ends an answer before it."""

    def classify(
        self, questions: Sequence[Question], completions: Sequence[str], *, done: Progress
    ) -> list[tuple[str, float]]:
        """The completion that is likeliest as the whole answer, and its share among all."""

    def nll(self, sequences: Sequence[TokenizedExample]) -> tuple[float, int]:
        """Total negative log-likelihood (nats) of the labelled tokens, and their number."""

    def nll_of_each(self, sequences: Sequence[TokenizedExample]) -> list[tuple[float, int]]:
        """The same of every sequence."""

    def score_tokens(self, pairs: Sequence[TokenPair]) -> list[tuple[float, bool]]:
        """Of tokens behind given ones: log-probability (nats), and whether greedy writes them."""


@dataclass(frozen=True, slots=True)
class TorchSubject:
    """A float model, with a PEFT adapter or without."""

    model: Any
    tokenizer: Any
    end_ids: frozenset[int]
    max_length: int

    def answer(
        self,
        questions: Sequence[Question],
        *,
        max_new_tokens: int,
        stops: Sequence[str],
        done: Progress,
    ) -> list[str]:
        """Continue every prompt greedily, in batches."""
        return generate_texts(
            self.model,
            self.tokenizer,
            [question.prompt_ids for question in questions],
            max_new_tokens=max_new_tokens,
            end_ids=self.end_ids,
            stops=stops,
            on_progress=done,
        )

    def classify(
        self, questions: Sequence[Question], completions: Sequence[str], *, done: Progress
    ) -> list[tuple[str, float]]:
        """Every completion and its end in full, behind one run of the prompt."""
        found = []
        for number, question in enumerate(questions, 1):
            parts = completion_tokens(self.tokenizer, question, completions)
            log_probs = continuation_log_probs(self.model, question.prompt_ids, parts, self.end_ids)
            result = classification_of(completions, log_probs, None)
            found.append((result.label, result.probabilities[result.label]))
            done(number)
        return found

    def nll(self, sequences: Sequence[TokenizedExample]) -> tuple[float, int]:
        """Over batches of similar length."""
        return _sum_of(self.nll_of_each(sequences))

    def nll_of_each(self, sequences: Sequence[TokenizedExample]) -> list[tuple[float, int]]:
        """Over batches of similar length."""
        return nll_in_batches(self.model, sequences, pad_token_id=min(self.end_ids))

    def score_tokens(self, pairs: Sequence[TokenPair]) -> list[tuple[float, bool]]:
        """In small batches, those of similar length together."""
        return score_pairs(self.model, pairs, pad_token_id=min(self.end_ids))


@dataclass(frozen=True, slots=True)
class BundleSubject:
    """A bundle on this machine, with one of its adapters or without."""

    engine: Any
    adapter: str | None
    tokenizer: Any
    end_ids: frozenset[int]
    max_length: int

    def answer(
        self,
        questions: Sequence[Question],
        *,
        max_new_tokens: int,
        stops: Sequence[str],
        done: Progress,
    ) -> list[str]:
        """Continue every prompt greedily, through the runtime that ships."""
        texts = []
        for number, question in enumerate(questions, 1):
            generation = self.engine.generate(
                None if question.messages else question.prompt,
                messages=question.messages,
                adapter=self.adapter,
                max_new_tokens=max_new_tokens,
                temperature=0.0,
                stop=tuple(stops),
            )
            texts.append(generation.text)
            done(number)
        return texts

    def classify(
        self, questions: Sequence[Question], completions: Sequence[str], *, done: Progress
    ) -> list[tuple[str, float]]:
        """By the runtime that ships: one run of the prompt, then the tree of labels."""
        found = []
        for number, question in enumerate(questions, 1):
            result = self.engine.classify(
                prompt=None if question.messages else question.prompt,
                messages=question.messages,
                labels=completions,
                adapter=self.adapter,
            )
            found.append((result.label, result.probabilities[result.label]))
            done(number)
        return found

    def nll(self, sequences: Sequence[TokenizedExample]) -> tuple[float, int]:
        """On the graph that keeps the logits of every position."""
        return _sum_of(self.nll_of_each(sequences))

    def nll_of_each(self, sequences: Sequence[TokenizedExample]) -> list[tuple[float, int]]:
        """On the graph that keeps the logits of every position, one sequence at a time."""
        found = []
        for sequence in sequences:
            log_probs = self.engine.token_log_probs(sequence.input_ids, adapter=self.adapter)
            learnt = [
                float(log_probs[position - 1])
                for position, label in enumerate(sequence.labels)
                if position and label != IGNORED
            ]
            found.append((-sum(learnt), len(learnt)))
        return found

    def score_tokens(self, pairs: Sequence[TokenPair]) -> list[tuple[float, bool]]:
        """By the runtime that ships: what several pairs begin with is run once."""
        scores = self.engine.score_tokens(pairs, adapter=self.adapter)
        return [(score.log_prob, score.is_greedy) for score in scores]


def completion_tokens(
    tokenizer: Any, question: Question, completions: Sequence[str]
) -> list[list[int]]:
    """Tokens of each completion behind a question's prompt, as training cuts them."""

    def alone(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False).input_ids)

    whole = alone if question.messages else partial(encode, tokenizer)
    return continuations(question.prompt, question.prompt_ids, completions, whole, alone)


def _sum_of(found: Sequence[tuple[float, int]]) -> tuple[float, int]:
    return sum(nll for nll, _ in found), sum(count for _, count in found)


@contextmanager
def torch_subject(
    base: str, adapter: Path | None, *, profile: TargetProfile | None = None
) -> Iterator[TorchSubject]:
    """Load a base, with its float weights or a target's own, and attach a PEFT adapter."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from edgekit.adapters.any_kind import with_adapter

    resolved = resolve_base(base)
    tokenizer = AutoTokenizer.from_pretrained(resolved.path)
    model = AutoModelForCausalLM.from_pretrained(resolved.path, dtype=torch.float32).eval()
    if profile is not None:
        use_device_weights(model, resolved, profile)
    ends = end_token_ids(tokenizer, model.generation_config)
    if adapter is not None:
        model = with_adapter(model, resolved, adapter)
        if any(config.use_dora for config in getattr(model, "peft_config", {}).values()):
            # PEFT takes the norm of every weight anew for every token: half of the time.
            model.merge_adapter(safe_merge=True)
    yield TorchSubject(model, tokenizer, ends, model.config.max_position_embeddings)


@contextmanager
def bundle_subject(
    bundle: Path, adapter: str | None, *, target: str | None = None, threads: int | None = None
) -> Iterator[BundleSubject]:
    """Open a bundle on this machine."""
    from transformers import AutoTokenizer

    opened = Bundle.open(bundle)
    if adapter is not None:
        opened.adapter_card(adapter)
    tokenizer = AutoTokenizer.from_pretrained(bundle / opened.manifest.tokenizer)
    with opened.engine(target, threads=threads) as engine:
        path = opened.manifest.targets[engine.target].path
        config = json.loads((bundle / path / "genai_config.json").read_text(encoding="utf-8"))
        ends = config["model"]["eos_token_id"]
        end_ids = frozenset(ends if isinstance(ends, list) else [ends])
        yield BundleSubject(
            engine, adapter, tokenizer, end_ids | {tokenizer.eos_token_id}, engine.context_length
        )
