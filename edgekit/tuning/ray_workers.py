"""Trials on a Ray cluster: workers that share the study, and what to do when one is lost."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from edgekit.errors import EdgekitError, RecipeError
from edgekit.scaling.ray_cluster import Cluster, RayOptions, cluster, on_board
from edgekit.training.events import Message
from edgekit.tuning.events import OnTuneEvent
from edgekit.tuning.identity import SEARCH_RECORD
from edgekit.tuning.loading import Search
from edgekit.tuning.study import storage_url
from edgekit.tuning.workers import Losses, work_until_done

if TYPE_CHECKING:
    from optuna import Study

_STOP_POLLS = 300  # a minute, as the workers of this machine have


@contextmanager
def connected(search: Search, where: RayOptions | None) -> Iterator[Cluster | None]:
    """Connect to the cluster that trials are to run on; none, if none is named.

    Raises:
        RecipeError: If it cannot be used, or the search's storage cannot be by it.
    """
    if where is None:
        yield None
        return
    with cluster(where) as ray:
        check_storage(search, ray.n_machines)
        yield ray


def check_storage(search: Search, n_machines: int) -> None:
    """A SQLite file is safe among the processes of one machine only.

    Raises:
        RecipeError: If the storage is one, and there are more machines.
    """
    if n_machines > 1 and storage_url(search).startswith("sqlite"):
        raise RecipeError(
            f"storage: a SQLite file is for one machine, and this Ray cluster has {n_machines}",
            hint="Give `storage` an URL that all of them reach, such as "
            "postgresql://user@host/searches.",
        )


def run_on_ray(
    study: "Study",
    search: Search,
    n_left: int,
    tell: OnTuneEvent,
    *,
    force: bool,
    ray: Cluster,
) -> None:
    """Run trials in tasks of a cluster, each with a trial at a time.

    A worker that is lost is started again, and its trial is tried again.

    Raises:
        EdgekitError: What a worker could not go on with.
        KeyboardInterrupt: After every worker has stopped.
    """
    board = ray.board(n_left)
    losses = Losses()

    def start(number: int) -> Any:
        return ray.start(_task, search, number, force, board)

    running = {start(number): number for number in range(min(search.file.workers, n_left))}
    try:
        while running:
            ended = [*ray.ended([*running])]
            for item in ray.ask(board.read):
                tell(item)
            for one in ended:
                number = running.pop(one.task)
                if one.error is not None:
                    raise one.error
                if not one.lost:
                    continue
                reason = f"worker {number} was lost ({one.lost})"
                ray.ask(board.give_back, losses.requeue(study, search, number, reason))
                tell(Message(text=f"{reason}; starting it again", is_warning=True))
                running[start(number)] = number
    finally:
        _stop(ray, board, [*running])


def _stop(ray: Cluster, board: Any, tasks: list[Any]) -> None:
    """Let every worker stop at its next step and give its trial back; end one that does not."""
    if tasks:
        ray.ask(board.stop)
    for _ in range(_STOP_POLLS):
        if not tasks:
            return
        over = {one.task for one in ray.ended(tasks)}
        tasks = [task for task in tasks if task not in over]
    ray.end(tasks)


def _task(search: Search, number: int, force: bool, board: Any) -> None:
    """The whole life of a worker."""
    is_stopped = [False]

    def tell(item: Any) -> None:
        is_stopped[0] = on_board(board.tell, item)

    def check() -> None:
        if is_stopped[0]:
            raise KeyboardInterrupt

    def take() -> bool:
        check()
        return bool(on_board(board.take))

    if not (search.output / SEARCH_RECORD).is_file():
        raise EdgekitError(
            f"machine '{socket.gethostname()}' does not see the search in {search.output}",
            hint="Choose an `output` in a directory that all machines of the cluster share.",
        )
    try:
        work_until_done(search, number, tell=tell, take=take, check=check, force=force)
    except KeyboardInterrupt:
        return  # its trial is queued again
