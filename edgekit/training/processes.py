"""Several processes that train one model: who they are, what one does for all, and sums.

``torchrun`` and ``accelerate launch`` start them and say in the environment who is who
(https://docs.pytorch.org/docs/stable/elastic/run.html#environment-variables). The first one alone
reads and writes the output. A run of one process does nothing of what is here.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from edgekit.errors import EdgekitError, RecipeError

Result = TypeVar("Result")

_TIMEOUT_SECONDS = 1800  # transformers' own default of ddp_timeout


class FirstProcessError(EdgekitError):
    """What the first process failed with, in the others: it has told it already."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Processes:
    """The processes of this run.

    Attributes:
        rank: Of this one; the first is 0.
        n: How many there are.
        n_here: How many of them are on this machine.
    """

    rank: int
    n: int
    n_here: int

    @property
    def is_first(self) -> bool:
        """Whether this one reads and writes the output."""
        return self.rank == 0

    def first(self, work: Callable[[], Result]) -> Result:
        """Do something in the first process only; every process gets its result.

        Raises:
            EdgekitError: What the first process failed with.
        """
        if self.n == 1:
            return work()
        box: list[Any] = [None, None]
        failure: EdgekitError | None = None
        if self.is_first:
            try:
                box[0] = work()
            except EdgekitError as err:
                failure, box[1] = err, str(err)
        _broadcast(box)
        if failure is not None:
            raise failure
        if box[1] is not None:
            raise FirstProcessError(box[1])
        result: Result = box[0]
        return result

    def first_then_all(self, work: Callable[[], Result]) -> Result:
        """Do something in every process, after the first one has done it and filled the caches.

        Raises:
            EdgekitError: What the first process failed with.
        """
        own: list[Result] = []
        self.first(lambda: own.append(work()))
        return own[0] if own else work()

    def summed(self, *values: float) -> tuple[float, ...]:
        """Add up numbers of all processes."""
        if self.n == 1:
            return values
        return tuple(sum(column) for column in zip(*self.gathered(values), strict=True))

    def gathered(self, value: Result) -> list[Result]:
        """Every process's value, in their order."""
        if self.n == 1:
            return [value]
        from torch import distributed

        values: list[Any] = [None] * self.n
        distributed.all_gather_object(values, value)
        return values


def processes() -> Processes:
    """Who this process is, from the environment."""
    if "LOCAL_RANK" not in os.environ:
        return Processes(rank=0, n=1, n_here=1)
    n = _number("WORLD_SIZE", 1)
    return Processes(rank=_number("RANK", 0), n=n, n_here=_number("LOCAL_WORLD_SIZE", n))


def join(training: Mapping[str, Any], *, on_cpu: bool) -> Processes:
    """Meet the other processes, if there are any, before the first work.

    Args:
        training: The recipe's, whose ``ddp_backend`` and ``ddp_timeout`` hold from here on.
        on_cpu: Whether the run takes place on the CPU.

    Raises:
        RecipeError: If the backend cannot be used.
    """
    found = processes()
    if found.n == 1:
        return found
    from accelerate import PartialState

    seconds = training.get("ddp_timeout", _TIMEOUT_SECONDS)
    try:
        PartialState(
            cpu=on_cpu, backend=training.get("ddp_backend"), timeout=timedelta(seconds=seconds)
        )
    except (ValueError, TypeError, RuntimeError) as err:
        raise RecipeError(
            f"the {found.n} processes did not find together: {err}",
            hint="Look at training.ddp_backend and ddp_timeout, and at torchrun's --rdzv options.",
        ) from err
    return found


def refuse_several(what: str) -> None:
    """Refuse a command that several processes would all do.

    Raises:
        RecipeError: If torchrun or accelerate started several.
    """
    found = processes()
    if found.n > 1:
        raise RecipeError(
            f"{what} in {found.n} processes of torchrun or accelerate launch: each would do all",
            hint="Start it as plain `edgekit`; only `edgekit train RECIPE` is shared by processes.",
        )


def leave() -> None:
    """Say goodbye to the other processes, if there are any."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _broadcast(box: list[Any]) -> None:
    from torch import distributed

    distributed.broadcast_object_list(box, src=0)


def _number(name: str, default: int) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() else default
