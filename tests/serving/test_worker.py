"""The worker's loop, without a server: turns of one step, cancelling, kept caches."""

import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgekit_runtime.loaded import LoadedTarget
from edgekit_runtime.serving.answering import Event
from edgekit_runtime.serving.jobs import Job
from edgekit_runtime.serving.kept import KeptCaches
from edgekit_runtime.serving.worker import Worker, open_target

LONG = "the card is lost and the payment was not found " * 12  # over 128 tokens, twice over 256


@pytest.fixture(scope="module")
def loaded(tiny_bundle: Path) -> Iterator[LoadedTarget]:
    found = open_target(
        {
            "bundle": str(tiny_bundle),
            "target": None,
            "threads": 1,
            "adapter_budget_bytes": 70_000,  # room for one adapter
            "context_length": None,
        }
    )
    yield found
    found.close()


class Bench:
    """A worker, and what it sent."""

    def __init__(self, loaded: LoadedTarget, **settings: Any) -> None:
        self.sent: list[Event] = []
        self.inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.kept = KeptCaches(loaded, **({"max_kept": 4, "reuse": "exact"} | settings))
        self.worker = Worker(loaded, self.kept, self._take)
        self.on_event: Any = lambda event: None

    def _take(self, event: Event) -> None:
        self.sent.append(event)
        self.on_event(event)

    def ask(self, id_: int, **job: Any) -> None:
        job = {"adapter": None, "text": "the card", "options": {"max_new_tokens": 6}} | job
        self.inbox.put({"op": "answer", "id": id_, "job": Job(**job).to_dict()})

    def run(self) -> None:
        """Until nothing is left to do."""
        self.on_event = self._stop_when_idle
        self.worker.run(self.inbox)

    def _stop_when_idle(self, event: Event) -> None:
        ended = {e["id"] for e in self.sent if e["event"] in ("done", "error", "cancelled")}
        if self.inbox.empty() and ended >= {*self.worker._running, event["id"]}:
            self.inbox.put(None)

    def of(self, id_: int) -> list[Event]:
        return [event for event in self.sent if event["id"] == id_]

    def answer(self, **job: Any) -> tuple[str, Event]:
        """Ask one thing; return its text and how it ended."""
        id_ = len(self.sent) + 1
        self.ask(id_, **job)
        self.run()
        told = self.of(id_)
        return "".join(e.get("text", "") for e in told), told[-1]


@pytest.fixture
def bench(loaded: LoadedTarget) -> Iterator[Bench]:
    found = Bench(loaded)
    yield found
    found.kept.clear()


def test_answers_take_turns(bench: Bench) -> None:
    for id_, adapter in ((1, None), (2, "beta")):
        bench.ask(id_, adapter=adapter, options={"max_new_tokens": 20, "temperature": 1, "seed": 1})
    bench.run()
    order = [event["id"] for event in bench.sent if event["event"] == "piece"]
    last_of_first = len(order) - 1 - order[::-1].index(order[0])
    assert set(order[:last_of_first]) == {1, 2}


def test_a_cancelled_answer_makes_not_one_more_token(bench: Bench) -> None:
    bench.ask(1, options={"max_new_tokens": 200, "temperature": 1.0, "seed": 2})

    def cancel_at_the_first_piece(event: Event) -> None:
        if event["event"] == "piece":
            bench.inbox.put({"op": "cancel", "id": 1})
            bench.inbox.put(None)

    bench.on_event = cancel_at_the_first_piece
    bench.worker.run(bench.inbox)
    assert [event["event"] for event in bench.sent] == ["started", "piece", "cancelled"]


def test_a_long_prompt_is_cancelled_between_its_pieces(bench: Bench) -> None:
    bench.ask(1, text=LONG)

    def cancel_at_once(event: Event) -> None:
        bench.inbox.put({"op": "cancel", "id": 1})
        bench.inbox.put(None)

    bench.on_event = cancel_at_once
    bench.worker.run(bench.inbox)
    assert [event["event"] for event in bench.sent] == ["started", "cancelled"]


def test_a_next_turn_runs_only_what_is_new_and_says_the_same(
    bench: Bench, loaded: LoadedTarget
) -> None:
    fresh = Bench(loaded, max_kept=0)
    for adapter in (None, "beta"):
        job: dict[str, Any] = {"adapter": adapter, "log_probs": 2}
        first, _ = bench.answer(text=LONG, **job)
        more = LONG + first + " turn on the light"
        text, done = bench.answer(text=more, **job)
        expected, alone = fresh.answer(text=more, **job)
        assert done["usage"]["cached_tokens"] % 128 == 0
        assert done["usage"]["cached_tokens"] > 0
        assert alone["usage"]["cached_tokens"] == 0
        assert text == expected
        # To the last bit: the figures are those of a cache that was never used before.
        assert bench.sent[-2].get("log_probs") == fresh.sent[-2].get("log_probs")


def test_fast_reuse_keeps_the_answer_too(loaded: LoadedTarget) -> None:
    bench = Bench(loaded, reuse="fast")
    _, done = bench.answer(tokens=list(range(10, 40)))
    assert done["usage"]["cached_tokens"] == 0
    n = done["usage"]["completion_tokens"]
    _, again = bench.answer(tokens=list(range(10, 40)))
    assert again["usage"]["cached_tokens"] == 29
    assert n == again["usage"]["completion_tokens"]
    bench.kept.clear()


def test_caches_are_never_shared_between_adapters(bench: Bench) -> None:
    bench.answer(text=LONG, adapter="beta")
    assert bench.answer(text=LONG)[1]["usage"]["cached_tokens"] == 0
    assert bench.answer(text=LONG, adapter="beta")[1]["usage"]["cached_tokens"] > 0


def test_another_conversation_with_the_same_beginning_takes_no_cache_away(bench: Bench) -> None:
    tokens = [10 + n % 200 for n in range(400)]
    bench.answer(tokens=tokens)  # 384 of them are kept
    other = [*tokens[:140], 9, 9, 9]
    assert bench.answer(tokens=other)[1]["usage"]["cached_tokens"] == 0
    assert bench.answer(tokens=tokens)[1]["usage"]["cached_tokens"] == 384


def test_a_kept_cache_makes_room_for_an_adapter_that_finds_none(bench: Bench) -> None:
    bench.answer(text=LONG, adapter="beta")
    _, done = bench.answer(text=LONG, adapter="alpha")
    assert done["event"] == "done"


def test_an_answer_without_a_limit_grows_its_cache(bench: Bench, loaded: LoadedTarget) -> None:
    tokens = [10 + n % 200 for n in range(300)]
    _, done = bench.answer(tokens=tokens, options={"temperature": 1.5, "seed": 5})
    used = done["usage"]["prompt_tokens"] + done["usage"]["completion_tokens"]
    assert used <= loaded.context_length
    assert done["finish_reason"] in ("stop", "length")


def test_an_error_leaves_the_worker_at_work(bench: Bench) -> None:
    _, failed = bench.answer(text="")
    assert failed["error"]["status"] == 400
    _, failed = bench.answer(adapter="nobody")
    assert "has no adapter 'nobody'" in failed["error"]["what"]
    assert bench.answer()[1]["event"] == "done"
