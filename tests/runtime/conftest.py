"""Fixtures of the runtime's tests: a bundle to read, a copy to break, an engine to ask."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekit_runtime import Bundle, Engine


@pytest.fixture(scope="session")
def tiny_bundle(request: pytest.FixtureRequest) -> Path:
    """A tiny bundle with adapters "alpha" and "beta"; read only.

    Where there is no torch to build one with, EDGEKIT_TEST_BUNDLES names a directory with one.
    """
    given = os.environ.get("EDGEKIT_TEST_BUNDLES")
    if given:
        return Path(given) / "tiny"
    built: Path = request.getfixturevalue("built_tiny_bundle")
    return built


@pytest.fixture
def bundle_copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle, to be changed."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "copy"))


@pytest.fixture(scope="session")
def engine(tiny_bundle: Path) -> Iterator[Engine]:
    """One engine for all tests that leave no trace on it."""
    with Bundle.open(tiny_bundle, cache_dir=None).engine(threads=1) as engine:
        yield engine
