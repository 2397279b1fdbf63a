"""Answers in an asyncio program."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from edgekit_runtime import Bundle, Engine, Generation, GenerationStream
from edgekit_runtime.decoder import PREFILL_CHUNK_TOKENS, Decoder
from edgekit_runtime.errors import GraphError

PROMPT = "Q: where is the card\nA:"
# The tiny model says bytes that are no text; this makes it say letters.
LETTERS: dict[str, Any] = {"regex": "[a-e]{60}", "temperature": 1.0, "seed": 5}


async def pieces_of(stream: GenerationStream) -> list[str]:
    return [piece async for piece in stream]


def test_an_async_stream_yields_what_a_stream_yields(engine: Engine) -> None:
    expected = list(engine.stream(PROMPT, max_new_tokens=60, **LETTERS))
    stream = engine.stream(PROMPT, max_new_tokens=60, **LETTERS)
    assert asyncio.run(pieces_of(stream)) == expected
    assert stream.result.text == "".join(expected)


def test_finish_gives_the_whole_answer(engine: Engine) -> None:
    expected = engine.generate(PROMPT, adapter="alpha", max_new_tokens=12)
    found = asyncio.run(engine.stream(PROMPT, adapter="alpha", max_new_tokens=12).afinish())
    assert found.token_ids == expected.token_ids


def test_answers_at_the_same_time_are_those_of_each_alone(engine: Engine) -> None:
    async def both() -> list[Generation]:
        streams = [
            engine.stream(PROMPT, adapter=name, max_new_tokens=30) for name in ("alpha", "beta")
        ]
        return await asyncio.gather(*(stream.afinish() for stream in streams))

    alone = [engine.generate(PROMPT, adapter=n, max_new_tokens=30) for n in ("alpha", "beta")]
    found = asyncio.run(both())
    assert [one.token_ids for one in found] == [one.token_ids for one in alone]


def test_the_event_loop_goes_on_meanwhile(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's first token waits for something that only the event loop can do."""
    reached = threading.Event()
    real = Decoder.next

    def next_token(self: Decoder, *arguments: Any) -> int:
        assert reached.wait(60)
        return real(self, *arguments)

    async def together() -> str:
        running = asyncio.ensure_future(engine.stream(PROMPT, max_new_tokens=3).afinish())
        await asyncio.sleep(0)
        reached.set()
        return (await running).finish_reason

    monkeypatch.setattr(Decoder, "next", next_token)
    assert asyncio.run(together()) == "length"


def test_leaving_the_block_early_stops_the_answer(engine: Engine) -> None:
    async def first_piece() -> GenerationStream:
        async with engine.stream(PROMPT, max_new_tokens=60, **LETTERS) as stream:
            await anext(stream)
        return stream

    result = asyncio.run(first_piece()).result
    assert result.finish_reason == "cancelled"
    assert 0 < len(result.token_ids) < 60


def test_a_cancelled_task_ends_the_answer_in_the_prompt(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Event()
    may_go_on = threading.Event()
    appended = []
    real = Decoder.append

    def append(self: Decoder, tokens: Any) -> None:
        appended.append(len(tokens))
        begun.set()
        assert may_go_on.wait(60)
        real(self, tokens)

    async def cancelled(engine: Engine) -> GenerationStream:
        text = "one two three " * 45
        assert len(engine.tokenize(text)) > 2 * PREFILL_CHUNK_TOKENS
        stream = engine.stream(text, max_new_tokens=20)
        task = asyncio.ensure_future(pieces_of(stream))
        await asyncio.to_thread(begun.wait)
        task.cancel()
        asyncio.get_running_loop().call_soon(may_go_on.set)
        with pytest.raises(asyncio.CancelledError):
            await task
        return stream

    with Bundle.open(tiny_bundle, cache_dir=None).engine(threads=1) as engine:
        monkeypatch.setattr(Decoder, "append", append)
        stream = asyncio.run(cancelled(engine))
        assert appended == [PREFILL_CHUNK_TOKENS]
        assert stream.result.finish_reason == "cancelled"
        assert engine.generate(PROMPT, max_new_tokens=2).finish_reason == "length"


def test_a_session_streams_too(engine: Engine) -> None:
    async def turn() -> str:
        with engine.session(max_new_tokens=6) as session:
            async with session.stream("Hello") as stream:
                await pieces_of(stream)
            return str(session.messages[-1]["content"])

    with engine.session(max_new_tokens=6) as session:
        assert asyncio.run(turn()) == session.generate("Hello").text


def test_what_fails_in_the_thread_fails_here(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Decoder, *arguments: Any) -> int:
        raise GraphError("no memory")

    monkeypatch.setattr(Decoder, "next", fail)
    with pytest.raises(GraphError, match="no memory"):
        asyncio.run(engine.stream(PROMPT, max_new_tokens=3).afinish())
