"""The queue's order: fair between users, in groups by adapter, nobody starved."""

import asyncio
from collections.abc import Sequence

import pytest

from edgekit_runtime.serving.turns import MAX_PASSES, QueueFullError, Turn, Turns

Asked = tuple[str, str | None]  # user, adapter


def order_of(asked: Sequence[Asked], *, first: Asked = ("first", None)) -> list[int]:
    """In which order requests are answered that all came while the first one was."""
    served: list[int] = []

    async def one(turns: Turns, index: int, user: str, adapter: str | None) -> None:
        turn = await turns.take(user, adapter)
        served.append(index)
        turn.release()

    async def all_of_them() -> None:
        turns = Turns(n_places=1, max_waiting=100)
        running = await turns.take(*first)
        waiting = [asyncio.create_task(one(turns, i, *who)) for i, who in enumerate(asked)]
        await asyncio.sleep(0)
        running.release()
        await asyncio.gather(*waiting)
        assert (turns.n_running, turns.n_waiting) == (0, 0)

    asyncio.run(all_of_them())
    return served


def test_who_comes_first_is_served_first() -> None:
    assert order_of([("a", None)] * 4) == [0, 1, 2, 3]


def test_users_alternate_however_many_requests_one_has() -> None:
    asked = [("greedy", None)] * 4 + [("modest", None)] * 2
    assert order_of(asked) == [0, 4, 1, 5, 2, 3]


def test_requests_for_the_adapter_that_was_served_last_go_together() -> None:
    asked = [("a", "x"), ("a", "y"), ("a", "x"), ("a", "y"), ("a", "x")]
    assert order_of(asked, first=("a", "x")) == [0, 2, 4, 1, 3]


def test_nobody_is_overtaken_for_ever() -> None:
    asked = [("a", "rare"), *[("a", "common")] * 10]
    served = order_of(asked, first=("a", "common"))
    assert served.index(0) == MAX_PASSES


def test_several_are_answered_at_the_same_time() -> None:
    async def check() -> None:
        turns = Turns(n_places=3, max_waiting=0)
        taken = [await turns.take("a", None) for _ in range(3)]
        assert turns.n_running == 3
        with pytest.raises(QueueFullError, match="try again in"):
            await turns.take("a", None)
        taken[0].release()
        taken[0].release()  # a second time does nothing
        assert turns.n_running == 2
        await turns.take("a", None)

    asyncio.run(check())


def test_the_next_part_of_an_admitted_request_always_finds_room_in_the_queue() -> None:
    async def check() -> None:
        turns = Turns(n_places=1, max_waiting=0)
        running = await turns.take("a", None)
        waiting = asyncio.create_task(turns.take("a", None, is_admitted=True))
        await asyncio.sleep(0)
        running.release()
        assert isinstance(await waiting, Turn)

    asyncio.run(check())


@pytest.mark.parametrize("is_too_late", [False, True])
def test_one_who_gives_up_leaves_no_hole(is_too_late: bool) -> None:
    """Also where the turn comes in the very moment in which the wait is cancelled."""

    async def check() -> None:
        turns = Turns(n_places=1, max_waiting=5)
        running = await turns.take("a", None)
        waiting = asyncio.create_task(turns.take("a", None))
        await asyncio.sleep(0)
        if is_too_late:
            running.release()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        running.release()
        assert (turns.n_running, turns.n_waiting) == (0, 0)

    asyncio.run(check())


def test_while_it_is_shut_everybody_waits() -> None:
    async def check() -> None:
        turns = Turns(n_places=2, max_waiting=5)
        turns.shut()
        waiting = asyncio.create_task(turns.take("a", None))
        await asyncio.sleep(0)
        assert turns.n_waiting == 1
        turns.open()
        assert isinstance(await waiting, Turn)

    asyncio.run(check())


def test_a_long_run_serves_every_user_and_adapter() -> None:
    """Whatever comes, no request is overtaken more often than it should be."""
    asked: list[Asked] = [(f"u{n % 3}", f"a{n % 5}") for n in range(60)]
    served = order_of(asked)
    assert sorted(served) == list(range(60))
    fair = sorted(range(60), key=lambda n: (n // 3, n))
    late = [served.index(n) - fair.index(n) for n in range(60)]
    assert max(late) <= MAX_PASSES * 5
