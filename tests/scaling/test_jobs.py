"""Several recipes in one command: one that fails or is killed takes no other with it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgekit.errors import EdgekitError, RecipeError
from edgekit.scaling.jobs import (
    Job,
    JobEnded,
    JobEvent,
    JobLost,
    JobOptions,
    Outcome,
    load_jobs,
    run_job,
)
from edgekit.scaling.local import train_here
from edgekit.scaling.ray_cluster import RayOptions
from edgekit.training.events import Event, TrainingStep
from tests.two_ray_workers import two_ray_workers, write_killing_loss

needs_kill = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 on this system")
Told = list[JobEvent]
WriteRecipe = Callable[..., Path]
Engine = Callable[[tuple[Job, ...], Told], tuple[Outcome, ...]]


@pytest.fixture
def write_recipe(tiny_base: Path, tmp_path: Path) -> WriteRecipe:
    """A recipe file whose output is named after it."""

    def write(name: str, **changes: Any) -> Path:
        rows = tmp_path / "rows.csv"
        lines = [f"light {i} in the {'cellar' if i % 3 else 'garden'},{i % 2}" for i in range(24)]
        rows.write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
        values: dict[str, Any] = {
            "base": str(tiny_base),
            "data": {"train": str(rows), "prompt": "{text}:", "completion": " n{label}"},
            "lora": {"r": 4, "lora_dropout": 0.2},
            "training": {"max_steps": 8, "save_steps": 2, "bf16": False},
            "output": str(tmp_path / "adapters" / name),
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values | changes), encoding="utf-8")
        return path

    return write


def on_this_machine(jobs: tuple[Job, ...], told: Told) -> tuple[Outcome, ...]:
    return train_here(jobs, JobOptions(), told.append)


def on_ray(jobs: tuple[Job, ...], told: Told) -> tuple[Outcome, ...]:
    from edgekit.scaling.ray_jobs import train_on_ray

    return train_on_ray(jobs, JobOptions(), RayOptions(), told.append)


@pytest.fixture(params=[on_this_machine, on_ray], ids=["local", "ray"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    if request.param is on_ray:
        with two_ray_workers():
            yield request.param
    else:
        yield request.param


@needs_kill
@pytest.mark.slow
def test_a_killed_job_goes_on_and_a_failed_one_stops_nobody(
    engine: Engine,
    write_recipe: WriteRecipe,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from edgekit.training.train import train

    loss = write_killing_loss(tmp_path)
    killed = write_recipe("killed", loss=loss)
    lacking = write_recipe(
        "lacking", data={"train": "nothing.csv", "prompt": "{a}", "completion": "{b}"}
    )
    jobs = load_jobs([killed, lacking, write_recipe("plain")])
    told: Told = []
    outcomes = engine(jobs, told)
    assert capsys.readouterr().out == ""  # Ray would write there
    assert [outcome.state for outcome in outcomes] == ["trained", "failed", "trained"]
    assert [outcome.attempts for outcome in outcomes] == [2, 1, 1]
    assert "nothing.csv: no such file" in outcomes[1].error
    first = outcomes[0].report or {}
    assert first["resumed_from_step"] == 4
    assert first["steps"] == 8
    assert [one.name for one in told if isinstance(one, JobLost)] == ["killed"]
    ended = [one for one in told if isinstance(one, JobEnded)]
    assert sorted(one.name for one in ended) == ["killed", "lacking", "plain"]
    assert [one.n_done for one in ended] == [1, 2, 3]

    unbroken = load_jobs([write_recipe("unbroken", loss=loss)])[0].recipe
    train(unbroken)
    files = [tmp_path / "adapters" / name for name in ("killed", "unbroken")]
    weights = [(file / "adapter_model.safetensors").read_bytes() for file in files]
    assert weights[0] == weights[1]

    again = engine(jobs[::2], [])
    assert [outcome.state for outcome in again] == ["kept", "kept"]
    assert again[0].report == outcomes[0].report


@needs_kill
@pytest.mark.slow
def test_a_job_that_is_killed_whenever_it_runs_is_given_up(
    engine: Engine, write_recipe: WriteRecipe, tmp_path: Path
) -> None:
    loss = write_killing_loss(tmp_path)
    (tmp_path / "always").touch()
    training = {"max_steps": 20, "save_strategy": "no", "eval_strategy": "no", "bf16": False}
    outcomes = engine(load_jobs([write_recipe("killed", loss=loss, training=training)]), [])
    assert [(outcome.state, outcome.attempts) for outcome in outcomes] == [("failed", 3)]
    assert "3 attempts" in outcomes[0].error


@pytest.mark.slow
def test_the_command_says_how_each_recipe_ended(
    write_recipe: WriteRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgekit.cli import main

    good, bad = write_recipe("good"), write_recipe("bad", base=str(tmp_path / "nowhere"))
    argv = ["train", str(good), str(bad), "--set", "training.max_steps=2"]
    assert main([*argv, "--json"]) == 1
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["engine"] == "local"
    assert found["n_failed"] == 1
    assert [one["state"] for one in found["outcomes"]] == ["trained", "failed"]
    assert found["outcomes"][0]["report"]["steps"] == 2
    assert "good: step 2/2  loss" in err
    assert "Traceback" not in err

    assert main([*argv[:2], *argv[3:], "--engine", "local"]) == 0
    out = capsys.readouterr().out
    assert "kept" in out
    assert "loss" in out


@needs_kill
@pytest.mark.slow
def test_a_command_that_is_killed_takes_its_job_along(write_recipe: WriteRecipe) -> None:
    import psutil

    training = {"max_steps": 100_000, "save_steps": 5, "eval_strategy": "no", "bf16": False}
    recipes = [write_recipe(name, training=training) for name in ("a", "b")]
    argv = [sys.executable, "-m", "edgekit", "train", *map(str, recipes)]
    command = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
    try:
        checkpoints = recipes[0].parent / "adapters" / "a" / "checkpoints"
        deadline = time.monotonic() + 120
        while not [*checkpoints.glob("checkpoint-*/trainer_state.json")]:
            assert command.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        children = psutil.Process(command.pid).children(recursive=True)
    finally:
        command.kill()
        command.wait()
    assert children
    assert not psutil.wait_procs(children, timeout=20)[1]
    assert not (recipes[0].parent / "adapters" / "b").exists()


def test_a_result_is_kept_as_long_as_its_rows_are_the_same(
    write_recipe: WriteRecipe, tmp_path: Path
) -> None:
    training = {"max_steps": 20, "save_strategy": "no", "bf16": False}
    path, test = write_recipe("a", training=training), tmp_path / "test.csv"
    test.write_text("text,label\nlight 3 in the cellar,1\n", encoding="utf-8")
    without = load_jobs([path], ["data.validation=0", f"data.test={test}"])[0]
    told: list[Event] = []
    assert run_job(without, JobOptions(), told.append).state == "trained"
    steps = [event.step for event in told if isinstance(event, TrainingStep)]
    assert steps == [*range(2, 22, 2)]  # every tenth, also where nothing is validated
    again = run_job(without, JobOptions(), told.append)
    assert (again.state, again.error) == ("kept", "")
    # Rows that it is only scored on count, too.
    for file, row in (("rows.csv", "light off"), ("test.csv", "light on")):
        rows = tmp_path / file
        rows.write_text(rows.read_text("utf-8") + f"{row},0\n", encoding="utf-8")
        changed = run_job(without, JobOptions(), told.append)
        assert changed.state == "failed"
        assert "holds a finished adapter" in changed.error
        assert run_job(without, JobOptions(overwrite=True), told.append).state == "trained"


def test_every_recipe_is_read_before_one_is_trained(
    write_recipe: WriteRecipe, tmp_path: Path
) -> None:
    good = write_recipe("good")
    typo = write_recipe("typo", bse="x")
    same = write_recipe("same", output=str(tmp_path / "adapters" / "good"))
    with pytest.raises(RecipeError) as caught:
        load_jobs([good, typo, same, tmp_path / "gone.yaml"])
    text = str(caught.value)
    assert "bse: unknown key; did you mean 'base'" in text
    assert "gone.yaml: no such file" in text
    assert f"adapters/good: of {good} and {same}" in text
    assert not (tmp_path / "adapters").exists()


def test_jobs_of_one_name_are_told_apart_and_one_named_twice_is_one(
    write_recipe: WriteRecipe, tmp_path: Path
) -> None:
    first = write_recipe("a")
    (tmp_path / "b").mkdir()
    second = tmp_path / "b" / "a.yaml"
    second.write_text(first.read_text("utf-8").replace("adapters", "others"), encoding="utf-8")
    jobs = load_jobs([first, second, first])
    assert [job.name for job in jobs] == [str(first), str(second)]


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--task-cpus", "2"], "goes with --engine ray"),
        (["--engine", "local", "--ray-address", "auto"], "goes with --engine ray"),
        (["--engine", "rai"], "'rai'"),
    ],
)
def test_options_that_do_not_go_together_are_a_usage_error(
    argv: list[str], told: str, write_recipe: WriteRecipe, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgekit.cli import main

    assert main(["train", str(write_recipe("a")), *argv]) == 2
    assert told in capsys.readouterr().err


def test_several_recipes_are_not_for_processes_that_share_one(
    write_recipe: WriteRecipe,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from edgekit.cli import main

    for name, value in (("WORLD_SIZE", "2"), ("LOCAL_RANK", "0"), ("RANK", "0")):
        monkeypatch.setenv(name, value)
    assert main(["train", str(write_recipe("a")), str(write_recipe("b"))]) == 1
    assert "several recipes, or --engine, in 2 processes" in capsys.readouterr().err


def test_without_ray_it_says_what_to_install(
    write_recipe: WriteRecipe,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import importlib.util

    from edgekit.cli import main

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "ray" else find(name)
    )
    assert main(["train", str(write_recipe("a")), "--engine", "ray"]) == 1
    assert "pip install 'edgekit[ray]'" in capsys.readouterr().err


@needs_kill
@pytest.mark.slow
def test_a_ray_that_ends_is_told(write_recipe: WriteRecipe) -> None:
    import psutil

    from edgekit.scaling.ray_jobs import train_on_ray

    def kill(event: JobEvent) -> None:
        for process in psutil.Process().children(recursive=True):
            if process.name().startswith("ray::Board"):
                process.kill()

    jobs = load_jobs([write_recipe("a")])
    with two_ray_workers(), pytest.raises(EdgekitError, match="Ray ended on this machine"):
        train_on_ray(jobs, JobOptions(), RayOptions(), kill)


@pytest.mark.slow
def test_a_task_that_no_machine_has_room_for_is_refused() -> None:
    from edgekit.scaling.ray_cluster import cluster

    with (
        two_ray_workers(),
        pytest.raises(RecipeError, match="room for a task of 64 CPUs and 0 GPUs") as caught,
        cluster(RayOptions(cpus=64)),
    ):
        pass
    assert "a machine has 2 CPUs and 0 GPUs" in str(caught.value)


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("127.0.0.1:1", "cannot be reached at '127.0.0.1:1'"),
        ("ray://127.0.0.1:10001", "is not what --engine ray works by"),
    ],
)
def test_a_cluster_that_is_not_there_is_told(address: str, told: str) -> None:
    pytest.importorskip("ray")
    from edgekit.scaling.ray_cluster import cluster

    with pytest.raises(RecipeError, match=told), cluster(RayOptions(address=address)):
        pass
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
