"""A Ray cluster: reached or started, asked for room, and a board that its tasks write to.

Ray (https://docs.ray.io) is an extra; nothing here imports it before it is asked for.
"""

import importlib.util
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.errors import EdgekitError, RecipeError

_POLL_SECONDS = 0.2
_ANSWER_SECONDS = 10.0
# What is sent are events and reports; Ray's own default takes a third of the memory.
_OBJECT_STORE_BYTES = 100 * 1024**2


@dataclass(frozen=True, kw_only=True, slots=True)
class RayOptions:
    """Where Ray is, and what a task takes of it.

    Attributes:
        address: Of a cluster; ``RAY_ADDRESS`` by default, else Ray is started on this machine.
        cpus: Cores of a task, which is also how many threads it computes with.
        gpus: GPUs of a task; one by default where the cluster has any.
    """

    address: str | None = None
    cpus: int = 1
    gpus: float | None = None


class Board:
    """What the tasks and the command have in common: an actor on the command's own machine.

    Args:
        tickets: How often :meth:`take` says yes.
    """

    def __init__(self, tickets: int = 0) -> None:
        self._tickets = tickets
        self._items: list[Any] = []
        self._is_stopped = False

    def tell(self, item: Any) -> bool:
        """Write something down; returns whether the task should stop."""
        self._items.append(item)
        return self._is_stopped

    def read(self) -> list[Any]:
        """Everything that was written since the last time."""
        items, self._items = self._items, []
        return items

    def take(self) -> bool:
        """Take a ticket, if one is left."""
        if self._tickets <= 0 or self._is_stopped:
            return False
        self._tickets -= 1
        return True

    def give_back(self, n: int) -> None:
        """Somebody who took tickets is lost."""
        self._tickets += n

    def stop(self) -> None:
        """Ask every task to stop."""
        self._is_stopped = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """A task that is over.

    Attributes:
        task: What :meth:`Cluster.start` returned.
        result: Of the work; None if it has none.
        lost: Why its process is gone, or "".
        error: What the work raised.
    """

    task: Any
    result: Any = None
    lost: str = ""
    error: Exception | None = None


class Cluster:
    """A cluster that is connected to; see :func:`cluster`."""

    def __init__(self, ray: Any, options: RayOptions) -> None:
        self._ray = ray
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self.n_machines = len(machines)
        has_gpus = any(machine.get("GPU", 0) for machine in machines)
        gpus = options.gpus if options.gpus is not None else float(has_gpus)
        _refuse_too_large(machines, options.cpus, gpus)
        self._threads = options.cpus
        self._task = ray.remote(
            num_cpus=options.cpus,
            num_gpus=gpus,
            max_retries=0,  # what is to be done about a lost one depends on what it did
            max_calls=1,  # its memory is then its own, and freed
        )(_in_directory)

    def board(self, tickets: int = 0) -> Any:
        """Open a board on this machine."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        node = self._ray.get_runtime_context().get_node_id()
        here = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
        return self._ray.remote(num_cpus=0, scheduling_strategy=here)(Board).remote(tickets)

    def ask(self, method: Any, *args: Any) -> Any:
        """Call a method of a board, and wait for what it returns."""
        return self._ray.get(method.remote(*args))

    def start(self, work: Callable[..., Any], *args: Any) -> Any:
        """Run ``work(*args)`` in a process of its own somewhere, in this directory."""
        return self._task.remote(str(Path.cwd()), self._threads, work, *args)

    def ended(self, tasks: Sequence[Any]) -> Iterator[Ended]:
        """Those that are over, after waiting a moment for them."""
        for task in self._ray.wait([*tasks], timeout=_POLL_SECONDS)[0]:
            try:
                yield Ended(task=task, result=self._ray.get(task))
            except self._ray.exceptions.RayTaskError as err:
                yield Ended(task=task, error=err.cause if err.cause is not None else err)
            except self._ray.exceptions.RayError as err:
                yield Ended(task=task, lost=f"{type(err).__name__}: {_first_line(err)}")

    def end(self, tasks: Sequence[Any]) -> None:
        """End what still runs, at once."""
        for task in tasks:
            self._ray.cancel(task, force=True)


@contextmanager
def cluster(options: RayOptions) -> Iterator[Cluster]:
    """Connect to a cluster, or start Ray on this machine for as long as the block lasts.

    Raises:
        RecipeError: If Ray is not installed, cannot be reached, or has no room for a task.
        EdgekitError: If Ray itself ends while the block lasts.
    """
    if importlib.util.find_spec("ray") is None:
        raise RecipeError(
            "the engine ray needs Ray, which is not installed", hint="pip install 'edgekit[ray]'"
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere unasked
    # Ray tells of lost processes on standard output, which is for results.
    with redirect_stdout(sys.stderr):
        import ray

        was_connected = ray.is_initialized()
        if not was_connected:
            _connect(ray, options.address or os.environ.get("RAY_ADDRESS") or "local")
        try:
            yield Cluster(ray, options)
        except ray.exceptions.RayError as err:
            raise EdgekitError(
                f"Ray ended on this machine: {type(err).__name__}: {_first_line(err)}",
                hint="Look at Ray's logs. The same command goes on with what is not finished.",
            ) from err
        finally:
            if not was_connected:
                ray.shutdown()


def on_board(method: Any, *args: Any) -> Any:
    """In a task: call a method of the command's board, and wait for what it returns.

    Raises:
        KeyboardInterrupt: If the board, and so the command, is gone.
    """
    import ray

    try:
        return ray.get(method.remote(*args))
    except ray.exceptions.RayActorError as err:
        raise KeyboardInterrupt from err


def _connect(ray: Any, address: str) -> None:
    _refuse_silent(address)
    own = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **(own if address == "local" else {}),
        )
    except (ConnectionError, RuntimeError, ValueError, OSError) as err:
        raise _unreachable(address, _first_line(err)) from err


def _refuse_silent(address: str) -> None:
    """Ray itself would try for minutes to reach an address where nobody answers."""
    if "://" in address:
        raise RecipeError(
            f"Ray's client, of address '{address}', is not what --engine ray works by",
            hint="Start the command on a machine of the cluster: --ray-address auto.",
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():  # "local", "auto"
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS).close()
    except (OSError, OverflowError) as err:
        raise _unreachable(address, str(err)) from err


def _unreachable(address: str, reason: str) -> RecipeError:
    return RecipeError(
        f"Ray cannot be reached at '{address}': {reason}",
        hint="Look at `ray status` there; this machine must be one of the cluster, with the same "
        "versions of Python and Ray.",
    )


def _first_line(err: Exception) -> str:
    return str(err).strip().partition("\n")[0]


def _refuse_too_large(machines: Sequence[Mapping[str, float]], cpus: float, gpus: float) -> None:
    """Ray would wait for such a machine for ever."""
    if any(one.get("CPU", 0) >= cpus and one.get("GPU", 0) >= gpus for one in machines):
        return
    has = [
        f"a machine has {one.get('CPU', 0):g} CPUs and {one.get('GPU', 0):g} GPUs"
        for one in machines
    ]
    raise RecipeError(
        f"no machine of the cluster has room for a task of {cpus:g} CPUs and {gpus:g} GPUs",
        problems=has,
        hint="Give smaller --task-cpus and --task-gpus.",
    )


def _in_directory(directory: str, threads: int, work: Callable[..., Any], *args: Any) -> Any:
    """In a task's process: go where the command was started, so that paths mean the same."""
    import torch

    try:
        os.chdir(directory)
    except OSError as err:
        raise EdgekitError(
            f"machine '{socket.gethostname()}' has no directory {directory}: {err.strerror}",
            hint="Start the command in a directory that all machines of the cluster share.",
        ) from err
    torch.set_num_threads(threads)
    return work(*args)
