"""The fair lock."""

import threading
import time

from edgekit_runtime.locking import TurnLock


def test_the_lock_goes_to_whoever_waits() -> None:
    """A plain lock would let the thread that releases it take it again at once."""
    lock, order = TurnLock(), []

    def take() -> None:
        with lock:
            order.append("the one that waited")

    waiting = threading.Thread(target=take)
    with lock:
        waiting.start()
        while not lock._waiting:
            time.sleep(0.001)
    with lock:
        order.append("the one that had it")
    waiting.join()
    assert order == ["the one that waited", "the one that had it"]


def test_the_owner_may_enter_again() -> None:
    lock = TurnLock()
    with lock, lock:
        pass
    done = threading.Event()

    def enter() -> None:
        with lock:
            done.set()

    threading.Thread(target=enter).start()
    assert done.wait(5)
