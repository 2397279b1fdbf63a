"""Many threads, many swaps, one engine."""

import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgekit_runtime import Bundle, Engine, GenerationError

ADAPTERS = (None, "alpha", "beta", "alpha")
PROMPTS = ("Q: where is the card\nA:", "turn on the light", "what is the meaning of this order")


def _answer(engine: Engine, prompt: str, adapter: str | None) -> tuple[int, ...]:
    return engine.generate(prompt, adapter=adapter, max_new_tokens=10).token_ids


def test_threads_with_different_adapters_get_what_they_get_alone(engine: Engine) -> None:
    jobs = [(prompt, adapter) for prompt in PROMPTS for adapter in ADAPTERS] * 3
    alone = {job: _answer(engine, *job) for job in set(jobs)}
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda job: _answer(engine, *job), jobs))
    assert together == [alone[job] for job in jobs]


def test_sessions_in_threads_do_not_mix(engine: Engine) -> None:
    def talk(adapter: str | None) -> list[tuple[int, ...]]:
        with engine.session(adapter, max_new_tokens=8) as chat:
            return [chat.generate(f"turn {i}").token_ids for i in range(3)]

    alone = [talk(adapter) for adapter in ADAPTERS]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(talk, ADAPTERS)) == alone


def test_answers_interleave_token_by_token(engine: Engine) -> None:
    order: list[str] = []
    start = threading.Barrier(2)

    def run(name: str, adapter: str) -> None:
        stream = engine.stream("hello", adapter=adapter, regex="[a-e]{200}", max_new_tokens=220)
        next(stream)  # both are past their setup, which takes longer than many tiny tokens
        start.wait()
        for _ in stream:
            order.append(name)

    threads = [threading.Thread(target=run, args=job) for job in (("a", "alpha"), ("b", "beta"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first_half = order[: len(order) // 2]
    assert {"a", "b"} == set(first_half)


def test_closing_the_engine_while_threads_answer_is_no_crash(tiny_bundle: Path) -> None:
    engine = Bundle.open(tiny_bundle, cache_dir=None).engine(threads=1)
    started = threading.Barrier(4)
    errors: list[str] = []

    def run(adapter: str | None) -> None:
        stream = engine.stream("hello", adapter=adapter, max_new_tokens=400, regex="[a-e]{400}")
        next(stream)
        started.wait()
        try:
            stream.finish()
        except GenerationError as error:
            errors.append(error.what)

    threads = [threading.Thread(target=run, args=(adapter,)) for adapter in ADAPTERS[:3]]
    for thread in threads:
        thread.start()
    started.wait()
    engine.close()
    for thread in threads:
        thread.join()
    assert set(errors) <= {"the engine or session was closed while it was in use"}


def test_sixty_random_swaps_equal_fresh_engines(tiny_bundle: Path, engine: Engine) -> None:
    fresh = {}
    for adapter in (None, "alpha", "beta"):
        with Bundle.open(tiny_bundle, cache_dir=None).engine(threads=1) as other:
            fresh |= {(prompt, adapter): _answer(other, prompt, adapter) for prompt in PROMPTS}
    assert len({fresh[PROMPTS[0], adapter] for adapter in (None, "alpha", "beta")}) == 3
    chance = random.Random(0)
    for _ in range(60):
        job = chance.choice(PROMPTS), chance.choice((None, "alpha", "beta"))
        assert _answer(engine, *job) == fresh[job]


_GROWTH = """
import random, sys
from edgekit_runtime import Bundle

def rss_bytes():
    for line in open("/proc/self/status"):
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024

with Bundle.open(sys.argv[1], cache_dir=None).engine(threads=1) as engine:
    chance = random.Random(0)
    def swaps(n):
        with engine.session(max_new_tokens=3) as chat:
            for _ in range(n):
                chat.swap(chance.choice([None, "alpha", "beta"]))
                chat.generate("hello")
                chat.reset()
    swaps(100)
    before = rss_bytes()
    swaps(200)
    print((rss_bytes() - before) // 2)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_a_hundred_swaps_grow_the_process_by_less_than_a_megabyte(tiny_bundle: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _GROWTH, str(tiny_bundle)],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert int(done.stdout) < 1_000_000
