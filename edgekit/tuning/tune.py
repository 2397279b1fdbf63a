"""Search a recipe's values: defaults, trials, the winner, and what it is worth."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from edgekit.bases import resolve_base
from edgekit.errors import RecipeError
from edgekit.quiet import quiet_libraries
from edgekit.scaling.ray_cluster import Cluster, RayOptions
from edgekit.training.events import Message
from edgekit.tuning.events import OnTuneEvent
from edgekit.tuning.finishing import finish
from edgekit.tuning.identity import (
    SEARCH_RECORD,
    check_identity,
    identity_of,
    refuse_foreign,
    write_identity,
)
from edgekit.tuning.loading import Search
from edgekit.tuning.ray_workers import connected, run_on_ray
from edgekit.tuning.report import SearchReport
from edgekit.tuning.rows import SearchRows, split_rows, write_rows
from edgekit.tuning.runs import rows_directory
from edgekit.tuning.study import (
    counted,
    delete_study,
    enqueue_grid,
    open_study,
    quiet_optuna,
    recover,
)
from edgekit.tuning.trials import Work, run_trials, score_defaults
from edgekit.tuning.workers import run_in_processes
from edgekit_runtime.digests import sha256_of_file

if TYPE_CHECKING:
    from optuna import Study


def tune(
    search: Search,
    *,
    on_event: OnTuneEvent | None = None,
    overwrite: bool = False,
    force: bool = False,
    ray: RayOptions | None = None,
) -> SearchReport:
    """Search a recipe's values, and keep the best run.

    A search that was stopped or killed goes on when it is started again with the same file. A
    finished one is read again; with more trials it goes on, too.

    Args:
        search: See :func:`edgekit.tuning.loading.load_search`.
        on_event: Told of trials, and of what goes on in them.
        overwrite: Whether to throw an earlier search in the output away.
        force: Whether to start runs that need far more memory than this machine has.
        ray: The Ray cluster that trials run on; None for processes of this machine. The recipe's
            own values, and the comparison at the end, are run where this is called.

    Returns:
        What is also in ``search_report.json``.

    Raises:
        EdgekitError: A child of it, if recipe, data or storage cannot be used, the recipe's own
            values cannot be trained, or no trial could be.
    """
    tell = on_event or (lambda _: None)
    refuse_foreign(search.output)
    with (
        quiet_libraries(),
        quiet_optuna(),
        _only_one(search.output),
        connected(search, ray) as machines,
    ):
        tell(Message(text="reading the data"))
        rows = split_rows(search)
        for warning in rows.warnings:
            tell(Message(text=warning, is_warning=True))
        if overwrite and (search.output / SEARCH_RECORD).is_file():
            _throw_away(search)
        identity = identity_of(search, _facts(search, rows))
        study = _open(search, rows, identity)
        _run(study, search, tell, force=force, ray=machines)
        return finish(study, search, rows, tell, force=force)


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
    references = [recipe.loss, recipe.data.augment, *(one.metric for one in search.objectives)]
    references += [value for one in search.space.values() for value in one.values or ()]
    for reference in references:
        path = str(reference).rpartition(":")[0]
        if path.endswith(".py") and Path(path).is_file():
            facts[f"code in {path}"] = sha256_of_file(Path(path))
    return facts


def _run(
    study: "Study", search: Search, tell: OnTuneEvent, *, force: bool, ray: Cluster | None
) -> None:
    """Everything up to the last trial."""
    n_cut_off = recover(study, search)
    if n_cut_off:
        what = "1 trial was" if n_cut_off == 1 else f"{n_cut_off} trials were"
        tell(Message(text=f"{what} cut off; trying again"))
    if search.file.search_strategy.type == "grid":
        enqueue_grid(study, search)
    left = [max(0, search.num_trials - len(counted(study)))]

    def take() -> bool:
        left[0] -= 1
        return left[0] >= 0

    work = Work(search=search, tell=tell, take=take, force=force)
    if "defaults" not in study.user_attrs:
        study.set_user_attr("defaults", score_defaults(work))
    if ray is not None:
        run_on_ray(study, search, max(0, left[0]), tell, force=force, ray=ray)
    elif search.file.workers == 1 or left[0] <= 1:
        run_trials(study, work)
    else:
        run_in_processes(study, search, left[0], tell, force=force)
