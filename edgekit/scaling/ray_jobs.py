"""The engine ``ray``: every job a task of a cluster, as many at a time as it has room for."""

from collections.abc import Sequence
from typing import Any

from edgekit.errors import EdgekitError
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
from edgekit.scaling.ray_cluster import Ended, RayOptions, cluster, on_board
from edgekit.training.events import Event


def train_on_ray(
    jobs: Sequence[Job], options: JobOptions, where: RayOptions, tell: OnJobEvent
) -> tuple[Outcome, ...]:
    """Train every job; one that fails does not stop the others.

    A job whose process or machine is lost is started again, on any machine, and goes on from its
    last checkpoint; after three attempts it has failed.

    Args:
        jobs: See :func:`edgekit.scaling.jobs.load_jobs`.
        options: For all of them.
        where: The cluster.
        tell: Told of what goes on in each, and of its end.

    Raises:
        RecipeError: If there is no such cluster, or no room in it.
    """
    outcomes: dict[str, Outcome] = {}
    with cluster(where) as ray:
        board = ray.board()
        running = {ray.start(_task, job, options, 1, board): (job, 1) for job in jobs}
        try:
            while running:
                ended = [*ray.ended([*running])]
                for item in ray.ask(board.read):
                    tell(item)
                for one in ended:
                    job, attempt = running.pop(one.task)
                    if one.lost and attempt < MAX_ATTEMPTS:
                        tell(JobLost(name=job.name, reason=f"its process was lost ({one.lost})"))
                        again = ray.start(_task, job, options, attempt + 1, board)
                        running[again] = (job, attempt + 1)
                        continue
                    outcome = one.result or _failure(job, attempt, one)
                    outcomes[job.name] = outcome
                    n_done, n_jobs = len(outcomes), len(jobs)
                    tell(JobEnded(name=job.name, n_done=n_done, n_jobs=n_jobs, outcome=outcome))
        finally:
            ray.end([*running])
    return tuple(outcomes[job.name] for job in jobs)


def _failure(job: Job, attempt: int, ended: Ended) -> Outcome:
    """The outcome of a job that is given up, or whose process raised what nobody expected."""
    error = ended.error
    reason = str(error) if isinstance(error, EdgekitError) else f"{type(error).__name__}: {error}"
    if ended.lost:
        reason = f"its process was lost, {attempt} attempts: {ended.lost}"
    return failed(job, attempts=attempt, host="", error=reason)


def _task(job: Job, options: JobOptions, attempt: int, board: Any) -> Outcome:
    """The whole life of a task."""

    def tell(event: Event) -> None:
        on_board(board.tell, WithinJob(name=job.name, event=event))

    return run_job(job, options, tell, attempt=attempt)
