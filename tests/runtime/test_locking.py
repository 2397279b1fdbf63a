"""The fair lock."""

import itertools
import threading
import time

from edgekit_runtime.locking import TurnLock


def test_threads_take_turns() -> None:
    lock, order, start = TurnLock(), [], threading.Barrier(2)

    def work(name: str) -> None:
        start.wait()
        for _ in range(30):
            with lock:
                order.append(name)
                time.sleep(0.001)

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    switches = sum(before != after for before, after in itertools.pairwise(order))
    assert switches > 40


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
