"""Trials, one after the other: ask for values, train, score, tell; and what a cut leaves."""

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.errors import EdgekitError
from edgekit.training.events import Event, TrainingStep
from edgekit.tuning.events import OnTuneEvent, TrialBegun, TrialEnded, WithinTrial
from edgekit.tuning.loading import Search
from edgekit.tuning.runs import run_directory, scores_of_run, thin_out, trained_run
from edgekit.tuning.study import ERROR, RUN, ask, counted, retry, trial_values

if TYPE_CHECKING:
    from optuna import Study, Trial

WORKER = "worker"


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What a worker needs beside the study.

    Attributes:
        take: Takes one of the trials that are left; False if there is none.
        check: Raises KeyboardInterrupt if the search is to stop.
        worker: Its number.
    """

    search: Search
    tell: OnTuneEvent
    take: Callable[[], bool]
    check: Callable[[], None] = lambda: None
    worker: int = 0
    force: bool = False


def run_trials(study: "Study", work: Work) -> None:
    """Run trials until none is left, or the time is up.

    Raises:
        KeyboardInterrupt: If it was stopped; the trial is queued again.
    """
    while not is_out_of_time(study, work.search) and work.take():
        _run_trial(study, work)
        gc.collect()


def is_out_of_time(study: "Study", search: Search) -> bool:
    """Whether the trials so far, of earlier sessions too, have taken all of the time."""
    minutes = search.file.search_strategy.max_minutes
    if minutes is None:
        return False
    durations = [trial.duration for trial in counted(study)]
    spent = sum(duration.total_seconds() for duration in durations if duration)
    return spent / search.file.workers >= 60 * minutes


def score_defaults(work: Work) -> dict[str, float]:
    """Train and score the recipe's own values, which the winner is compared with.

    Raises:
        EdgekitError: If the recipe itself cannot be trained.
    """
    search = work.search
    total = search.num_trials
    work.tell(TrialBegun(run=None, n_done=0, n_trials=total, values={}))
    started = time.monotonic()
    report = trained_run(
        search, {}, None, on_event=lambda e: _pass_on(work, None, e), force=work.force
    )
    scores = scores_of_run(search, report, None, worker=work.worker)
    seconds = time.monotonic() - started
    ended = TrialEnded(
        run=None, n_done=0, n_trials=total, state="complete", scores=scores, seconds=seconds
    )
    work.tell(ended)
    return scores


def _run_trial(study: "Study", work: Work) -> None:
    import optuna
    import torch
    from optuna.trial import TrialState

    search = work.search
    trial = ask(study, search)
    trial.set_user_attr(WORKER, work.worker)
    run = int(trial.user_attrs[RUN])
    values = trial_values(search, trial)
    total = search.num_trials
    work.tell(TrialBegun(run=run, n_done=len(counted(study)), n_trials=total, values=values))
    started = time.monotonic()
    scores: dict[str, float] = {}
    state, reason = TrialState.COMPLETE, ""
    try:
        scores = _scores(work, trial, run, values)
    except optuna.TrialPruned:
        state = TrialState.PRUNED
    except (EdgekitError, MemoryError, torch.OutOfMemoryError) as err:
        state, reason = TrialState.FAIL, str(err) or type(err).__name__
        trial.set_user_attr(ERROR, reason)
    except KeyboardInterrupt:
        retry(study, search, study.get_trials(deepcopy=False)[trial.number], was_asked=True)
        raise
    study.tell(trial, [*scores.values()] if scores else None, state=state)
    best = _drop_losers(study, search)
    work.tell(
        TrialEnded(
            run=run,
            n_done=len(counted(study)),
            n_trials=total,
            state={TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}.get(
                state, "failed"
            ),
            scores=scores,
            seconds=time.monotonic() - started,
            reason=reason.partition("\n")[0],
            is_best=run in best,
        )
    )


def _scores(work: Work, trial: "Trial", run: int, values: Mapping[str, Any]) -> dict[str, float]:
    """Train and score; ends early where the pruner says so."""
    import optuna

    search = work.search
    seen: list[float] = []
    # The pruner looks at the validation loss, whichever way the objective points.
    sign = 1.0 if search.objectives[0].is_minimized else -1.0
    prunes = len(search.objectives) == 1 and search.file.search_strategy.pruner != "none"

    def on_event(event: Event) -> None:
        _pass_on(work, run, event)
        if not prunes or not isinstance(event, TrainingStep):
            return
        if event.eval_loss is None or event.eval_loss in seen:
            return
        seen.append(event.eval_loss)
        trial.report(sign * event.eval_loss, event.step)
        if trial.should_prune():
            raise optuna.TrialPruned

    report = trained_run(search, values, run, on_event=on_event, force=work.force)
    work.check()
    scores = scores_of_run(search, report, run, worker=work.worker)
    trial.set_user_attr("validation", dict(report["metrics"]["validation"]))
    return scores


def _pass_on(work: Work, run: int | None, event: Event) -> None:
    work.check()
    work.tell(WithinTrial(run=run, event=event))


def _drop_losers(study: "Study", search: Search) -> set[int]:
    """Delete the weights of every run that is not among the best; returns the best."""
    done = counted(study)
    best = {int(trial.user_attrs[RUN]) for trial in best_trials(study)}
    for trial in done:
        if (run := int(trial.user_attrs[RUN])) not in best:
            thin_out(run_directory(search, run))
    return best


def best_trials(study: "Study") -> list[Any]:
    """The best trial, or, of several objectives, those that none beats in all; by first objective.

    Of equals the earliest comes first.
    """
    import optuna

    done = [t for t in counted(study) if t.state == optuna.trial.TrialState.COMPLETE]
    if not done:
        return []
    is_min = study.directions[0] == optuna.study.StudyDirection.MINIMIZE
    front = study.best_trials if len(study.directions) > 1 else done
    ordered = sorted(front, key=lambda t: (t.values[0] * (1 if is_min else -1), t.number))
    return ordered if len(study.directions) > 1 else ordered[:1]
