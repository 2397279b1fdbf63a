"""Adapters from outside the bundle: held to the same contract as the bundle's own."""

from dataclasses import dataclass, replace
from pathlib import Path

from edgekit_runtime.adapter_file import AdapterFile
from edgekit_runtime.adapters import AdapterSource
from edgekit_runtime.card import AdapterCard
from edgekit_runtime.contract import SocketContract
from edgekit_runtime.digests import sha256_of_bytes
from edgekit_runtime.errors import AdapterError, BundleError, EdgekitRuntimeError

CARD_NAME = "adapter.json"
SUFFIX = ".onnx_adapter"
_HINT = f"Give the directory of an adapter in a bundle of this base: {CARD_NAME} and *{SUFFIX}."


@dataclass(frozen=True, kw_only=True, slots=True)
class Guest:
    """An adapter that was read from outside the bundle."""

    card: AdapterCard
    source: AdapterSource


def read_guest(name: str, path: Path, *, base_fingerprint: str, contract: SocketContract) -> Guest:
    """Read an adapter and check that it was made for this base and fits this target.

    Args:
        name: What it is called from here on.
        path: A directory as ``adapters/NAME`` of a bundle, or one ``.onnx_adapter`` file in it.
            Of several files, the first that fits the target is taken.
        base_fingerprint: Of the bundle's base.
        contract: What fits the target's sockets.

    Raises:
        AdapterError: If it cannot be read, is of another base, or does not fit.
    """
    is_file = path.suffix == SUFFIX
    folder = path.parent if is_file else path
    files = [path] if is_file else sorted(folder.glob(f"*{SUFFIX}"))
    card = _read_card(name, folder)
    if card.base_fingerprint != base_fingerprint:
        raise AdapterError(
            f"adapter {name!r} was made for another base than this bundle's",
            problems=[
                f"base_fingerprint: expected {base_fingerprint}, got {card.base_fingerprint}"
            ],
            hint="Train it on this base, or serve a bundle of its base.",
        )
    problems: list[str] = []
    for file in files:
        source, wrong = _read_file(name, file, contract)
        if source is not None:
            return Guest(card=replace(card, name=name), source=source)
        problems += [f"{file.name}: {problem}" for problem in wrong]
    raise AdapterError(
        f"adapter {name!r} does not fit this target",
        problems=problems or [f"{folder}: no *{SUFFIX} file"],
        hint=_HINT,
    )


def _read_card(name: str, folder: Path) -> AdapterCard:
    path = folder / CARD_NAME
    try:
        return AdapterCard.from_bytes(path.read_bytes(), where=str(path))
    except OSError as err:
        raise AdapterError(
            f"adapter {name!r} cannot be read", problems=[f"{path}: {err.strerror}"], hint=_HINT
        ) from err
    except BundleError as err:
        raise AdapterError(err.what, problems=err.problems, hint=_HINT) from err


def _read_file(
    name: str, path: Path, contract: SocketContract
) -> tuple[AdapterSource | None, list[str]]:
    try:
        data = path.read_bytes()
        file = AdapterFile.from_bytes(data, where=path.name)
    except OSError as err:
        return None, [err.strerror or str(err)]
    except EdgekitRuntimeError as err:
        return None, list(err.problems) or [err.what]
    problems = contract.problems(file.infos) + file.value_problems()
    if problems:
        return None, problems
    source = AdapterSource(name=name, path=path, digest=sha256_of_bytes(data), size_bytes=len(data))
    return source, []
