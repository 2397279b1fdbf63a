"""A bundle whose static graphs run uncompiled on the CPU provider, and an engine on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekit.building.build import build
from edgekit.bundling.adapters import AdapterSource
from edgekit_runtime import Bundle, Engine
from tests.static.profiles import write_profile


@pytest.fixture(scope="session")
def static_bundle(
    tiny_base: Path,
    alpha_adapter: Path,
    beta_adapter: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The tiny base with both adapters; it passed the gate. Read only, copy before changing it."""
    directory = tmp_path_factory.mktemp("static")
    build(
        name="tiny-static",
        base=str(tiny_base),
        output=directory / "bundle",
        targets=(str(write_profile(directory)),),
        adapters={
            "alpha": AdapterSource(path=alpha_adapter),
            "beta": AdapterSource(path=beta_adapter),
        },
    )
    return directory / "bundle"


@pytest.fixture(scope="session")
def engine(static_bundle: Path) -> Iterator[Engine]:
    """One engine for all tests that leave no trace on it."""
    with Bundle.open(static_bundle, cache_dir=None).engine(threads=1) as engine:
        yield engine
