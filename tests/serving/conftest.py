"""Fixtures of the server's tests: one server for all that leave no trace, an engine beside it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI

from edgekit_runtime import Bundle, Engine
from tests.serving.running import Running, running


@pytest.fixture(scope="session")
def server(tiny_bundle: Path) -> Iterator[Running]:
    """A server with ordinary settings."""
    with running(tiny_bundle) as found:
        yield found


@pytest.fixture
def client(server: Running) -> Iterator[OpenAI]:
    with server.openai() as found:
        yield found


@pytest.fixture(scope="session")
def engine(tiny_bundle: Path) -> Iterator[Engine]:
    """What the server's answers are held against."""
    with Bundle.open(tiny_bundle, cache_dir=None).engine(threads=1) as found:
        yield found
