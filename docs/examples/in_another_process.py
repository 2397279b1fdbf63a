"""A model in a process of its own: what crashes it leaves the app alive.

    python in_another_process.py BUNDLE "Once upon a time"

The process opens the bundle once and answers until the pool ends. If it dies, by lack of memory
say, the call fails with `BrokenProcessPool`, and a new pool starts over.
"""

import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

from edgekit_runtime import Bundle, Engine

_engine: Engine | None = None


def _open(bundle: str) -> None:
    """In the process, once."""
    global _engine
    _engine = Bundle.open(bundle).engine()


def ask(prompt: str, adapter: str | None = None, max_new_tokens: int = 64) -> str:
    """In the process, for each call: plain values go in and come out."""
    assert _engine is not None
    return _engine.generate(prompt, adapter=adapter, max_new_tokens=max_new_tokens).text


@contextmanager
def model_process(bundle: str) -> Iterator[ProcessPoolExecutor]:
    """A process that holds the model.

    It is spawned: a fork of a program with threads may hang, and onnxruntime has threads.
    """
    context = get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=_open, initargs=(bundle,)) as pool:
        yield pool


if __name__ == "__main__":
    with model_process(sys.argv[1]) as pool:
        print(pool.submit(ask, sys.argv[2]).result())
