"""Searches that are stopped, killed, shared among processes; grids, pruning, several objectives."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgekit.errors import RecipeError
from edgekit.evaluating.rows import AnsweredRow
from edgekit.tuning.comparing import paired
from edgekit.tuning.events import TrialBegun, TrialEnded, TuneEvent, WithinTrial
from edgekit.tuning.loading import Search
from edgekit.tuning.report import SearchReport
from edgekit.tuning.search_file import Objective
from tests.tuning.conftest import MakeSearch, MakeValues

_PATIENCE_SECONDS = 240


def run(search: Search, on_event: Any = None, **options: Any) -> SearchReport:
    from edgekit.tuning.tune import tune

    return tune(search, on_event=on_event, **options)


def tried(report: SearchReport) -> list[dict[str, Any]]:
    return [dict(trial.values) for trial in report.trials]


@pytest.fixture(scope="module")
def unbroken(make_search: MakeSearch, tmp_path_factory: pytest.TempPathFactory) -> SearchReport:
    """Three random trials without an interruption; read only."""
    return run(make_search(tmp_path_factory.mktemp("search") / "unbroken"))


def start(path: Path) -> "subprocess.Popen[bytes]":
    code = "import sys; from edgekit.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", code, "tune", str(path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def wait_for(path: Path, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not path.exists():
        assert process.poll() is None, "the search ended before it could be killed"
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.02)


def test_a_search_that_was_killed_goes_on_with_what_is_left(
    make_values: MakeValues,
    make_search: MakeSearch,
    unbroken: SearchReport,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Kill -9 in the second trial, Ctrl-C in the third; it still ends as an unbroken search."""
    from edgekit.cli import main

    output = tmp_path / "a"
    path = tmp_path / "search.yaml"
    path.write_text(yaml.safe_dump(make_values(output)), encoding="utf-8")
    process = start(path)
    wait_for(output / "runs" / "0001" / "checkpoints", process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (output / "best").exists()

    process = start(path)
    wait_for(output / "runs" / "0002" / "checkpoints", process)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait() == 130

    assert main(["tune", str(path), "--json"]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert "Traceback" not in err
    assert [trial["attempts"] for trial in report["trials"]] == [1, 2, 1]
    assert [trial["values"] for trial in report["trials"]] == tried(unbroken)
    for mine, theirs in zip(report["trials"], unbroken.trials, strict=True):
        assert mine["scores"]["loss"] == pytest.approx(theirs.scores["loss"], rel=1e-5)
    assert report["best_run"] == unbroken.best_run
    assert report["n_trials"] == {"complete": 3}


@pytest.mark.slow
def test_ctrl_c_saves_and_the_same_search_goes_on(
    make_search: MakeSearch, unbroken: SearchReport, tmp_path: Path
) -> None:
    search = make_search(tmp_path / "a")

    def stop(event: TuneEvent) -> None:
        if isinstance(event, WithinTrial) and event.run == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(search, stop)
    begun: list[int | None] = []
    report = run(
        search, lambda event: begun.append(event.run) if isinstance(event, TrialBegun) else None
    )
    assert begun == [1, 2]
    assert tried(report) == tried(unbroken)
    assert [trial.attempts for trial in report.trials] == [1, 1, 1]


@pytest.mark.slow
def test_a_trial_whose_process_always_dies_is_given_up(
    make_search: MakeSearch, tmp_path: Path
) -> None:
    from edgekit.tuning.study import MAX_ATTEMPTS, ask, counted, open_study, quiet_optuna, recover

    search = make_search(tmp_path / "a")
    search.output.mkdir()
    with quiet_optuna():
        study = open_study(search, is_new=True)
        first = ask(study, search).params
        for _ in range(MAX_ATTEMPTS - 1):
            assert recover(study, search) == 1
            assert counted(study) == []
            assert ask(study, search).params == first
        assert recover(study, search) == 1
        (given_up,) = counted(study)
        assert given_up.user_attrs["error"] == "the process that ran it ended 3 times"
        assert ask(study, search).params != first


@pytest.mark.slow
def test_a_worker_that_is_killed_is_started_again(
    make_search: MakeSearch, unbroken: SearchReport, tmp_path: Path
) -> None:
    """Two workers share the study; one is killed in its first trial."""
    import multiprocessing

    killed: list[int] = []

    def kill_one(event: TuneEvent) -> None:
        if isinstance(event, WithinTrial) and event.run is not None and not killed:
            victim = multiprocessing.active_children()[0]
            killed.append(victim.pid or 0)
            os.kill(killed[0], signal.SIGKILL)

    report = run(make_search(tmp_path / "a", workers=2), kill_one)
    assert killed
    assert report.n_trials == {"complete": 3}
    by_rate = sorted(tried(report), key=lambda values: values["learning_rate"])
    assert by_rate == sorted(tried(unbroken), key=lambda values: values["learning_rate"])
    assert not multiprocessing.active_children()


def test_a_grid_tries_every_cell_once(make_search: MakeSearch, tmp_path: Path) -> None:
    space = {"lora.r": [2, 4], "lora.target_modules": [["q_proj"], ["q_proj", "v_proj"]]}
    search = make_search(tmp_path / "a", search_space=space, search_strategy={"type": "grid"})

    def stop(event: TuneEvent) -> None:
        if isinstance(event, WithinTrial) and event.run == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(search, stop)
    report = run(search)
    cells = {json.dumps(values, sort_keys=True) for values in tried(report)}
    assert len(cells) == len(report.trials) == 4
    assert sum(report.importances.values()) == pytest.approx(1, abs=0.01)


def test_bad_trials_are_pruned_and_broken_ones_are_told(
    make_search: MakeSearch, tmp_path: Path
) -> None:
    """A rate that learns nothing is ended early; one that diverges fails and stops nobody."""
    training = {"max_steps": 6, "max_grad_norm": 0, "warmup_steps": 0, "optim": "sgd"}
    report = run(
        make_search(
            tmp_path / "a",
            recipe={"training": training | {"eval_steps": 2, "learning_rate": 1e-3}},
            search_space={"learning_rate": [0.05, 0.1, 1e-9, 1e30]},
            search_strategy={"type": "grid", "pruner": "median", "startup_trials": 1},
            seed=1,
        )
    )
    states = {trial.values["learning_rate"]: trial for trial in report.trials}
    assert states[1e30].state == "failed"
    assert "training diverged" in states[1e30].reason
    assert report.n_trials["pruned"] >= 1
    assert report.values["learning_rate"] in {0.05, 0.1}


@pytest.mark.slow
def test_several_objectives_end_in_a_pareto_set(make_search: MakeSearch, tmp_path: Path) -> None:
    space = {"lora.r": [1, 8], "learning_rate": [1e-9, 1e-2]}
    report = run(
        make_search(
            tmp_path / "a",
            search_space=space,
            search_strategy={"type": "grid"},
            objective=["loss", "adapter_size"],
        )
    )
    assert report.objectives == {"loss": "minimize", "adapter_size": "minimize"}
    front = [trial for trial in report.trials if trial.run in report.pareto]
    for trial in report.trials:
        beaten = any(
            all(other.scores[name] <= trial.scores[name] for name in trial.scores)
            and other.scores != trial.scores
            for other in report.trials
        )
        assert beaten == (trial not in front)
    assert len({trial.scores["adapter_size"] for trial in front}) == 2
    assert (tmp_path / "a" / "pareto.png").exists()
    runs = tmp_path / "a" / "runs"
    whole = {p.parent.name for p in runs.glob("0*/adapter_model.safetensors")}
    assert whole == {f"{run:04d}" for run in report.pareto}


@pytest.mark.slow
def test_a_search_can_be_judged_by_what_the_device_runs(
    make_search: MakeSearch, tiny_base: Path, tmp_path: Path
) -> None:
    from edgekit.building.build import build
    from edgekit.bundling.adapters import AdapterSource
    from edgekit.evaluating.evaluate import evaluate

    search = make_search(
        tmp_path / "a",
        evaluate_on="bundle",
        target="cpu-fast",
        objective=["perplexity", "accuracy", "adapter_size", "latency"],
        search_strategy={"num_trials": 1},
    )
    report = run(search)
    scores = report.scores
    assert scores["latency"] > 0
    assert [one.metric for one in report.comparison] == ["perplexity", "accuracy"]
    build(
        name="one",
        base=str(tiny_base),
        output=tmp_path / "bundle",
        targets=("cpu-fast",),
        adapters={"best": AdapterSource(path=report.best)},
        parity=False,
    )
    rows = search.output / "rows" / "validation.jsonl"
    again = evaluate(data=str(rows), bundle=tmp_path / "bundle", adapter="best")
    assert again.metrics["perplexity"] == pytest.approx(scores["perplexity"], rel=1e-3)
    assert again.metrics["accuracy"] == scores["accuracy"]


def test_no_trial_begins_when_the_time_is_up(make_search: MakeSearch, tmp_path: Path) -> None:
    strategy = {"num_trials": 50, "max_minutes": 1e-6}
    report = run(make_search(tmp_path / "a", search_strategy=strategy))
    assert len(report.trials) == 1
    assert "the time was up 49 trials before the end" in report.warnings


def test_trials_that_all_fail_are_told(make_search: MakeSearch, tmp_path: Path) -> None:
    search = make_search(
        tmp_path / "a",
        recipe={"training": {"max_grad_norm": 0, "optim": "sgd", "learning_rate": 1e-3}},
        search_space={"learning_rate": [1e30, 1e31]},
        search_strategy={"num_trials": 1},
    )
    with pytest.raises(RecipeError, match=r"no trial .* was finished") as caught:
        run(search)
    assert "training diverged" in caught.value.problems[0]


def test_a_search_that_is_running_is_not_started_twice(
    make_search: MakeSearch, unbroken: SearchReport
) -> None:
    search = make_search(unbroken.output)

    def again(_: TuneEvent) -> None:
        run(search)

    with pytest.raises(RecipeError, match="another edgekit searches into"):
        run(search, again)


def answers(rights: list[bool]) -> list[AnsweredRow]:
    return [
        AnsweredRow(
            number=number,
            key="",
            prompt="",
            prediction="ba"[right],
            reference="a",
            nll=2.0 - 2 * right,
            n_tokens=1,
        )
        for number, right in enumerate(rights, start=1)
    ]


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_the_interval_is_of_the_paired_difference(metric: str) -> None:
    """By hand: 60 rows, 20 are gained and none is lost, so the gain is a third, sd 0.061."""
    defaults = answers([True] * 20 + [False] * 40)
    winner = answers([True] * 40 + [False] * 20)
    found = paired(Objective(metric=metric), defaults, winner, None)
    scale = 1 if metric == "accuracy" else -2
    assert found.difference == pytest.approx(scale / 3)
    near, far = sorted([found.low / scale, found.high / scale])
    assert near == pytest.approx(1 / 3 - 1.96 * 0.061, abs=0.02)
    assert far == pytest.approx(1 / 3 + 1.96 * 0.061, abs=0.02)
    assert found.is_better
    assert not paired(Objective(metric=metric), winner, defaults, None).is_better
    assert not paired(Objective(metric=metric), winner, winner, None).is_better


def test_events_count_to_the_number_of_trials(make_search: MakeSearch, tmp_path: Path) -> None:
    seen: list[TuneEvent] = []
    run(make_search(tmp_path / "a", search_strategy={"type": "tpe", "num_trials": 2}), seen.append)
    ended = [(e.n_done, e.n_trials, e.state) for e in seen if isinstance(e, TrialEnded)]
    assert ended == [(0, 2, "complete"), (1, 2, "complete"), (2, 2, "complete")]


def test_a_study_in_a_storage_of_its_own_is_not_taken_for_another(
    make_search: MakeSearch, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    shared = {"storage": url, "study": "one", "search_strategy": {"num_trials": 1}}
    run(make_search(tmp_path / "a", **shared))
    with pytest.raises(RecipeError, match="holds a study 'one' already"):
        run(make_search(tmp_path / "b", **shared))
    assert not (tmp_path / "b").exists()
    again = run(make_search(tmp_path / "a", **shared), overwrite=True)
    assert again.n_trials == {"complete": 1}


def test_whole_texts_are_judged_on_the_device_too(make_search: MakeSearch, tmp_path: Path) -> None:
    text = {"prompt": None, "completion": None, "text_template": "{text} {label}"}
    search = make_search(
        tmp_path / "a",
        recipe={"task": "generation", "data": text},
        evaluate_on="bundle",
        target="cpu-fast",
        search_strategy={"num_trials": 1},
    )
    report = run(search)
    assert 0 < report.scores["loss"] < 12  # about that of guessing, on a random base
    (compared,) = report.comparison
    assert (compared.metric, compared.n_rows) == ("loss", report.rows["test"])
