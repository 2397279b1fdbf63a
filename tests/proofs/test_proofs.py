"""The runner of the long proofs: its rows, its commands, and that it goes on after kill -9."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekit.recipes import TrainRecipe, load_recipe
from edgekit.targets import load_target
from tests.docs.programs import parse_error
from tests.proofs.__main__ import main
from tests.proofs.cells import EXACT_TARGETS, Cell, Setup, all_cells
from tests.proofs.rows import ROOT, slots_of, write_rows
from tests.proofs.steps import shown

INTENTS = ("BookRestaurant", "GetWeather", "PlayMusic", "RateBook")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data sets in the files of their authors, with a few rows."""
    path = tmp_path_factory.mktemp("sources")
    for folder in ("banking77", "snips"):
        (path / folder).mkdir()
    for split in ("train", "test"):
        lines = ["text,category"]
        lines += [f'"{split} {i}, please",{"card_arrival" if i < 10 else "age_limit"}'
                  for i in range(20)]  # fmt: skip
        (path / "banking77" / f"{split}.csv").write_text("\n".join(lines), encoding="utf-8")
    for split in ("train", "validate"):
        for intent in INTENTS:
            rows = [
                {"data": [{"text": f"{split} {i} in "}, {"text": "Rome", "entity": "city"}]}
                for i in range(6)
            ]
            text = json.dumps({intent: rows})
            (path / "snips" / f"{split}_{intent}.json").write_text(text, encoding="utf-8")
    return path


def test_slots_become_json_and_one_that_is_there_twice_a_list() -> None:
    parts = [
        {"text": "Play "},
        {"text": " Caf\u00e9 ", "entity": "track"},
        {"text": "by"},
        {"text": "Ann", "entity": "artist"},
        {"text": "Bob", "entity": "artist"},
    ]
    row = slots_of(parts)
    assert row["text"] == "Play  Caf\u00e9 byAnnBob"
    assert row["json"] == '{"track": "Caf\u00e9", "artist": ["Ann", "Bob"]}'


def test_the_first_test_rows_are_a_sample_of_all(sources: Path, tmp_path: Path) -> None:
    rows = write_rows(sources, tmp_path / "a")["banking77"]
    few = write_rows(sources, tmp_path / "b", n_test=6)["banking77"]
    every, some = (
        [json.loads(line) for line in one.test.read_text(encoding="utf-8").splitlines()]
        for one in (rows, few)
    )
    assert some == every[:6] and len(every) == 20
    assert {row["category"] for row in some} == {"card arrival", "age limit"}
    assert len(rows.train.read_text().splitlines()) == 20


@pytest.fixture(scope="module")
def cells(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Cell]:
    """Every cell, as it would be run."""
    out = tmp_path_factory.mktemp("out")
    rows = write_rows(sources, out / "data")
    setup = Setup(
        out=out, results=out / "cells", rows=rows, base="smollm2-135m", steps=None, trials=20
    )
    return all_cells(setup)


def test_every_command_parses_and_every_recipe_loads(cells: list[Cell]) -> None:
    steps = {step.name: step for cell in cells for step in cell.steps}
    for step in steps.values():
        assert parse_error(shown(step)) is None
        if step.kind == "train":
            given = [word for word in step.arguments if "=" in word]
            recipe = load_recipe(Path(step.arguments[1]), TrainRecipe, given)
            assert recipe.output == step.output
            assert 0 < recipe.training["max_steps"] <= 300
    for path in EXACT_TARGETS.values():
        assert load_target(str(path)).name == path.stem


def test_cells_have_names_of_their_own_and_compare_with_one_before_them(cells: list[Cell]) -> None:
    names = [cell.name for cell in cells]
    assert len(set(names)) == len(names)
    for place, cell in enumerate(cells):
        assert cell.after is None or cell.after in names[:place]
        assert not {step.output for step in cell.steps if step.kind == "train"} & set(cell.drops)
    # The float adapter of a seed is one and the same on both targets.
    trainings = {step.name for cell in cells if cell.part == "exact" for step in cell.steps[:1]}
    assert len(trainings) == 9


def test_what_is_left_is_planned(
    sources: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(sources), str(tmp_path / "out")]
    assert main([*given, "--plan", "--only", "snips-lora-*"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("snips-lora-torch") and lines[0].endswith("train, eval")
    assert lines[1].startswith("snips-lora-bundle") and lines[1].endswith("  build, eval")
    assert lines[2].startswith("left: ")
    with pytest.raises(SystemExit, match="no cell is called no-such"):
        main([*given, "--only", "no-such"])
    with pytest.raises(SystemExit, match="holds cells with"):
        main([*given, "--steps", "2"])


@pytest.mark.slow
def test_a_command_that_fails_is_told_and_keeps_no_other_cell(
    sources: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(sources), str(tmp_path / "out"), "--base", str(tmp_path / "no-base")]
    # TF-IDF needs no base at all.
    assert main([*given, "--only", "banking77-base-torch", "banking77-tfidf"]) == 1
    assert "eval-banking77-base-torch failed (1)" in capsys.readouterr().err
    assert main([*given, "--table"]) == 0
    table = capsys.readouterr().out
    assert "Failed: eval-banking77-base-torch failed (1)" in table
    assert "| tfidf | words | tfidf |" in table
    assert "banking77-base-torch" not in table[table.index("Not yet run") :]


@pytest.fixture
def killed(sources: Path, tiny_base: Path, tmp_path: Path) -> Iterator[list[str]]:
    """The arguments of a run whose runner was killed while it trained; its child lives on."""
    given = [str(sources), str(tmp_path / "out"), "--base", str(tiny_base),
             "--steps", "4", "--rows", "4", "--trials", "4"]  # fmt: skip
    runner = subprocess.Popen(
        [sys.executable, "-m", "tests.proofs", *given, "--only", "tone-lora-torch"], cwd=ROOT
    )
    log = tmp_path / "out" / "logs" / "train-tone-lora.log"
    ends = time.monotonic() + 120
    while not log.is_file() and runner.poll() is None and time.monotonic() < ends:
        time.sleep(0.1)
    os.kill(runner.pid, signal.SIGKILL)
    runner.wait()
    yield given
    shutil.rmtree(tmp_path / "out", ignore_errors=True)


@pytest.mark.slow
def test_a_killed_run_goes_on_and_done_cells_stay(
    killed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(killed[1])
    chosen = ["--only", "tone-lora-torch", "tone-dora-bundle", "search-snips"]
    assert main([*killed, *chosen]) == 0
    assert "waiting for its end" in capsys.readouterr().err
    results = sorted(path.name for path in (out / "cells").iterdir())
    assert results == ["search-snips.json", "tone-dora-bundle.json", "tone-lora-torch.json"]
    assert json.loads((out / "steps" / "train-tone-lora.json").read_text())["n_starts"] == 1
    assert json.loads((out / "steps" / "tune-snips.json").read_text())["n_starts"] == 2
    assert not any((out / "bundles").iterdir())  # made again, if need be
    written = {path: path.stat().st_mtime_ns for path in (out / "steps").iterdir()}
    assert main([*killed, *chosen]) == 0
    assert written == {path: path.stat().st_mtime_ns for path in (out / "steps").iterdir()}
    capsys.readouterr()
    assert main([*killed, "--table"]) == 0
    table = capsys.readouterr().out
    assert "| dora | bundle | generate |" in table and "| lora | torch | generate |" in table
    assert "### Search" in table and "4 complete" in table
    assert "banking77-lora-bundle" in table[table.index("Not yet run") :]
