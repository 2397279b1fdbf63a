"""The end of a search: the winner kept, compared with the defaults, and the report."""

import json
from typing import TYPE_CHECKING, Any

from edgekit.errors import RecipeError
from edgekit.training.events import Event, Message
from edgekit.training.output import is_whole
from edgekit.tuning.comparing import Comparison, compare_on_test
from edgekit.tuning.events import OnTuneEvent, WithinTrial
from edgekit.tuning.loading import Search
from edgekit.tuning.plots import draw_search
from edgekit.tuning.report import SearchReport, TrialRecord, write_report
from edgekit.tuning.rows import SearchRows
from edgekit.tuning.runs import keep_run, run_directory, trained_run
from edgekit.tuning.study import ATTEMPT, ERROR, RUN, counted, trial_values
from edgekit.tuning.trials import best_trials

if TYPE_CHECKING:
    from optuna import Study

BEST = "best"
_MIN_FOR_IMPORTANCES = 4


def finish(
    study: "Study", search: Search, rows: SearchRows, tell: OnTuneEvent, *, force: bool
) -> SearchReport:
    """Keep the winner, compare it with the defaults, write the report."""
    best = best_trials(study)
    records = sorted((_record(search, t) for t in counted(study)), key=lambda one: one.run)
    if not best:
        raise RecipeError(
            f"no trial of search {search.output} was finished",
            problems=[f"run {one.run}: {one.state} {one.reason}" for one in records],
            hint="Look at the reasons; a smaller search space may help.",
        )
    winner = best[0]
    run, values = int(winner.user_attrs[RUN]), trial_values(search, winner)

    def pass_on(event: Event) -> None:
        tell(WithinTrial(run=run, event=event))

    for number, its_values in ((None, {}), (run, values)):
        if not is_whole(run_directory(search, number)):  # somebody deleted it
            tell(Message(text=f"training run {run_directory(search, number).name} again"))
            trained_run(search, its_values, number, on_event=pass_on, force=force)
    known = study.user_attrs.get("comparison", {})
    if known.get("run") != run:
        tell(Message(text="comparing the winner with the recipe's own values on the test rows"))
        compared = compare_on_test(search, values, run, pass_on)
        known = {"run": run, "comparison": [one.to_dict() for one in compared]}
        study.set_user_attr("comparison", json.loads(json.dumps(known)))
    keep_run(search, run, search.output / BEST)
    metrics = [one.metric for one in search.objectives]
    directions = ["minimize" if one.is_minimized else "maximize" for one in search.objectives]
    report = SearchReport(
        output=search.output,
        best=search.output / BEST,
        best_run=run,
        values=values,
        scores=dict(zip(metrics, winner.values, strict=True)),
        objectives=dict(zip(metrics, directions, strict=True)),
        evaluate_on=search.file.evaluate_on,
        defaults=study.user_attrs["defaults"],
        pareto=tuple(int(trial.user_attrs[RUN]) for trial in best),
        comparison=tuple(Comparison(**one) for one in known["comparison"]),
        importances=_importances(study, search),
        n_trials={
            state: sum(one.state == state for one in records)
            for state in dict.fromkeys(["complete", *(one.state for one in records)])
        },
        rows={
            "train": len(rows.train),
            "validation": len(rows.validation),
            "test": len(rows.test),
        },
        trials=tuple(records),
        seconds=round(sum(one.seconds for one in records), 1),
        warnings=(*rows.warnings, *_warnings(study, search, winner, records)),
    )
    write_report(search, report, draw_search(search, report))
    return report


def _record(search: Search, trial: Any) -> TrialRecord:
    state = {"COMPLETE": "complete", "PRUNED": "pruned"}.get(trial.state.name, "failed")
    metrics = [one.metric for one in search.objectives]
    has_scores = state == "complete"
    return TrialRecord(
        run=int(trial.user_attrs[RUN]),
        state=state,
        values=trial_values(search, trial),
        scores=dict(zip(metrics, trial.values, strict=True)) if has_scores else {},
        seconds=round(trial.duration.total_seconds(), 1) if trial.duration else 0.0,
        reason=str(trial.user_attrs.get(ERROR, "")).partition("\n")[0],
        attempts=int(trial.user_attrs.get(ATTEMPT, 1)),
    )


def _importances(study: "Study", search: Search) -> dict[str, float]:
    """By Optuna; nothing where there are too few trials, or they all scored alike."""
    import optuna

    done = [t for t in counted(study) if t.state == optuna.trial.TrialState.COMPLETE]
    if len(done) < _MIN_FOR_IMPORTANCES or len({t.values[0] for t in done}) < 2:
        return {}
    found = optuna.importance.get_param_importances(
        study, target=None if len(search.objectives) == 1 else lambda trial: trial.values[0]
    )
    return {key: round(float(share), 4) for key, share in found.items()}


def _warnings(study: "Study", search: Search, winner: Any, records: Any) -> list[str]:
    """What a person should know of the result."""
    first = search.objectives[0]
    default, score = float(study.user_attrs["defaults"][first.metric]), float(winner.values[0])
    found = []
    if (score >= default) if first.is_minimized else (score <= default):
        found.append(
            f"no trial beat the recipe's own values on validation ({first.metric} {default:.4g}); "
            "keep them, or search another space"
        )
    missing = search.num_trials - len(records)
    if missing > 0:
        found.append(f"the time was up {missing} trials before the end")
    return found
