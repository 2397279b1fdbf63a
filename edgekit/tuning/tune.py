"""Search a recipe's values: defaults, trials, the winner, and what it is worth."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from edgekit.bases import resolve_base
from edgekit.errors import RecipeError
from edgekit.quiet import quiet_libraries
from edgekit.training.events import Event, Message
from edgekit.tuning.comparing import Comparison, compare_on_test
from edgekit.tuning.events import OnTuneEvent, WithinTrial
from edgekit.tuning.loading import Search
from edgekit.tuning.plots import draw_search
from edgekit.tuning.report import SearchReport, TrialRecord, write_report
from edgekit.tuning.rows import SearchRows, split_rows, write_rows
from edgekit.tuning.runs import (
    is_whole,
    keep_run,
    rows_directory,
    run_directory,
    trained_run,
)
from edgekit.tuning.study import (
    ATTEMPT,
    ERROR,
    RUN,
    SEARCH_RECORD,
    check_identity,
    counted,
    delete_study,
    enqueue_grid,
    identity_of,
    open_study,
    quiet_optuna,
    recover,
    refuse_foreign,
    trial_values,
    write_identity,
)
from edgekit.tuning.trials import Work, best_trials, run_trials, score_defaults
from edgekit.tuning.workers import run_in_processes
from edgekit_runtime.digests import sha256_of_file

if TYPE_CHECKING:
    from optuna import Study

BEST = "best"
_MIN_FOR_IMPORTANCES = 4


def tune(
    search: Search,
    *,
    on_event: OnTuneEvent | None = None,
    overwrite: bool = False,
    force: bool = False,
) -> SearchReport:
    """Search a recipe's values, and keep the best run.

    A search that was stopped or killed goes on when it is started again with the same file. A
    finished one is read again; with more trials it goes on, too.

    Args:
        search: See :func:`edgekit.tuning.loading.load_search`.
        on_event: Told of trials, and of what goes on in them.
        overwrite: Whether to throw an earlier search in the output away.
        force: Whether to start runs that need far more memory than this machine has.

    Returns:
        What is also in ``search_report.json``.

    Raises:
        EdgekitError: A child of it, if recipe, data or storage cannot be used, the recipe's own
            values cannot be trained, or no trial could be.
    """
    tell = on_event or (lambda _: None)
    refuse_foreign(search.output)
    with quiet_libraries(), quiet_optuna(), _only_one(search.output):
        tell(Message(text="reading the data"))
        rows = split_rows(search)
        for warning in rows.warnings:
            tell(Message(text=warning, is_warning=True))
        if overwrite and (search.output / SEARCH_RECORD).is_file():
            _throw_away(search)
        identity = identity_of(search, _facts(search, rows))
        study = _open(search, rows, identity)
        _run(study, search, tell, force=force)
        return _finish(study, search, rows, tell, force=force)


@contextmanager
def _only_one(output: Path) -> Iterator[None]:
    """Hold the right to search into a directory."""
    existed = output.exists()
    lock = FileLock(output / ".lock", timeout=0)
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as err:
        raise RecipeError(
            f"another edgekit searches into {output}", hint="Wait until it has finished."
        ) from err
    except OSError as err:
        raise RecipeError(
            f"output {output} cannot be written to: {err}", hint="Choose a directory of your own."
        ) from err
    try:
        yield
    finally:
        lock.release()
        if not existed and {path.name for path in output.iterdir()} <= {".lock"}:
            shutil.rmtree(output)  # refused before anything was done


def _open(search: Search, rows: SearchRows, identity: dict[str, Any]) -> "Study":
    """Go on with the search, or begin it; one that cannot begin leaves nothing."""
    goes_on = check_identity(search.output, identity)
    if not goes_on:
        write_identity(search.output, identity)  # first: what lies beside it is a search's
    write_rows(rows, rows_directory(search))
    try:
        return open_study(search, is_new=not goes_on)
    except RecipeError:
        if not goes_on:
            _empty(search.output)
        raise


def _throw_away(search: Search) -> None:
    delete_study(search)
    _empty(search.output)


def _empty(output: Path) -> None:
    for path in output.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != ".lock":
            path.unlink()


def _facts(search: Search, rows: SearchRows) -> dict[str, str]:
    """What the search stands on beside its file: rows, base, a user's code."""
    recipe = search.recipe
    facts = {"rows": rows.digest, "base fingerprint": resolve_base(recipe.base).fingerprint}
    references = [recipe.loss, recipe.data.augment]
    references += [value for one in search.space.values() for value in one.values or ()]
    for reference in references:
        path = str(reference).rpartition(":")[0]
        if path.endswith(".py") and Path(path).is_file():
            facts[f"code in {path}"] = sha256_of_file(Path(path))
    return facts


def _run(study: "Study", search: Search, tell: OnTuneEvent, *, force: bool) -> None:
    """Everything up to the last trial."""
    n_cut_off = recover(study, search)
    if n_cut_off:
        tell(Message(text=f"{n_cut_off} trials were cut off and are tried again"))
    if search.file.search_strategy.type == "grid":
        enqueue_grid(study, search)
    left = [max(0, search.num_trials - len(counted(study)))]

    def take() -> bool:
        left[0] -= 1
        return left[0] >= 0

    work = Work(search=search, tell=tell, take=take, force=force)
    if "defaults" not in study.user_attrs:
        study.set_user_attr("defaults", score_defaults(work))
    if search.file.workers == 1 or left[0] <= 1:
        run_trials(study, work)
    else:
        run_in_processes(study, search, left[0], tell, force=force)


def _finish(
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
