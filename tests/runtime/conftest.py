"""Fixtures of the runtime's tests: a bundle to read, a copy to break, an engine to ask."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekit_runtime import Bundle, Engine


@pytest.fixture
def bundle_copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle, to be changed."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "copy"))


@pytest.fixture(scope="session")
def engine(tiny_bundle: Path) -> Iterator[Engine]:
    """One engine for all tests that leave no trace on it."""
    with Bundle.open(tiny_bundle, cache_dir=None).engine(threads=1) as engine:
        yield engine
