"""Answers one job in the worker, step by step, so that several take turns in one thread."""

import json
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from edgekit_runtime.card import AdapterCard
from edgekit_runtime.chat import messages_json
from edgekit_runtime.decoder import Decoder
from edgekit_runtime.errors import GenerationError
from edgekit_runtime.generation import Outcome, Run
from edgekit_runtime.loaded import GraphKind, LoadedTarget
from edgekit_runtime.native import vocabulary_size
from edgekit_runtime.prompting import fit_answer
from edgekit_runtime.sampling import Options, resolve_options
from edgekit_runtime.serving.jobs import Job
from edgekit_runtime.serving.kept import KeptCaches
from edgekit_runtime.serving.watching import Watch
from edgekit_runtime.stopping import TextStream
from edgekit_runtime.templates import fill_with_text

if TYPE_CHECKING:
    from edgekit_runtime.routing import Router

Event = dict[str, Any]

# Where a request names no limit, room for this much is made first; it grows with the answer.
_EXPECTED_ANSWER_TOKENS: Final = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """What a job will run.

    Attributes:
        tokens: The prompt.
        n_expected: Tokens of prompt and answer that there is room for at first.
        needs_score: Whether logits at every position of the prompt are needed.
    """

    tokens: list[int]
    options: Options
    n_expected: int
    needs_score: bool


def answer(
    loaded: LoadedTarget, kept: KeptCaches, job: Job, router: "Router | None" = None
) -> Generator[Event | None, None, None]:
    """Answer a job: yield events for the server, or None after a step that brings none.

    The first event says that the job is sound and which adapter answers, the last how it ended.
    Closing the generator cancels the answer.

    Args:
        loaded: What answers.
        kept: Caches for prompts that begin alike.
        job: What to answer.
        router: What picks the adapter of a job that leaves it open.

    Raises:
        EdgekitRuntimeError: If the job cannot be run.
    """
    started = time.perf_counter()
    if router is not None and job.is_routed:
        job = replace(job, adapter=_pick(loaded, router, job))
    plan = _plan(loaded, job)
    tokenizer, options = loaded.tokenizer(), plan.options
    watch = None if job.log_probs is None else Watch(tokenizer, job.log_probs)
    with _decoder(kept, job, plan) as (decoder, n_cached):
        prompt_tokens = len(plan.tokens)
        yield {"event": "started", "adapter": job.adapter, "prompt_tokens": prompt_tokens}
        if job.echo:
            if watch is not None:
                for _ in watch.prompt(decoder, plan.tokens):
                    yield None
                n_cached = len(plan.tokens)
            yield _piece(_prompt_text(loaded, job), watch)
        if not job.answers:
            yield _prompt_alone(plan, n_cached if watch is None else 0)
            return
        outcome = Outcome()
        run = Run(
            decoder,
            prompt=plan.tokens,
            n_cached=n_cached,
            options=options,
            text=TextStream(tokenizer.stream().decode, options.stop),
            eos_ids=tokenizer.eos_ids,
            started=started,
            adapter=job.adapter,
            watch=watch,
        )
        with closing(run.steps(outcome)) as steps:
            for text in steps:
                yield _piece(text, watch) if text else None
        yield _done(outcome, watch, is_echoed=job.echo and watch is not None)


def _pick(loaded: LoadedTarget, router: "Router", job: Job) -> str | None:
    """The adapter for what the user said last; the base where that is no text.

    Tools are the base's to call where the adapter fills a template of its own, which has none.
    """
    said = _said(job)
    picked = router.route(said[-1]).adapter if said and said[-1].strip() else None
    has_no_tools = picked is not None and loaded.card(picked).prompt_template is not None
    return None if job.tools and has_no_tools else picked


def _said(job: Job) -> list[str]:
    """What the user said in a conversation."""
    return [message["content"] for message in job.messages or () if message["role"] == "user"]


def _piece(text: str, watch: Watch | None) -> Event:
    event: Event = {"event": "piece", "text": text}
    return event if watch is None else event | {"log_probs": watch.take()}


def _done(outcome: Outcome, watch: Watch | None, *, is_echoed: bool) -> Event:
    result = outcome.result
    assert result is not None
    usage = asdict(result.usage)
    return {
        "event": "done",
        "finish_reason": result.finish_reason,
        "usage": usage | ({"cached_tokens": 0} if is_echoed else {}),
        "timings": asdict(result.timings),
        "log_probs": [] if watch is None else watch.take(),
    }


def _prompt_alone(plan: _Plan, n_cached: int) -> Event:
    usage = {
        "prompt_tokens": len(plan.tokens),
        "completion_tokens": 0,
        "cached_tokens": n_cached,
    }
    return {
        "event": "done",
        "finish_reason": "length",
        "usage": usage,
        "timings": None,
        "log_probs": [],
    }


@contextmanager
def _decoder(kept: KeptCaches, job: Job, plan: _Plan) -> Iterator[tuple[Decoder, int]]:
    """A decoder for the plan, and the number of the prompt's tokens in it."""
    if plan.needs_score or plan.options.constraint is not None:
        kind: GraphKind | None = "score" if plan.needs_score else None
        constraint = plan.options.constraint
        with closing(kept.new(job.adapter, plan.n_expected, constraint=constraint, kind=kind)) as d:
            yield d, 0
        return
    decoder, n_cached = kept.take(job.adapter, plan.tokens, n_expected=plan.n_expected)
    try:
        yield decoder, n_cached
    except Exception:
        decoder.close()
        raise
    except BaseException:  # cancelled
        kept.give_back(decoder, job.adapter, len(plan.tokens))
        raise
    kept.give_back(decoder, job.adapter, len(plan.tokens))


def _plan(loaded: LoadedTarget, job: Job) -> _Plan:
    card = None if job.adapter is None else loaded.card(job.adapter)
    defaults = card.defaults if card else {}
    limit = loaded.context_length
    longest = {"max_new_tokens": job.default_max_tokens or limit}
    options = resolve_options(longest, defaults, job.options)
    tokens = _tokens(loaded, job, card)
    options = fit_answer(options, n_prompt=len(tokens), context_length=limit)
    is_open = "max_new_tokens" not in {**defaults, **job.options} and job.default_max_tokens is None
    n_answer = options.max_new_tokens
    if is_open and options.constraint is None:  # the state of a grammar does not survive growing
        n_answer = min(n_answer, _EXPECTED_ANSWER_TOKENS)
    return _Plan(
        tokens=tokens,
        options=options,
        n_expected=len(tokens) + n_answer,
        needs_score=job.echo and job.log_probs is not None,
    )


def _tokens(loaded: LoadedTarget, job: Job, card: AdapterCard | None) -> list[int]:
    tokenizer = loaded.tokenizer(adapter=job.adapter)
    if job.tokens is not None:
        size = vocabulary_size(loaded.bundle.path / loaded.record.path)
        if size is not None and max(job.tokens) >= size:
            raise GenerationError(
                "the prompt holds tokens that the model does not know",
                problems=[f"prompt: expected ids below {size}, got {max(job.tokens)}"],
                hint="Make them with this base's tokenizer.",
            )
        return job.tokens
    if job.text is not None:
        return tokenizer.encode(job.text)
    text, encode = _chat_text(loaded, job, card)
    return encode(text)


def _chat_text(
    loaded: LoadedTarget, job: Job, card: AdapterCard | None
) -> tuple[str, Callable[[str], list[int]]]:
    """The text of a conversation, and what makes tokens of it.

    An adapter that records a prompt template is a single-turn skill, as in a session: what the
    user said last fills it.
    """
    tokenizer = loaded.tokenizer(adapter=job.adapter)
    messages = job.messages or []
    if card is None or card.prompt_template is None:
        if card is not None and card.system and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": card.system}, *messages]
        tools = None if job.tools is None else json.dumps(job.tools, ensure_ascii=False)
        text = tokenizer.apply_chat_template(messages_json(messages), tools)
        return text, tokenizer.encode_chat
    if job.tools:
        raise GenerationError(
            f"adapter {card.name!r} fills a template of its own, which has no tools",
            hint="Leave tools out, or ask the base.",
        )
    said = _said(job)
    if not said:
        raise GenerationError(
            f"adapter {card.name!r} answers what the user says",
            problems=["messages: expected one with the role 'user'"],
        )
    where = f"the prompt of {card.name!r}"
    return fill_with_text(card.prompt_template, said[-1], where=where), tokenizer.encode


def _prompt_text(loaded: LoadedTarget, job: Job) -> str:
    return job.text if job.text is not None else loaded.tokenizer().decode(job.tokens or [])
