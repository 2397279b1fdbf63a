"""The Optuna study behind a search: opened, found again after a kill, asked for values."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from edgekit.errors import RecipeError
from edgekit.tuning.loading import Search
from edgekit.tuning.space import grid_of, suggest, values_of

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

MAX_ATTEMPTS = 3
RUN, ATTEMPT, CUT_OFF, ERROR = "run", "attempt", "cut_off", "error"


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Keep Optuna from writing to the terminal."""
    import warnings

    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(optuna|alembic|sqlalchemy)\b")
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        try:
            yield
        finally:
            optuna.logging.set_verbosity(verbosity)


def storage_url(search: Search) -> str:
    """Optuna's storage: the one that is named, or a SQLite file in the output."""
    return search.file.storage or f"sqlite:///{(search.output / 'search.db').as_posix()}"


def study_name(search: Search) -> str:
    """The study's name in its storage."""
    return search.file.study or search.output.resolve().name


def open_study(search: Search, *, is_new: bool) -> "Study":
    """Open the study, or begin it.

    Args:
        search: The search.
        is_new: Whether it must not be there yet.

    Raises:
        RecipeError: If the storage cannot be used, or holds another study of the name.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    url, name = storage_url(search), study_name(search)
    options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    try:
        storage = optuna.storages.RDBStorage(url, engine_kwargs=options)
        return optuna.create_study(
            storage=storage,
            study_name=name,
            directions=["minimize" if o.is_minimized else "maximize" for o in search.objectives],
            load_if_exists=not is_new,
            pruner=_pruner(search),
        )
    except optuna.exceptions.DuplicatedStudyError as err:
        raise RecipeError(
            f"storage: it holds a study '{name}' already, and output {search.output} does not",
            hint="Say `study: ANOTHER-NAME`, or the output that belongs to it.",
        ) from err
    except (SQLAlchemyError, ImportError, ValueError) as err:
        raise _unusable(err) from err


def delete_study(search: Search) -> None:
    """Take the study out of its storage, if it is there.

    Raises:
        RecipeError: If the storage cannot be used.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    url, name = storage_url(search), study_name(search)
    try:
        if name in optuna.get_all_study_names(url):
            optuna.delete_study(study_name=name, storage=url)
    except (SQLAlchemyError, ImportError, ValueError) as err:
        raise _unusable(err) from err


def _unusable(err: Exception) -> RecipeError:
    return RecipeError(
        f"storage: Optuna cannot use it: {str(err).splitlines()[0]}",
        hint="Give an URL such as sqlite:///search.db, or leave storage out.",
    )


def _pruner(search: Search) -> "BasePruner":
    from optuna import pruners

    strategy = search.file.search_strategy
    if strategy.pruner == "median":
        return pruners.MedianPruner(n_startup_trials=strategy.startup_trials)
    if strategy.pruner == "halving":
        return pruners.SuccessiveHalvingPruner(min_resource="auto")
    return pruners.NopPruner()


def _sampler(search: Search, run: int) -> "BaseSampler":
    """A sampler for one run, so that a search that was killed picks what it would have picked."""
    import numpy as np
    from optuna import samplers

    seed = int(np.random.SeedSequence([search.file.seed, run]).generate_state(1)[0])
    if search.file.search_strategy.type == "tpe":
        return samplers.TPESampler(seed=seed)
    return samplers.RandomSampler(seed=seed)


def enqueue_grid(study: "Study", search: Search) -> None:
    """Queue the combinations of a grid that are not queued yet, in an order of the seed's."""
    import random

    cells = grid_of(search.space)
    random.Random(search.file.seed).shuffle(cells)
    begun = sum(ATTEMPT not in trial.user_attrs for trial in study.get_trials(deepcopy=False))
    for cell in itertools.islice(cells, begun, search.num_trials):
        study.enqueue_trial(cell)


def ask(study: "Study", search: Search) -> "Trial":
    """The next trial, its values picked; a retry or a cell of the grid where one is queued."""
    trial = study.ask()
    run = trial.user_attrs.get(RUN)
    if run is None:
        run = run_of(study, trial.number)
        trial.set_user_attr(RUN, run)
    study.sampler = _sampler(search, run)
    suggest(trial, search.space)
    return trial


def run_of(study: "Study", number: int) -> int:
    """Which run a trial is: its number, retries not counted."""
    trials = study.get_trials(deepcopy=False)
    return sum(t.number < number and ATTEMPT not in t.user_attrs for t in trials)


def retry(study: "Study", search: Search, trial: "FrozenTrial", *, was_asked: bool = False) -> bool:
    """Mark a trial that was cut off as failed, and queue its values again.

    Args:
        study: Where it is.
        search: What it is of.
        trial: Is running, as the study has it.
        was_asked: Whether somebody stopped it on purpose, which is no attempt that failed.

    Returns:
        Whether it is tried again; not after the third attempt.
    """
    from optuna.trial import TrialState

    attempt = int(trial.user_attrs.get(ATTEMPT, 1)) + (not was_asked)
    storage = study._storage
    again = attempt <= MAX_ATTEMPTS
    if again:
        run = trial.user_attrs.get(RUN, run_of(study, trial.number))
        whole = set(trial.params) == set(search.space)
        params = trial.params if whole else trial.system_attrs.get("fixed_params", {})
        # Queued before the old one is marked: a kill in between loses neither.
        queued = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        if not any(one.user_attrs.get(RUN) == run for one in queued):
            study.enqueue_trial(params, user_attrs={RUN: run, ATTEMPT: attempt})
        storage.set_trial_user_attr(trial._trial_id, CUT_OFF, True)
    else:
        reason = f"the process that ran it ended {MAX_ATTEMPTS} times"
        storage.set_trial_user_attr(trial._trial_id, ERROR, reason)
    study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
    return again


def recover(study: "Study", search: Search) -> int:
    """Retry what ran when the search was stopped; returns how many trials that were."""
    from optuna.trial import TrialState

    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    for trial in running:
        retry(study, search, trial)
    return len(running)


def counted(study: "Study") -> "list[FrozenTrial]":
    """The trials that are done, those that were cut off and tried again left out."""
    found = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
    return [trial for trial in found if CUT_OFF not in trial.user_attrs]


def trial_values(search: Search, trial: "FrozenTrial | Trial") -> dict[str, Any]:
    """A trial's values, as the recipe has them."""
    ordered = {key: trial.params[key] for key in search.space if key in trial.params}
    return values_of(search.space, ordered)
