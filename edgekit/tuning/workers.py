"""Trials at a time: worker processes that share the study, and what to do when one dies."""

import multiprocessing
import os
import queue
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.errors import EdgekitError
from edgekit.quiet import quiet_libraries
from edgekit.training.events import Message
from edgekit.tuning.events import OnTuneEvent
from edgekit.tuning.loading import Search
from edgekit.tuning.study import MAX_ATTEMPTS, open_study, quiet_optuna, retry
from edgekit.tuning.trials import WORKER, Work, run_trials

if TYPE_CHECKING:
    from optuna import Study

_POLL_SECONDS = 0.2
_STOP_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shared:
    """What the workers and their parent have in common."""

    tickets: Any
    stop: Any
    told: Any
    parent: int


def run_in_processes(
    study: "Study", search: Search, n_left: int, tell: OnTuneEvent, *, force: bool
) -> None:
    """Run trials in several processes, each with a trial at a time.

    A worker that dies is started again, and its trial is tried again.

    Raises:
        EdgekitError: What a worker could not go on with.
        KeyboardInterrupt: After every worker has stopped.
    """
    context = multiprocessing.get_context("spawn")
    shared = _Shared(
        tickets=context.Value("i", n_left),
        stop=context.Event(),
        told=context.Queue(),
        parent=os.getpid(),
    )

    def start(number: int) -> Any:
        process = context.Process(
            target=_work, args=(search, shared, number, force), name=f"tune-{number}", daemon=False
        )
        process.start()
        return process

    processes = {number: start(number) for number in range(min(search.file.workers, n_left))}
    failure: EdgekitError | None = None
    losses = Losses()
    try:
        while processes:
            for item in _told(shared):
                if isinstance(item, EdgekitError):
                    failure = item
                    shared.stop.set()
                else:
                    tell(item)
            for number, process in list(processes.items()):
                if process.is_alive():
                    continue
                del processes[number]
                if process.exitcode and not shared.stop.is_set():
                    reason = f"worker {number} ended with code {process.exitcode}"
                    with shared.tickets.get_lock():
                        shared.tickets.value += losses.requeue(study, search, number, reason)
                    tell(Message(text=f"{reason}; starting it again", is_warning=True))
                    processes[number] = start(number)
    finally:
        _end(processes, shared)
    if failure is not None:
        raise failure


def _told(shared: _Shared) -> list[Any]:
    """Everything that the workers have told, after waiting a moment for it."""
    items: list[Any] = []
    try:
        items.append(shared.told.get(timeout=_POLL_SECONDS))
        while True:
            items.append(shared.told.get_nowait())
    except queue.Empty:
        return items


class Losses:
    """What is done about workers that die; and when to stop starting them again."""

    def __init__(self) -> None:
        self._n_idle = 0

    def requeue(self, study: "Study", search: Search, number: int, reason: str) -> int:
        """Queue the trial of a dead worker again.

        Args:
            study: Where it is.
            search: What it is of.
            number: Of the worker.
            reason: Why it is dead.

        Returns:
            How many trials are to be tried again: none after the third attempt.

        Raises:
            EdgekitError: If three in a row have died before they began a trial: so will the next.
        """
        from optuna.trial import TrialState

        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        own = [trial for trial in running if trial.user_attrs.get(WORKER) == number]
        self._n_idle = 0 if own else self._n_idle + 1
        if self._n_idle == MAX_ATTEMPTS:
            raise EdgekitError(
                f"{MAX_ATTEMPTS} workers in a row ended before they began a trial",
                problems=[reason],
                hint="The same command goes on with the search when the reason is gone.",
            )
        return sum(retry(study, search, trial) for trial in own)


def work_until_done(
    search: Search,
    number: int,
    *,
    tell: OnTuneEvent,
    take: Callable[[], bool],
    check: Callable[[], None],
    force: bool,
) -> None:
    """What a worker does, in whatever process it is.

    Args:
        search: The search.
        number: Of the worker.
        tell: Told of trials, and of what goes on in them.
        take: Takes one of the trials that are left; False if there is none.
        check: Raises KeyboardInterrupt if the search is to stop.
        force: Whether to start runs that need far more memory than there is.

    Raises:
        EdgekitError: What it could not go on with.
        KeyboardInterrupt: If it was stopped; its trial is queued again.
    """
    with quiet_libraries(), quiet_optuna():
        work = Work(search=search, tell=tell, take=take, check=check, worker=number, force=force)
        run_trials(open_study(search, is_new=False), work)


def _end(processes: dict[int, Any], shared: _Shared) -> None:
    """Let every worker stop at its next step; one that does not is ended."""
    shared.stop.set()
    for process in processes.values():
        process.join(_STOP_SECONDS)
        if process.is_alive():
            process.terminate()
            process.join()
    shared.told.cancel_join_thread()
    shared.told.close()


def _work(search: Search, shared: _Shared, number: int, force: bool) -> None:
    """The whole life of a worker."""
    import torch

    def take() -> bool:
        check()
        with shared.tickets.get_lock():
            if shared.tickets.value <= 0:
                return False
            shared.tickets.value -= 1
            return True

    def check() -> None:
        if shared.stop.is_set() or os.getppid() != shared.parent:
            raise KeyboardInterrupt

    torch.set_num_threads(max(1, (os.cpu_count() or 1) // search.file.workers))
    try:
        work_until_done(search, number, tell=shared.told.put, take=take, check=check, force=force)
    except EdgekitError as err:
        shared.told.put(err)
    except KeyboardInterrupt:
        shared.told.cancel_join_thread()  # the parent may be gone, and nobody reads any more
