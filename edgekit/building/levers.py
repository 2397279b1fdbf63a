"""What would make a target fit its memory budget: what each change saves, and which suffice."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from edgekit.adapters.peft_dir import LoraPair
from edgekit.building.base_shape import BaseShape
from edgekit.building.memory import context_length, memory_need, show_bytes
from edgekit.targets import TargetProfile

_LEAST_CONTEXT = 512
_LEAST_RANK = 4
_LARGEST_BLOCK = 128  # a scale for 256 weights saves 1 % more and costs far more nats


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """What is asked of a target.

    Attributes:
        adapters: Adapter name to module path to A and B.
    """

    shape: BaseShape
    profile: TargetProfile
    adapters: Mapping[str, Mapping[str, LoraPair]]

    @property
    def needed_bytes(self) -> int:
        """What it needs on the device."""
        return memory_need(self.shape, self.profile, self.adapters.values()).total_bytes

    @property
    def fits(self) -> bool:
        """Whether that is within the target's budget."""
        return self.needed_bytes <= self.profile.memory_budget_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Lever:
    """One change.

    Attributes:
        change: ``context_length 4096 -> 1024``.
        saved_bytes: What it saves alone.
    """

    change: str
    saved_bytes: int

    def __str__(self) -> str:
        return f"{self.change} saves {show_bytes(self.saved_bytes)}"


Move = tuple[str, Setup]


def levers(setup: Setup) -> list[Lever]:
    """Every change that saves memory: the gentlest step that suffices alone, else the strongest."""
    found = []
    for ladder in _LADDERS:
        if move := _gentlest(ladder(setup)):
            change, changed = move
            saved = setup.needed_bytes - changed.needed_bytes
            if saved > 0:
                found.append(Lever(change=change, saved_bytes=saved))
    return found


def way_to_fit(setup: Setup) -> tuple[list[str], Setup]:
    """Changes that together make a target fit, those that cost least first.

    Returns:
        The changes, and the setup after all of them; it may still not fit.
    """
    changes = []
    for ladder in _LADDERS:
        if setup.fits:
            break
        if (move := _gentlest(ladder(setup))) and move[1].needed_bytes < setup.needed_bytes:
            changes.append(move[0])
            setup = move[1]
    return changes, setup


def _gentlest(moves: Iterator[Move]) -> Move | None:
    """The first step that makes it fit, else the last one."""
    last = None
    for last in moves:
        if last[1].fits:
            break
    return last


def _context(setup: Setup) -> Iterator[Move]:
    now = context_length(setup.shape, setup.profile)
    shorter = now
    while shorter // 2 >= _LEAST_CONTEXT:
        shorter //= 2
        profile = setup.profile.model_copy(update={"context_length": shorter})
        yield f"context_length {now} -> {shorter}", replace(setup, profile=profile)


def _quantized(key: str, values: Callable[[Any], tuple[Any, ...]]) -> Callable[[Setup], Any]:
    """A ladder over one key of the profile's quantization; values that it refuses are left out."""

    def ladder(setup: Setup) -> Iterator[Move]:
        quantization = setup.profile.quantization
        now = getattr(quantization, key)
        for value in values(now):
            if key == "block_size" and _leaves_a_rest(setup, value):
                continue
            try:
                changed = type(quantization).model_validate(
                    quantization.model_dump() | {key: value}
                )
            except ValidationError:
                continue
            profile = setup.profile.model_copy(update={"quantization": changed})
            before, after = (str(v).lower() for v in (now, value))
            yield f"quantization.{key} {before} -> {after}", replace(setup, profile=profile)

    return ladder


def _leaves_a_rest(setup: Setup, block_size: int) -> bool:
    """Whether some matmul's inputs are no whole number of blocks."""
    return any(into % block_size for _, into in setup.shape.linears.values())


def _rank(setup: Setup) -> Iterator[Move]:
    """Adapters of a smaller rank; the room is counted as if the others had been trained so."""
    ranks = [pair.a.shape[0] for pairs in setup.adapters.values() for pair in pairs.values()]
    now = max(ranks, default=0)
    if setup.profile.adapters.mechanism == "static_inputs":
        now = setup.profile.adapters.max_rank
    smaller = now
    while smaller // 2 >= _LEAST_RANK:
        smaller //= 2
        adapters = {
            name: {
                module: LoraPair(pair.a[:smaller], pair.b[:, :smaller])
                for module, pair in pairs.items()
            }
            for name, pairs in setup.adapters.items()
        }
        support = setup.profile.adapters.model_copy(update={"max_rank": smaller})
        profile = setup.profile.model_copy(update={"adapters": support})
        change = f"adapters.max_rank {now} -> {smaller} (adapters of that rank)"
        yield change, replace(setup, profile=profile, adapters=adapters)


def _fewer(setup: Setup) -> Iterator[Move]:
    names = list(setup.adapters)
    for n in range(len(names) - 1, 0, -1):
        kept = {name: setup.adapters[name] for name in names[:n]}
        yield f"adapters {len(names)} -> {n}", replace(setup, adapters=kept)


# Those that cost least come first.
_LADDERS: tuple[Callable[[Setup], Iterator[Move]], ...] = (
    _context,
    _quantized("embedding", lambda now: () if now else (True,)),
    _quantized("bits", lambda now: (4,) if now > 4 else ()),
    _quantized("head_bits", lambda now: (4,) if now > 4 else ()),
    _quantized(
        "block_size",
        lambda now: tuple(size for size in (32, 64, _LARGEST_BLOCK) if size > now),
    ),
    _rank,
    _fewer,
)
