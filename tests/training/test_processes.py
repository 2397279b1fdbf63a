"""Several processes train one model: the same steps as one process, one adapter, one message."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgekit.errors import RecipeError
from edgekit.recipes import TrainRecipe, parse_recipe

# Rows of answers of different lengths: a mean of each process's means is not the mean of all.
_ANSWERS = ("on", "switched off for good")
# The first process kills itself in the middle of a step, as a machine that goes away does.
_RUN_UNTIL_KILLED = """
import os, signal, sys
from pathlib import Path
from edgekit.recipes import TrainRecipe, load_recipe
from edgekit.training.events import TrainingStep
from edgekit.training.train import train

def watch(event):
    if isinstance(event, TrainingStep) and event.step == 5:
        os.kill(os.getpid(), signal.SIGKILL)

train(load_recipe(Path(sys.argv[1]), TrainRecipe), on_event=watch)
"""

# accelerate shards on GPUs only. Told that these processes have some, it shards on the CPU: the
# sharding, the gathering and all of edgekit's part in it are then the real ones.
_SHARDED_ON_CPU = """
import sys
import torch
from accelerate import state
from accelerate.utils import DistributedType

torch.distributed.init_process_group("gloo")
state.PartialState._prepare_backend = lambda self, *_, **__: ("gloo", DistributedType.MULTI_GPU)

from edgekit.cli import main

sys.exit(main(sys.argv[1:]))
"""


def values_of(base: Path, folder: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """A recipe of 32 rows to train on, which both numbers of processes cut into the same steps."""
    rows = folder / "rows.csv"
    lines = [f"light {i} {'very ' * (i % 5)}bright,{_ANSWERS[i % 2]}" for i in range(40)]
    rows.write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
    data = {"train": str(rows), "prompt": "{text}:", "completion": " {label}", "validation": 0.2}
    values: dict[str, Any] = {
        "base": str(base),
        "task": "classification",
        "data": data,
        "output": str(output),
    }
    training = {"max_steps": 6, "save_steps": 2, "logging_steps": 1, "bf16": False}
    return values | changes | {"training": training | changes.get("training", {})}


def launch(
    program: list[str], folder: Path, n_processes: int = 2
) -> "subprocess.CompletedProcess[str]":
    """Start processes as a person does."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n_processes}"]
    return subprocess.run(
        [sys.executable, *launcher, *program],
        capture_output=True,
        text=True,
        cwd=folder,
        env=dict(os.environ),
        timeout=300,
    )


def train_in_two(values: dict[str, Any], folder: Path) -> "subprocess.CompletedProcess[str]":
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return launch(["-m", "edgekit", "train", str(path), "--json"], folder)


def weights_of(output: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(output / "adapter_model.safetensors")


def losses_of(report: dict[str, Any]) -> list[float]:
    curve = report["loss_curve"]
    return [point[key] for key in ("train_loss", "eval_loss") for point in curve if point[key]]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{}, {"class_weights": {"on": 3}, "training": {"gradient_accumulation_steps": 2}}],
    ids=["plain", "accumulated and weighted"],
)
def test_two_processes_make_the_steps_of_one(
    changes: dict[str, Any], tiny_base: Path, tmp_path: Path
) -> None:
    import torch

    from edgekit.training.train import train

    n_accumulated = changes.get("training", {}).get("gradient_accumulation_steps", 1)
    given = {key: value for key, value in changes.items() if key != "training"}
    training = changes.get("training", {})
    alone = values_of(
        tiny_base,
        tmp_path,
        tmp_path / "alone",
        **given,
        training=training | {"per_device_train_batch_size": 8 // n_accumulated},
    )
    one = json.loads(json.dumps(train(parse_recipe(alone, TrainRecipe)).to_dict()))
    shared = values_of(
        tiny_base,
        tmp_path,
        tmp_path / "shared",
        **given,
        training=training | {"per_device_train_batch_size": 4 // n_accumulated},
    )
    done = train_in_two(shared, tmp_path)
    assert done.returncode == 0, done.stderr
    two = json.loads(done.stdout)  # one report, of the first process
    assert two["n_processes"] == 2
    assert one["n_processes"] == 1
    assert losses_of(two) == pytest.approx(losses_of(one), rel=1e-5)
    assert two["metrics"]["validation"] == pytest.approx(one["metrics"]["validation"], rel=1e-5)
    assert done.stderr.count("writing the adapter") == 1
    assert len([*(tmp_path / "shared" / "runs").iterdir()]) == 1
    expected = weights_of(tmp_path / "alone")
    for name, weight in weights_of(tmp_path / "shared").items():
        torch.testing.assert_close(weight, expected[name], atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_two_processes_share_the_rows_of_a_stream(tiny_base: Path, tmp_path: Path) -> None:
    from edgekit.training.train import train

    alone = values_of(
        tiny_base, tmp_path, tmp_path / "alone", training={"per_device_train_batch_size": 8}
    )
    # Rows of several lengths, and a second pass: a row that both had would change the loss.
    alone["data"] |= {"streaming": True, "shuffle_buffer": 20, "validation": 8}
    one = json.loads(json.dumps(train(parse_recipe(alone, TrainRecipe)).to_dict()))
    training = alone["training"] | {"per_device_train_batch_size": 4}
    done = train_in_two(alone | {"output": str(tmp_path / "b"), "training": training}, tmp_path)
    assert done.returncode == 0, done.stderr
    two = json.loads(done.stdout)
    assert two["n_processes"] == 2
    assert losses_of(two) == pytest.approx(losses_of(one), rel=1e-5)
    assert two["rows"] == one["rows"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 on this system")
@pytest.mark.slow
def test_two_processes_of_which_one_is_killed_go_on_to_the_same_bytes(
    tiny_base: Path, tmp_path: Path
) -> None:
    dropout = {"lora": {"r": 4, "lora_dropout": 0.2}}
    training = {"per_device_train_batch_size": 4}
    unbroken = values_of(tiny_base, tmp_path, tmp_path / "a", **dropout, training=training)
    assert train_in_two(unbroken, tmp_path).returncode == 0
    killed = unbroken | {"output": str(tmp_path / "b")}
    script = tmp_path / "killed.py"
    script.write_text(_RUN_UNTIL_KILLED, encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(killed), encoding="utf-8")
    assert launch([str(script), str(tmp_path / "recipe.yaml")], tmp_path).returncode != 0
    assert not (tmp_path / "b" / "adapter_config.json").exists()
    with pytest.raises(RecipeError, match="number of processes"):  # one alone would step otherwise
        from edgekit.training.train import train

        train(parse_recipe(killed, TrainRecipe))
    done = train_in_two(killed, tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["resumed_from_step"] == 4
    files = [tmp_path / name / "adapter_model.safetensors" for name in ("a", "b")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("method", "file"), [("lora", "adapter_model"), ("full", "model")])
def test_sharded_weights_end_as_whole_ones(
    method: str, file: str, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from safetensors.torch import load_file

    from edgekit.training.train import train

    training = {"per_device_train_batch_size": 8}
    alone = values_of(tiny_base, tmp_path, tmp_path / "alone", method=method, training=training)
    one = json.loads(json.dumps(train(parse_recipe(alone, TrainRecipe)).to_dict()))
    training = {"per_device_train_batch_size": 4, "fsdp": True}
    shared = values_of(tiny_base, tmp_path, tmp_path / "shared", method=method, training=training)
    recipe, script = tmp_path / "recipe.yaml", tmp_path / "sharded.py"
    recipe.write_text(yaml.safe_dump(shared), encoding="utf-8")
    script.write_text(_SHARDED_ON_CPU, encoding="utf-8")
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "cpu")
    done = launch([str(script), "train", str(recipe), "--json"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert losses_of(json.loads(done.stdout)) == pytest.approx(losses_of(one), rel=1e-4)
    weights, expected = (
        load_file(tmp_path / name / f"{file}.safetensors") for name in ("shared", "alone")
    )
    assert set(weights) == set(expected)
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected[name], atol=1e-4, rtol=1e-3)


def test_what_would_not_be_sharded_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    from edgekit.training.train import train

    values = values_of(tiny_base, tmp_path, tmp_path / "a", training={"fsdp": True})
    packed = values | {"method": "qlora", "weights": "target:cpu"}
    with pytest.raises(RecipeError) as caught:
        train(parse_recipe(packed, TrainRecipe))
    assert "over several GPUs, a process each; this is 1 process on the CPU" in str(caught.value)
    assert "weights target:cpu are packed" in str(caught.value)
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_what_is_wrong_is_told_once_and_nothing_is_written(tiny_base: Path, tmp_path: Path) -> None:
    values = values_of(tiny_base, tmp_path, tmp_path / "a", training={"learning_rat": 1})
    done = train_in_two(values, tmp_path)
    assert done.returncode != 0
    assert done.stderr.count("error: ") == 1
    assert "training.learning_rat: unknown key; did you mean 'learning_rate'" in done.stderr
    assert not (tmp_path / "a").exists()


def test_who_is_who_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.training.arguments import _max_steps
    from edgekit.training.processes import Processes, processes, refuse_several

    monkeypatch.setenv("WORLD_SIZE", "4")  # as some clusters set it for everything
    assert processes() == Processes(rank=0, n=1, n_here=1)
    refuse_several("edgekit tune")
    training = {"per_device_train_batch_size": 4, "num_train_epochs": 2}
    assert _max_steps(training, 32) == 16
    for name, value in (("RANK", "3"), ("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    assert processes() == Processes(rank=3, n=4, n_here=2)
    assert not processes().is_first
    assert _max_steps(training, 32) == 4
    with pytest.raises(RecipeError, match="edgekit tune in 4 processes"):
        refuse_several("edgekit tune")
