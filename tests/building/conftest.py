"""A built target of the tiny base, with what the gate needs to check it."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgekit.bases import Base, resolve_base
from edgekit.building.weights import weights_folder
from edgekit_runtime.contract import SocketContract


@dataclass(frozen=True)
class BuiltTarget:
    directory: Path
    base: Base
    contract: SocketContract

    def copy(self, to: Path) -> "BuiltTarget":
        """A copy with weights of its own, as they lie in a bundle."""
        shutil.copytree(weights_folder(self.directory), to / "weights")
        directory = to / "targets" / self.directory.name
        shutil.copytree(self.directory, directory)
        return BuiltTarget(directory, self.base, self.contract)


@pytest.fixture(scope="session")
def built_target(built_tiny_bundle: Path, tiny_base: Path) -> BuiltTarget:
    """The cpu target of the shared bundle; read only, copy before changing it."""
    directory = built_tiny_bundle / "targets" / "cpu"
    problems: list[str] = []
    contract = SocketContract.from_dict(
        json.loads((directory / "sockets.json").read_text()), problems
    )
    assert not problems
    return BuiltTarget(directory, resolve_base(str(tiny_base)), contract)
