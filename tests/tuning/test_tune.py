"""Whole searches on a tiny base: what they keep, what they compare, how they go on."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import EdgekitError, RecipeError
from edgekit.tuning.events import TrialBegun, TrialEnded, TuneEvent
from edgekit.tuning.loading import Search
from edgekit.tuning.report import SearchReport, verdict
from tests.tuning.conftest import MakeSearch


@dataclass(frozen=True)
class Tuned:
    """A finished search."""

    search: Search
    report: SearchReport
    events: list[TuneEvent]

    def file(self, name: str) -> Any:
        return json.loads((self.search.output / name).read_text(encoding="utf-8"))


def run(search: Search, **options: Any) -> Tuned:
    from edgekit.tuning.tune import tune

    events: list[TuneEvent] = []
    report = tune(search, on_event=events.append, **options)
    return Tuned(search, report, events)


@pytest.fixture(scope="module")
def finished(make_search: MakeSearch, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """One finished search of three trials; read only."""
    return run(make_search(tmp_path_factory.mktemp("search") / "finished"))


def values_tried(report: SearchReport) -> list[Any]:
    return [dict(trial.values) for trial in report.trials]


def test_the_best_trial_is_kept_as_a_run_that_build_takes(
    finished: Tuned, tiny_base: Path, tmp_path: Path
) -> None:
    from edgekit.building.build import build
    from edgekit.bundling.adapters import AdapterSource

    report = finished.report
    losses = {trial.run: trial.scores["loss"] for trial in report.trials}
    assert len(losses) == 3
    assert report.best_run == min(losses, key=lambda run: losses[run])
    kept = finished.file("best/training_report.json")
    assert kept["output"] == report.best.as_posix()
    assert kept["metrics"]["validation"]["loss"] == pytest.approx(losses[report.best_run])
    assert kept["recipe"]["lora"]["r"] == report.values["lora_r"]
    built = build(
        name="one",
        base=str(tiny_base),
        output=tmp_path / "bundle",
        adapters={"best": AdapterSource(path=report.best)},
        parity=False,
    )
    assert "best" in built.manifest.adapters


def test_rows_of_the_test_share_are_in_no_trial(finished: Tuned) -> None:
    rows = finished.search.output / "rows"
    test = (rows / "test.jsonl").read_text(encoding="utf-8").splitlines()
    others = [
        line
        for name in ("train-0.jsonl", "validation.jsonl")
        for line in (rows / name).read_text(encoding="utf-8").splitlines()
    ]
    assert len(test) == finished.report.rows["test"] == 5
    assert len(test) + len(others) == 30
    assert not set(test) & set(others)
    used = finished.file("best/training_report.json")["recipe"]["data"]
    assert used["test"] is None
    assert used["train"] == [str(rows / "train-0.jsonl")]


def test_winner_and_defaults_are_compared_in_pairs_on_the_test_rows(finished: Tuned) -> None:
    (one,) = finished.report.comparison
    assert (one.metric, one.n_rows) == ("loss", 5)
    assert one.difference == pytest.approx(one.winner - one.defaults)
    assert one.low <= one.difference <= one.high
    assert one.is_better == (one.high < 0)


def test_the_report_is_told_three_times(finished: Tuned) -> None:
    written = finished.file("search_report.json")
    assert written == json.loads(json.dumps(finished.report.to_dict()))
    text = (finished.search.output / "search_report.md").read_text(encoding="utf-8")
    assert "own values" in text
    for picture in ("history.png", "parameters.png"):
        assert f"({picture})" in text
        assert (finished.search.output / picture).read_bytes().startswith(b"\x89PNG")
    ended = [event for event in finished.events if isinstance(event, TrialEnded)]
    assert [event.run for event in ended] == [None, 0, 1, 2]


def test_the_verdict_follows_the_interval(finished: Tuned) -> None:
    (one,) = finished.report.comparison
    words = {(-0.3, -0.1): "beats", (-0.1, 0.1): "is not proven better", (0.1, 0.3): "is worse"}
    for (low, high), said in words.items():
        moved = replace(one, low=low, high=high, is_better=high < 0)
        assert f"The winner {said}" in verdict(replace(finished.report, comparison=[moved]))


def test_losers_keep_their_report_and_not_their_weights(finished: Tuned) -> None:
    directories = sorted((finished.search.output / "runs").iterdir())
    assert [path.name for path in directories] == ["0000", "0001", "0002", "defaults"]
    whole = {p.name for p in directories if (p / "adapter_model.safetensors").exists()}
    assert whole == {f"{finished.report.best_run:04d}", "defaults"}
    for name in ("training_report.json", "training_report.html", "loss.png"):
        assert all((path / name).exists() for path in directories)


def test_the_recipe_of_the_winner_can_be_trained(finished: Tuned, rows_csv: Path) -> None:
    from edgekit.recipes import TrainRecipe, load_recipe

    recipe = load_recipe(finished.search.output / "best.yaml", TrainRecipe)
    assert recipe.training["learning_rate"] == finished.report.values["learning_rate"]
    assert recipe.data.train == (str(rows_csv),)


def test_a_finished_search_is_read_again_and_trains_nothing(finished: Tuned) -> None:
    again = run(finished.search)
    assert again.report == finished.report
    assert not [event for event in again.events if isinstance(event, TrialBegun)]


def test_more_trials_go_on_where_it_ended(make_search: MakeSearch, tmp_path: Path) -> None:
    run(make_search(tmp_path / "a", search_strategy={"num_trials": 1}))
    more = run(make_search(tmp_path / "a", search_strategy={"num_trials": 2}))
    assert [event.run for event in more.events if isinstance(event, TrialBegun)] == [1]
    assert len(more.report.trials) == 2


def test_a_changed_search_is_refused_and_what_changed_is_named(
    make_search: MakeSearch, finished: Tuned
) -> None:
    output = finished.search.output
    space = {
        "learning_rate": {"type": "float", "low": 1e-5, "high": 1e-3, "log": True},
        "lora_r": {"type": "choice", "values": [2, 4]},
    }
    changed = make_search(output, search_space=space, recipe={"training": {"max_steps": 4}})
    with pytest.raises(RecipeError) as caught:
        run(changed)
    assert caught.value.problems == (
        "search_space.learning_rate.high: was 0.01, is 0.001",
        "recipe.training.max_steps: was 3, is 4",
    )
    assert "--overwrite" in caught.value.hint


def test_changed_rows_are_refused(make_search: MakeSearch, tmp_path: Path, rows_csv: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_bytes(rows_csv.read_bytes())
    recipe = {"data": {"train": str(rows)}}
    search = make_search(tmp_path / "a", recipe=recipe, search_strategy={"num_trials": 1})
    run(search)
    rows.write_text(rows.read_text(encoding="utf-8").replace("light 1 ", "lamp 1 "))
    with pytest.raises(RecipeError, match=r"rows: was 'sha256:\w+', is 'sha256:"):
        run(search)
    assert run(search, overwrite=True).report.n_trials == {"complete": 1}


def test_a_changed_metric_of_ones_own_is_refused(make_search: MakeSearch, tmp_path: Path) -> None:
    code = tmp_path / "own.py"
    code.write_text("def length(predictions, references):\n    return float(len(predictions))\n")
    objective = [{"metric": f"{code}:length"}]
    search = make_search(tmp_path / "a", objective=objective, search_strategy={"num_trials": 1})
    run(search)
    code.write_text("def length(predictions, references):\n    return 2.0\n")
    with pytest.raises(RecipeError, match=r"code in .*own\.py: was 'sha256:\w+', is 'sha256:"):
        run(search)


def test_somebody_elses_directory_is_left_alone(make_search: MakeSearch, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.txt").write_text("mine")
    with pytest.raises(RecipeError, match="is not a search"):
        run(make_search(tmp_path / "a"))
    with pytest.raises(RecipeError, match="is not a search"):
        run(make_search(tmp_path / "a"), overwrite=True)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["thesis.txt"]


def test_a_storage_that_cannot_be_used_leaves_nothing(
    make_search: MakeSearch, tmp_path: Path
) -> None:
    search = make_search(tmp_path / "a", storage="nosuchdatabase://host/x")
    with pytest.raises(RecipeError, match="storage: Optuna cannot use it"):
        run(search)
    assert not (tmp_path / "a").exists()


def test_rows_of_one_label_are_refused(make_search: MakeSearch, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\n" + "".join(f"row {i},same\n" for i in range(20)))
    with pytest.raises(EdgekitError, match="every row has the label 'same'"):
        run(make_search(tmp_path / "a", recipe={"data": {"train": str(rows)}}))
    assert not (tmp_path / "a").exists()
