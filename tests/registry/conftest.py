"""Fixtures of the registry's tests: a real one on loopback, a counted wire to it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.registry.servers import Wire, running_registry


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Host and port of a registry without TLS and logins."""
    with running_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture
def wire(registry: str) -> Iterator[Wire]:
    """The same registry behind a proxy that counts."""
    wire = Wire(registry)
    yield wire
    wire.close()


@pytest.fixture(autouse=True)
def _no_logins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the developer's own logins out of the tests."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "no-docker"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("DOCKER_AUTH_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "EDGEKIT_REGISTRY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def own_bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle, to be changed."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "own"))
