"""Several adapters at once: their weighted sum, as one adapter that has all their ranks.

Exact, since ``x A1 B1 w1 + x A2 B2 w2`` is ``x [A1 A2] [w1 B1; w2 B2]``.

Source: PEFT, ``add_weighted_adapter(combination_type="cat")``.
"""

import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit_runtime.adapter_file import AdapterFile, adapter_bytes
from edgekit_runtime.card import AdapterCard
from edgekit_runtime.contract import SocketContract
from edgekit_runtime.errors import AdapterError

AdapterChoice = str | Mapping[str, float] | None
"""An adapter's name, or several names with weights; None for the base."""


def adapter_text(choice: AdapterChoice) -> str | None:
    """What a request chooses, in one form: ``legal``, or ``legal=0.7,tone=0.3`` in order of names.

    >>> adapter_text({"tone": 0.3, "legal": 0.7})
    'legal=0.7,tone=0.3'
    >>> adapter_text("tone=1")
    'tone'

    Raises:
        AdapterError: If weights are no numbers other than 0, with every problem.
    """
    return None if choice is None else adapter_name(choice)


def adapter_name(choice: str | Mapping[str, float]) -> str:
    """:func:`adapter_text` of what is not the base."""
    if isinstance(choice, str) and "=" not in choice:
        return choice
    weights = _checked(_pairs(choice) if isinstance(choice, str) else list(choice.items()))
    if list(weights.values()) == [1.0]:
        return next(iter(weights))
    return ",".join(f"{name}={weights[name]!r}" for name in sorted(weights))


def blend_weights(name: str) -> dict[str, float] | None:
    """Names and weights of a blend in the form of :func:`adapter_text`; None of a plain name."""
    return {part: float(weight) for part, weight in _pairs(name)} if "=" in name else None


def blend_card(name: str, cards: Sequence[AdapterCard]) -> AdapterCard:
    """A card that says of a blend what is true of all its adapters."""
    first, r = cards[0], sum(card.r for card in cards)

    def shared(values: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {k: v for k, v in values[0].items() if all(v == other.get(k) for other in values)}

    recipe = shared([card.recipe for card in cards])
    return replace(
        first,
        name=name,
        r=r,
        lora_alpha=r,
        target_modules=tuple(sorted({module for card in cards for module in card.target_modules})),
        binding="assumed" if any(card.binding == "assumed" for card in cards) else first.binding,
        license=first.license if len({card.license for card in cards}) == 1 else None,
        defaults=shared([card.defaults for card in cards]),
        recipe=dict.fromkeys(first.recipe) | recipe,
        examples=first.examples if len(cards) == 1 else (),
        metrics={},
    )


def blend(parts: Sequence[tuple[AdapterFile, float]], contract: SocketContract) -> bytes:
    """The weighted sum of adapters as the content of one ``.onnx_adapter``.

    Args:
        parts: Adapters that fit the sockets, each with its weight.
        contract: The sockets. Where their rank is fixed, what the adapters were padded with is
            left out first.
    """
    tensors: dict[str, NDArray[Any]] = {}
    for socket in contract.sockets:
        found = [
            (file.tensor(socket.a_name), file.tensor(socket.b_name), weight)
            for file, weight in parts
            if socket.a_name in file.infos
        ]
        if not found:
            continue
        a = np.concatenate([one for one, _, _ in found], axis=1)
        b = np.concatenate([_scaled(one, weight) for _, one, weight in found])
        if contract.static_rank is not None:
            a, b = _repadded(a, b, contract.static_rank)
        tensors[socket.a_name], tensors[socket.b_name] = a, b
    return adapter_bytes(tensors)


@contextmanager
def as_file(data: bytes, cache_dir: Path | None) -> Iterator[str]:
    """A path to bytes, for native code that takes nothing else; in memory where the system can.

    Raises:
        AdapterError: If it has to be a file, and none may be written.
    """
    if hasattr(os, "memfd_create"):
        with open(os.memfd_create("edgekit-blend"), "wb") as file:  # noqa: PTH123
            file.write(data)
            file.flush()
            yield f"/proc/self/fd/{file.fileno()}"
        return
    if cache_dir is None:
        raise AdapterError(
            "a blend of adapters is loaded from a file, and this bundle was opened without a cache",
            hint="Open it with a cache_dir.",
        )
    folder = cache_dir / "blends"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as written:
        written.write(data)
    try:
        yield written.name
    finally:
        with suppress(OSError):  # Windows keeps what is mapped
            Path(written.name).unlink()


def _pairs(text: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for part in text.split(","):
        name, _, weight = part.partition("=")
        try:
            found.append((name.strip(), float(weight)))
        except ValueError:
            found.append((name.strip(), weight))
    return found


def _checked(pairs: Sequence[tuple[str, Any]]) -> dict[str, float]:
    problems, weights = [], dict[str, float]()
    for name, weight in pairs:
        if not isinstance(name, str) or not name or "=" in name or "," in name:
            problems.append(f"{name!r}: expected an adapter's name")
        elif name in weights:
            problems.append(f"{name}: there twice")
        elif isinstance(weight, bool) or not isinstance(weight, int | float):
            problems.append(f"{name}: expected a number as its weight, got {weight!r}")
        elif not math.isfinite(weight) or not weight:
            problems.append(f"{name}: expected a finite weight other than 0, got {weight}")
        else:
            weights[name] = float(weight)
    if problems or not weights:
        raise AdapterError(
            "adapters cannot be blended so",
            problems=problems or ["no adapter is named"],
            hint="Give names with weights: {'legal': 0.7, 'tone': 0.3}, or legal=0.7,tone=0.3.",
        )
    return weights


def _scaled(b: NDArray[Any], weight: float) -> NDArray[Any]:
    with np.errstate(over="ignore"):  # infinity is found and told when the blend is checked
        scaled: NDArray[Any] = (b.astype(np.float64) * weight).astype(b.dtype)
    return scaled


def _repadded(a: NDArray[Any], b: NDArray[Any], rank: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Ranks that do something, with zeros up to a rank; more than fit stay, to be refused."""
    used = a.any(axis=0) & b.any(axis=1)
    more = max(0, rank - int(used.sum()))
    return np.pad(a[:, used], ((0, 0), (0, more))), np.pad(b[used], ((0, more), (0, 0)))
