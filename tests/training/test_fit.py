"""Licence and memory are told before a run; what cannot fit is refused with advice."""

import json
from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import RecipeError
from edgekit.recipes import TrainRecipe, parse_recipe
from edgekit.training.events import Event, Message
from edgekit.training.report import TrainingReport
from tests.tiny_models import make_tiny_model


@pytest.fixture(scope="module")
def rows_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    path.write_text("text,label\n" + "".join(f"light {i},on\n" for i in range(24)), "utf-8")
    return path


def recipe_of(base: Path | str, rows: Path, output: Path, **changes: Any) -> TrainRecipe:
    values: dict[str, Any] = {
        "base": str(base),
        "data": {"train": str(rows), "prompt": "{text}:", "completion": " {label}"},
        "training": {"max_steps": 1, "bf16": False},
        "output": str(output),
    }
    return parse_recipe(values | changes, TrainRecipe)


def run(recipe: TrainRecipe, **options: Any) -> tuple[TrainingReport, list[Message]]:
    from edgekit.training.train import train

    events: list[Event] = []
    report = train(recipe, on_event=events.append, **options)
    return report, [event for event in events if isinstance(event, Message)]


def test_licence_and_its_limits_are_shown_before_training_and_recorded(
    rows_csv: Path, tmp_path: Path
) -> None:
    base = make_tiny_model(tmp_path / "base")
    (base / "README.md").write_text("---\nlicense: gemma\n---\n", encoding="utf-8")
    report, messages = run(recipe_of(base, rows_csv, tmp_path / "a"))
    texts = [message.text for message in messages]
    told = next(message for message in messages if message.text.startswith("licence of the base"))
    assert told.is_warning
    assert "'base': gemma; uses of Google's" in told.text
    assert texts.index(told.text) < texts.index("loading the base") < texts.index("training")
    assert report.base_license["id"] == "gemma"
    record = json.loads((tmp_path / "a" / "edgekit.json").read_text(encoding="utf-8"))
    assert record["base"]["license"] == "gemma"


def test_the_memory_is_told_before_training_and_recorded(
    tiny_base: Path, rows_csv: Path, tmp_path: Path
) -> None:
    report, messages = run(recipe_of(tiny_base, rows_csv, tmp_path / "a"))
    (told,) = [m.text for m in messages if m.text.startswith("memory: about")]
    assert "are there" in told
    assert report.memory_estimate["total_bytes"] > report.memory_estimate["process_bytes"] > 0
    assert report.warnings == ()


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """One with 100 MB, asked by a process that holds nothing yet."""
    from edgekit.training import fit

    monkeypatch.setattr(fit, "_rss_bytes", lambda: 0)
    monkeypatch.setattr(fit, "_available_bytes", lambda *, on_gpu: 100_000_000)


@pytest.mark.usefixtures("small_machine")
def test_a_run_that_is_far_too_large_is_refused_with_advice_unless_forced(
    tiny_base: Path, rows_csv: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "long.csv"
    rows.write_text("text,label\n" + f"{'light ' * 60},on\n" * 100, encoding="utf-8")
    recipe = recipe_of(
        tiny_base,
        rows,
        tmp_path / "a",
        training={"max_steps": 1, "bf16": False, "per_device_train_batch_size": 64},
    )
    with pytest.raises(RecipeError, match=r"does not fit this machine: about .* 100 MB are there"):
        run(recipe)
    assert not (tmp_path / "a").exists()
    with pytest.raises(RecipeError) as caught:
        run(recipe)
    advice = "\n".join(caught.value.problems)
    assert "gradient_checkpointing: true" in advice
    assert "per_device_train_batch_size: 16" in advice
    assert "data.max_length: 256" in advice
    report, _ = run(recipe_of(tiny_base, rows_csv, tmp_path / "a"), force=True)
    assert "it may not fit" in report.warnings[0]


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"training": {"max_steps": 2, "per_device_train_batch_size": 8, "bf16": False}},
        {"method": "full", "training": {"max_steps": 2, "per_device_train_batch_size": 4}},
        {
            "training": {
                "max_steps": 2,
                "per_device_train_batch_size": 8,
                "gradient_checkpointing": True,
            }
        },
    ],
    ids=["lora", "full", "checkpointing"],
)
def test_the_estimate_is_within_a_quarter_of_what_is_measured(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    """In a process of its own: a peak is one of the whole process, from its start."""
    import subprocess
    import sys

    rows = tmp_path / "rows.csv"
    lines = [f"{' '.join(['light', 'kitchen', 'garden'] * 20)} {i},on" for i in range(16)]
    rows.write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
    recipe = recipe_of("smollm2-135m", rows, tmp_path / "a", **changes)
    code = (
        "import json, sys\n"
        "from edgekit.recipes import TrainRecipe, parse_recipe\n"
        "from edgekit.training.train import train\n"
        "report = train(parse_recipe(json.loads(sys.argv[1]), TrainRecipe))\n"
        "print(json.dumps([report.memory_estimate['total_bytes'], report.peak_rss_bytes]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, recipe.model_dump_json()],
        capture_output=True,
        text=True,
        check=True,
    )
    estimated, measured = json.loads(done.stdout.splitlines()[-1])
    assert 0.75 * measured < estimated < 1.25 * measured
