"""The runtime's packages by hash: what the extras ask for, in the versions that were tested."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
EXTRAS = ("cli", "bench", "serve", "delta", "hub", "verify")


def entries() -> dict[str, tuple[Requirement, list[str]]]:
    """Each package of the lock with its hashes, by name."""
    text = (ROOT / "runtime" / "requirements.lock").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    found = {}
    for entry in "\n".join(lines).replace("\\\n", " ").splitlines():
        told, *hashes = re.split(r"\s+--hash=", entry.strip())
        requirement = Requirement(told)
        found[canonicalize_name(requirement.name)] = requirement, hashes
    return found


def constraints() -> dict[str, str]:
    """The versions that everything here was measured with."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): str(pin.specifier) for pin in pins}


def test_every_package_is_pinned_and_hashed() -> None:
    assert len(entries()) > 40
    for requirement, hashes in entries().values():
        assert re.fullmatch(r"==[^,*]+", str(requirement.specifier)), requirement
        assert hashes, requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes)


def test_versions_are_those_of_the_constraints() -> None:
    pinned = constraints()
    other = {
        name: (str(requirement.specifier), pinned[name])
        for name, (requirement, _) in entries().items()
        if name in pinned and str(requirement.specifier) != pinned[name]
    }
    assert other == {}


@pytest.mark.parametrize("extra", ["", *EXTRAS])
def test_what_the_runtime_asks_for_is_there(extra: str) -> None:
    with (ROOT / "runtime" / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    asked = project["optional-dependencies"][extra] if extra else project["dependencies"]
    locked = entries()
    for text in asked:
        requirement = Requirement(text)
        found, _ = locked[canonicalize_name(requirement.name)]
        (pin,) = found.specifier
        assert requirement.specifier.contains(pin.version), text


def test_every_extra_but_qnn_is_locked() -> None:
    with (ROOT / "runtime" / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    assert set(extras) == {*EXTRAS, "qnn"}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"LOCKED := {' '.join(EXTRAS)}\n" in makefile
