"""The engine ``local``: jobs one after another, each in a process of its own.

So a job that takes the memory of the machine and is killed for it takes no other with it, and
the peak memory in its report is its own.
"""

import multiprocessing
import os
import socket
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

from edgekit.scaling.jobs import (
    MAX_ATTEMPTS,
    Job,
    JobEnded,
    JobLost,
    JobOptions,
    OnJobEvent,
    Outcome,
    WithinJob,
    failed,
    run_job,
)
from edgekit.training.events import Event

_UNCAUGHT = 1  # Python's exit code for an exception that nobody caught; it has told it


def train_here(jobs: Sequence[Job], options: JobOptions, tell: OnJobEvent) -> tuple[Outcome, ...]:
    """Train every job; one that fails does not stop the others.

    A job whose process was killed is started again, and goes on from its last checkpoint; after
    three attempts it has failed.

    Args:
        jobs: See :func:`edgekit.scaling.jobs.load_jobs`.
        options: For all of them.
        tell: Told of what goes on in each, and of its end.
    """
    outcomes = []
    for job in jobs:
        outcome = _attempts(job, options, tell)
        outcomes.append(outcome)
        tell(JobEnded(name=job.name, n_done=len(outcomes), n_jobs=len(jobs), outcome=outcome))
    return tuple(outcomes)


def _attempts(job: Job, options: JobOptions, tell: OnJobEvent) -> Outcome:
    """Start a job until it has an outcome."""
    for attempt in range(1, MAX_ATTEMPTS + 1):
        outcome, code = _in_child(job, options, tell, attempt)
        if outcome is not None:
            return outcome
        reason = f"its process ended with code {code}"
        if code == _UNCAUGHT or attempt == MAX_ATTEMPTS:
            break
        tell(JobLost(name=job.name, reason=reason))
    if attempt > 1:
        reason += f", after {attempt} attempts"
    return failed(job, attempts=attempt, host=socket.gethostname(), error=reason)


def _in_child(
    job: Job, options: JobOptions, tell: OnJobEvent, attempt: int
) -> tuple[Outcome | None, int | None]:
    """One attempt; returns the outcome, None if the process ended without, and its exit code."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=_child, args=(job, options, attempt, sender), name=f"train-{job.name}"
    )
    process.start()
    sender.close()  # or the end of the child would not end the pipe
    outcome: Outcome | None = None
    try:
        for item in _received(receiver):
            if isinstance(item, Outcome):
                outcome = item
            else:
                tell(WithinJob(name=job.name, event=item))
    except BaseException:  # Ctrl-C, above all; a run that is killed goes on another time
        process.terminate()
        raise
    finally:
        process.join()
    return outcome, process.exitcode


def _received(receiver: "Connection[Any, Any]") -> Any:
    """Everything that comes, until the other end is closed."""
    while True:
        try:
            yield receiver.recv()
        except (EOFError, OSError):
            return


def _child(job: Job, options: JobOptions, attempt: int, sender: "Connection[Any, Any]") -> None:
    """The whole life of a job's process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def tell(event: Event) -> None:
        try:
            sender.send(event)
        except OSError as err:  # the parent is gone
            raise KeyboardInterrupt from err

    try:
        sender.send(run_job(job, options, tell, attempt=attempt))
    except KeyboardInterrupt:
        return


def _end_with_parent() -> None:
    """End where the command was killed: started again, it would meet this run in its output."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(_UNCAUGHT)
