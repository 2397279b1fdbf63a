"""Fixtures of the command lines."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_bundle(request: pytest.FixtureRequest) -> Path:
    """A tiny bundle with adapters alpha (its own template) and beta; read only.

    EDGEKIT_TEST_BUNDLES names a directory with a ready ``tiny``, where building is not possible.
    """
    ready = os.environ.get("EDGEKIT_TEST_BUNDLES")
    if ready:
        return Path(ready) / "tiny"
    built: Path = request.getfixturevalue("built_tiny_bundle")
    return built
