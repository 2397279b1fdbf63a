"""A search whose trials run on Ray, of whose workers one is killed."""

import signal
from pathlib import Path

import pytest

from edgekit.errors import EdgekitError, RecipeError
from edgekit.scaling.ray_cluster import RayOptions
from edgekit.training.events import Message
from edgekit.tuning.events import TuneEvent, WithinTrial
from tests.tuning.conftest import MakeSearch
from tests.two_ray_workers import two_ray_workers, write_killing_loss

TRAINING = {"max_steps": 6, "save_steps": 2}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 on this system")
@pytest.mark.slow
def test_a_lost_worker_is_started_again_and_the_search_ends_as_on_one_machine(
    make_search: MakeSearch, tmp_path: Path
) -> None:
    from edgekit.tuning.tune import tune

    recipe = {"loss": write_killing_loss(tmp_path), "training": TRAINING}
    here = tune(make_search(tmp_path / "here", recipe=recipe))
    assert not (tmp_path / "killed").exists()  # this process is spared
    told: list[TuneEvent] = []
    with two_ray_workers():
        search = make_search(tmp_path / "ray", recipe=recipe, workers=2)
        report = tune(search, on_event=told.append, ray=RayOptions())
    assert (tmp_path / "killed").exists()
    lost = [e.text for e in told if isinstance(e, Message) and "was lost" in e.text]
    assert len(lost) == 1
    assert "starting it again" in lost[0]
    assert report.n_trials == {"complete": 3}
    assert sorted(trial.attempts for trial in report.trials) == [1, 1, 2]
    scores = [
        sorted((one.values["learning_rate"], one.scores["loss"]) for one in found.trials)
        for found in (here, report)
    ]
    for mine, theirs in zip(scores[1], scores[0], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)
    assert (tmp_path / "ray" / "best" / "adapter_config.json").is_file()


@pytest.mark.slow
def test_a_search_on_ray_that_is_stopped_goes_on(make_search: MakeSearch, tmp_path: Path) -> None:
    from edgekit.tuning.tune import tune

    search = make_search(tmp_path / "a", workers=2)

    def stop(event: TuneEvent) -> None:
        if isinstance(event, WithinTrial) and event.run is not None:
            raise KeyboardInterrupt

    with two_ray_workers():
        with pytest.raises(KeyboardInterrupt):
            tune(search, on_event=stop, ray=RayOptions())
        report = tune(search, ray=RayOptions())
    assert report.n_trials == {"complete": 3}
    assert {trial.attempts for trial in report.trials} == {1}  # stopped on purpose: no attempt


def test_workers_that_never_begin_a_trial_are_not_started_for_ever(
    make_search: MakeSearch, tmp_path: Path
) -> None:
    from edgekit.tuning.study import open_study
    from edgekit.tuning.trials import WORKER
    from edgekit.tuning.workers import Losses

    search = make_search(tmp_path / "a")
    search.output.mkdir()
    study = open_study(search, is_new=True)
    losses = Losses()
    assert losses.requeue(study, search, 0, "gone") == 0
    assert losses.requeue(study, search, 1, "gone") == 0
    study.ask().set_user_attr(WORKER, 0)
    assert losses.requeue(study, search, 0, "gone") == 1  # had one: no reason to give up
    for number in range(2):
        assert losses.requeue(study, search, number, "gone") == 0
    with pytest.raises(EdgekitError, match="3 workers in a row ended before they began") as caught:
        losses.requeue(study, search, 1, "code 1")
    assert "code 1" in str(caught.value)


def test_a_storage_of_one_machine_is_refused_for_more(
    make_search: MakeSearch, tmp_path: Path
) -> None:
    from edgekit.tuning.ray_workers import check_storage

    search = make_search(tmp_path / "a")
    check_storage(search, 1)
    with pytest.raises(
        RecipeError, match="SQLite file is for one machine, and this Ray cluster has 3"
    ):
        check_storage(search, 3)
    check_storage(make_search(tmp_path / "a", storage="postgresql://host/searches"), 3)


def test_a_search_is_not_for_processes_that_share_a_run(
    make_search: MakeSearch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("WORLD_SIZE", "2"), ("LOCAL_RANK", "1"), ("RANK", "1")):
        monkeypatch.setenv(name, value)
    with pytest.raises(RecipeError, match="a search in 2 processes"):
        make_search(tmp_path / "a")
