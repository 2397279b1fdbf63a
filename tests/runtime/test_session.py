"""Conversations: memory, cache reuse, swaps, a full context, cancellation."""

import threading
from pathlib import Path
from typing import Any

import pytest

from edgekit_runtime import AdapterError, Bundle, Engine, GenerationError

WORDS: dict[str, Any] = {"max_new_tokens": 6}


def test_the_conversation_is_kept_and_rendered_whole(engine: Engine) -> None:
    with engine.session(system="Be short.", **WORDS) as chat:
        chat.generate("hello")
        answer = chat.generate("again")
        roles = [message["role"] for message in chat.messages]
        rendered = engine.apply_chat_template(
            [{"role": "system", "content": "Be short."}, *chat.messages[:3]]
        )
    assert roles == ["user", "assistant", "user", "assistant"]
    assert answer.usage.prompt_tokens == len(engine.tokenize(rendered))


def test_the_cache_of_earlier_turns_is_used(engine: Engine) -> None:
    with engine.session(**WORDS) as chat:
        first = chat.generate("hello there my friend")
        second = chat.generate("again")
    assert first.usage.cached_tokens == 0
    assert second.usage.cached_tokens >= first.usage.prompt_tokens - 1


def test_a_cached_turn_says_what_a_fresh_session_says(engine: Engine) -> None:
    said = "where is the money"
    with engine.session(**WORDS) as chat:
        chat.generate("hello")
        history = chat.messages
        cached = chat.generate(said)
    with engine.session(messages=history, **WORDS) as fresh:
        answer = fresh.generate(said)
    assert cached.usage.cached_tokens > 0 == answer.usage.cached_tokens
    assert cached.usage.prompt_tokens == answer.usage.prompt_tokens
    assert cached.token_ids[:1] == answer.token_ids[:1]


def test_a_swap_runs_the_conversation_anew_under_the_new_adapter(engine: Engine) -> None:
    with engine.session(**WORDS) as chat:
        chat.generate("hello")
        history = chat.messages
        chat.swap("beta")
        swapped = chat.generate("and now")
    with engine.session("beta", messages=history, **WORDS) as fresh:
        expected = fresh.generate("and now")
    assert swapped.usage.cached_tokens == 0
    assert (swapped.adapter, swapped.token_ids) == ("beta", expected.token_ids)


def test_swapping_there_and_back_equals_never_swapping(engine: Engine) -> None:
    with engine.session("beta", **WORDS) as chat:
        chat.generate("hello")
        history = chat.messages
        chat.swap(None)
        chat.swap("beta")
        answer = chat.generate("and now")
    with engine.session("beta", messages=history, **WORDS) as fresh:
        assert answer.token_ids == fresh.generate("and now").token_ids


def test_an_unknown_adapter_leaves_the_session_as_it_was(engine: Engine) -> None:
    with engine.session("beta", **WORDS) as chat:
        chat.generate("hello")
        before = chat.messages
        with pytest.raises(AdapterError, match="no adapter 'betta'"):
            chat.swap("betta")
        assert (chat.adapter, chat.messages) == ("beta", before)
        assert chat.generate("more").usage.cached_tokens > 0


def test_a_prompt_adapter_is_a_single_turn_skill(engine: Engine) -> None:
    with engine.session("alpha") as chat:
        first = chat.generate("hello")
        chat.generate("something else")
        third = chat.generate("hello")
        assert third.token_ids == first.token_ids
        assert chat.generate(inputs={"text": "hello"}).token_ids == first.token_ids
        assert len(chat.messages) == 8
    assert first.token_ids == engine.generate("Q: hello\nA:", adapter="alpha").token_ids


def test_inputs_need_an_adapter_with_a_template(engine: Engine) -> None:
    with engine.session() as chat, pytest.raises(GenerationError, match="inputs fill an adapter"):
        chat.generate(inputs={"text": "hello"})


def test_the_system_message_can_be_changed(engine: Engine) -> None:
    with engine.session(system="One.", **WORDS) as chat:
        one = chat.generate("hello").usage.prompt_tokens
        chat.reset()
        chat.system = "One and two."
        assert chat.generate("hello").usage.prompt_tokens > one
        assert chat.system == "One and two."


def test_reset_forgets_the_conversation(engine: Engine) -> None:
    with engine.session(**WORDS) as chat:
        first = chat.generate("hello")
        chat.generate("more")
        chat.reset()
        assert (chat.messages, chat.stats.usage) == ([], None)
        assert chat.generate("hello").token_ids == first.token_ids


def test_stats_tell_where_the_context_stands(engine: Engine) -> None:
    with engine.session(**WORDS) as chat:
        assert (chat.stats.context_used, chat.stats.usage) == (0, None)
        answer = chat.generate("hello")
        assert chat.stats.usage == answer.usage and chat.stats.timings == answer.timings
        assert chat.stats.context_used == answer.usage.prompt_tokens + len(answer.token_ids)
        assert chat.stats.context_limit == engine.context_length


def test_a_full_context_drops_the_oldest_turns_and_says_so(tiny_bundle: Path) -> None:
    with (
        Bundle.open(tiny_bundle, cache_dir=None).engine(threads=1, context_length=200) as engine,
        engine.session(system="Sys.", max_new_tokens=4) as chat,
    ):
        answers = [chat.generate(f"turn number {i}") for i in range(12)]
        assert answers[0].dropped_turns == 0
        assert answers[-1].dropped_turns > 0
        assert all(answer.usage.prompt_tokens < 200 for answer in answers)
        assert len(chat.messages) == 24
        assert chat.stats.dropped_turns == answers[-1].dropped_turns
        kept = chat.messages[2 * answers[-1].dropped_turns : -1]
        seen = engine.apply_chat_template([{"role": "system", "content": "Sys."}, *kept])
        assert answers[-1].usage.prompt_tokens == len(engine.tokenize(seen))


def test_a_full_context_can_be_an_error_instead(tiny_bundle: Path) -> None:
    with (
        Bundle.open(tiny_bundle, cache_dir=None).engine(threads=1, context_length=120) as engine,
        engine.session(on_full="error", max_new_tokens=4) as chat,
    ):
        with pytest.raises(GenerationError, match="the conversation is too long") as caught:
            for i in range(12):
                chat.generate(f"turn number {i}")
        before = chat.messages
        assert "expected at most 116 tokens, got" in caught.value.problems[0]
        assert before[-1]["role"] == "assistant"
        chat.reset()
        chat.generate("short")


def test_a_message_over_the_context_is_refused_and_nothing_lost(engine: Engine) -> None:
    with engine.session(**WORDS) as chat:
        chat.generate("hello")
        before = chat.messages
        with pytest.raises(GenerationError, match="the prompt is too long for the context"):
            chat.generate("x" * 3000)
        assert chat.messages == before
        assert chat.stats.dropped_turns == 0
        chat.generate("again")


def test_a_cancelled_answer_is_recorded_as_far_as_it_came(engine: Engine) -> None:
    cancel = threading.Event()
    with engine.session() as chat:
        stream = chat.stream("hello", cancel=cancel, regex="[a-e]{60}", temperature=1, seed=1)
        next(stream)
        cancel.set()
        answer = stream.finish()
        assert answer.finish_reason == "cancelled"
        assert chat.messages[-1] == {"role": "assistant", "content": answer.text}
        assert chat.generate("again", max_new_tokens=3).token_ids


def test_a_closed_stream_leaves_the_session_consistent(engine: Engine) -> None:
    with engine.session() as chat:
        with chat.stream("hello", max_new_tokens=50) as stream:
            next(stream)
        history = chat.messages
        after = chat.generate("again", max_new_tokens=4)
    assert stream.result.finish_reason == "cancelled"
    assert history[-1]["content"] == stream.result.text
    with engine.session(messages=history) as fresh:
        assert fresh.generate("again", max_new_tokens=4).token_ids[:1] == after.token_ids[:1]


def test_a_turn_cancelled_before_its_first_token_is_not_recorded(engine: Engine) -> None:
    cancel = threading.Event()
    cancel.set()
    with engine.session() as chat:
        assert chat.generate("hello", cancel=cancel).finish_reason == "cancelled"
        assert chat.messages == []


def test_two_answers_at_once_are_refused(engine: Engine) -> None:
    with engine.session(**WORDS) as chat:
        stream = chat.stream("hello", max_new_tokens=50)
        next(stream)
        for call in (lambda: chat.generate("again"), chat.reset, lambda: chat.swap("beta")):
            with pytest.raises(GenerationError, match="the session is busy with another answer"):
                call()
        stream.close()
        assert chat.generate("again").token_ids


def test_a_stream_that_was_never_read_blocks_nothing(engine: Engine) -> None:
    with engine.session(**WORDS) as chat:
        unread = chat.stream("hello")
        chat.generate("hello")
        unread.close()
        assert len(chat.messages) == 2


def test_session_defaults_and_turn_overrides(engine: Engine) -> None:
    with engine.session(max_new_tokens=3) as chat:
        assert len(chat.generate("hello").token_ids) == 3
        assert len(chat.generate("hello", max_new_tokens=5).token_ids) == 5
        assert chat.generate("choose", choices=["a", "b"]).text in ("a", "b")
        assert chat.generate("hello", max_new_tokens=4).usage.cached_tokens > 0


def test_a_seed_gives_the_same_turn_again(engine: Engine) -> None:
    def turn() -> tuple[int, ...]:
        with engine.session(temperature=1.0, seed=11, **WORDS) as chat:
            chat.generate("hello")
            return chat.generate("again").token_ids

    assert turn() == turn()


def test_bad_defaults_are_refused_at_the_start(engine: Engine) -> None:
    with pytest.raises(GenerationError, match="temperature: expected a number of at least 0"):
        engine.session(temperature=-1)
    with pytest.raises(GenerationError, match="on_full: expected"):
        engine.session(on_full="burn")  # type: ignore[arg-type]
    with pytest.raises(GenerationError, match="text: expected a non-empty str"):
        engine.session().generate("")


def test_a_closed_engine_is_a_clear_error_in_a_session(tiny_bundle: Path) -> None:
    engine = Bundle.open(tiny_bundle, cache_dir=None).engine(threads=1)
    chat = engine.session("beta", max_new_tokens=50)
    stream = chat.stream("hello")
    next(stream)
    engine.close()
    with pytest.raises(GenerationError, match="was closed while it was in use"):
        stream.finish()
    with pytest.raises(GenerationError, match="the engine is closed"):
        chat.generate("hello")
