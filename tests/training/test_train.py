"""A whole run on a tiny base: what it writes, what it promises, what it refuses."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import DataError, RecipeError
from edgekit.recipes import TrainRecipe, parse_recipe
from edgekit.training.events import Event, Message, TrainingStep
from edgekit.training.report import TrainingReport
from tests.html_pages import tags_of

PROMPT = "Query: {text}\nIntent:"
LABELS = ("garden", "kitchen", "cellar")


@pytest.fixture(scope="module")
def rows_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    lines = [f"light {i} in the {label},{label}" for i in range(9) for label in LABELS]
    path.write_text("\n".join(["text,label", *lines, lines[0]]) + "\n", encoding="utf-8")
    return path


@dataclass(frozen=True)
class Run:
    """A finished run."""

    output: Path
    report: TrainingReport
    events: list[Event]

    def file(self, name: str) -> Any:
        return json.loads((self.output / name).read_text(encoding="utf-8"))


MakeRecipe = Callable[..., TrainRecipe]


@pytest.fixture(scope="module")
def make_recipe(tiny_base: Path, rows_csv: Path) -> MakeRecipe:
    def make(output: Path, **changes: Any) -> TrainRecipe:
        training = {"max_steps": 10, "per_device_train_batch_size": 4, "bf16": False}
        data = {"train": str(rows_csv), "prompt": PROMPT, "completion": " {label}"}
        values: dict[str, Any] = {
            "base": str(tiny_base),
            "task": "classification",
            "license": "cc-by-4.0",
            "lora": {"r": 4, "lora_alpha": 8},
            "output": str(output),
        }
        values |= changes
        values["training"] = training | changes.get("training", {})
        values["data"] = changes.get("whole_data") or data | changes.get("data", {})
        values.pop("whole_data", None)
        return parse_recipe(values, TrainRecipe)

    return make


def run(recipe: TrainRecipe, **options: Any) -> Run:
    from edgekit.training.train import train

    events: list[Event] = []
    report = train(recipe, on_event=events.append, **options)
    return Run(recipe.output, report, events)


def run_and_die(recipe: TrainRecipe, at_step: int, **options: Any) -> None:
    """Stop a run in the middle of a step, as Ctrl-C does."""
    from edgekit.training.train import train

    def die(event: Event) -> None:
        if isinstance(event, TrainingStep) and event.step == at_step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, on_event=die, **options)


@pytest.fixture(scope="module")
def finished(make_recipe: MakeRecipe, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One finished run; read only."""
    return run(make_recipe(tmp_path_factory.mktemp("finished") / "adapter"))


def adapter_bytes(output: Path) -> tuple[bytes, bytes]:
    return (
        (output / "adapter_model.safetensors").read_bytes(),
        (output / "adapter_config.json").read_bytes(),
    )


def test_peft_loads_the_adapter_unchanged_and_it_is_what_was_scored(
    finished: Run, tiny_base: Path
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from edgekit.training.example_splits import load_examples
    from edgekit.training.tokens import tokenize_examples
    from edgekit.training.trainer import PaddingCollator, completion_logits

    recipe = parse_recipe(finished.file("training_report.json")["recipe"], TrainRecipe)
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny_base), finished.output
    ).eval()
    split = tokenize_examples(
        load_examples(recipe).validation,
        AutoTokenizer.from_pretrained(tiny_base),
        max_length=512,
        end_ids=frozenset([2]),
    )
    with torch.no_grad():
        logits, targets = completion_logits(model, PaddingCollator(2)(split.sequences))
    loss = torch.nn.functional.cross_entropy(logits, targets).item()
    assert loss == pytest.approx(finished.report.metrics["validation"]["loss"], abs=1e-5)


def test_edgekit_json_records_base_recipe_and_scores(finished: Run, tiny_base: Path) -> None:
    from edgekit.bases import fingerprint_of

    record = finished.file("edgekit.json")
    assert record["base"]["fingerprint"] == fingerprint_of(tiny_base)
    assert record["base"]["name"] == str(tiny_base)
    assert record["prompt"] == PROMPT
    assert record["completion"] == " {label}"
    assert record["labels"] == sorted(LABELS)
    assert record["metrics"] == ["accuracy", "f1"]
    assert record["license"] == "cc-by-4.0"
    assert [told["name"] for told in record["data_sets"]] == ["rows.csv"]
    assert record["max_new_tokens"] % 8 == 0
    assert record["examples"][0].startswith("Query: light")
    assert record["validation"]["n_rows"] == finished.report.rows.validation
    assert set(record["validation"]["metrics"]) == {"loss", "perplexity", "accuracy", "f1"}


def test_adapter_config_names_the_base_as_typed(finished: Run, tiny_base: Path) -> None:
    config = finished.file("adapter_config.json")
    assert config["base_model_name_or_path"] == str(tiny_base)
    assert config["target_modules"] == sorted(config["target_modules"])
    assert (config["r"], config["lora_alpha"]) == (4, 8)


def test_the_report_counts_rows_and_follows_the_loss(finished: Run) -> None:
    report = finished.file("training_report.json")
    assert report["rows"] == {
        "total": 28,
        "used": 24,
        "validation": 4,
        "test": 0,
        "truncated": 0,
        "duplicates": 1,
    }
    curve = report["loss_curve"]
    assert [point["step"] for point in curve] == list(range(1, 11))
    assert [p["step"] for p in curve if p["eval_loss"] is not None] == [2, 4, 6, 8, 10]
    assert curve[-1]["train_loss"] < curve[0]["train_loss"]
    assert report["seed"] == 42
    assert report["peak_rss_bytes"] > 0
    assert report["tokens_per_s"] > 0
    assert set(report["versions"]) >= {"edgekit", "torch", "transformers", "peft"}


def test_losses_are_drawn_and_logged_for_tensorboard(finished: Run) -> None:
    assert (finished.output / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert list((finished.output / "runs").glob("events.out.tfevents.*"))


def test_only_the_promised_files_lie_in_the_output(finished: Run) -> None:
    assert {path.name for path in finished.output.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "checkpoints",
        "edgekit.json",
        "loss.png",
        "runs",
        "training_report.html",
        "training_report.json",
    }


def test_the_page_tells_the_report_and_loads_nothing(finished: Run) -> None:
    page = (finished.output / "training_report.html").read_text(encoding="utf-8")
    assert tags_of(page).count("svg") == 2  # losses, memory
    report = finished.report
    for scores in report.metrics.values():
        for name, value in scores.items():
            assert f"<td>{name}</td>" in page
            assert f"{value:.4f}" in page
    assert f"Step {report.best_step} of {report.steps} was kept" in page
    assert f"{report.rows.used} were trained on" in page
    assert report.base_fingerprint in page
    assert "max_steps: 10" in page  # the recipe


def test_events_tell_every_step_with_its_losses(finished: Run) -> None:
    steps = [event for event in finished.events if isinstance(event, TrainingStep)]
    assert {step.step for step in steps} == set(range(1, 11))
    assert steps[-1].max_steps == 10
    assert steps[-1].loss is not None
    assert steps[-1].eval_loss is not None


def test_the_same_seed_gives_the_same_bytes(
    finished: Run, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    assert adapter_bytes(run(make_recipe(tmp_path / "b")).output) == adapter_bytes(finished.output)


def test_a_killed_run_leaves_no_adapter_and_goes_on_to_the_same_bytes(
    finished: Run, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    recipe = make_recipe(tmp_path / "a")
    run_and_die(recipe, at_step=7)
    assert not (recipe.output / "adapter_config.json").exists()
    resumed = run(recipe)
    assert resumed.report.resumed_from_step == 6
    assert [point.step for point in resumed.report.loss_curve] == list(range(1, 11))
    assert adapter_bytes(recipe.output) == adapter_bytes(finished.output)


def test_a_half_written_checkpoint_is_not_resumed_from(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    recipe = make_recipe(tmp_path / "a")
    run_and_die(recipe, at_step=5)
    (recipe.output / "checkpoints" / "checkpoint-4" / "trainer_state.json").unlink()
    assert run(recipe).report.resumed_from_step == 2


def test_an_unfinished_run_of_another_recipe_is_refused_unless_overwritten(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    run_and_die(make_recipe(tmp_path / "a"), at_step=3)
    other = make_recipe(tmp_path / "a", training={"max_steps": 2, "learning_rate": 1e-4})
    with pytest.raises(RecipeError, match="an unfinished run of another recipe, base, or data"):
        run(other)
    assert run(other, overwrite=True).report.resumed_from_step == 0


def test_no_resume_starts_over(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path / "a", training={"max_steps": 4})
    run_and_die(recipe, at_step=3)
    assert run(recipe, resume=False).report.resumed_from_step == 0


def test_a_finished_output_is_refused(finished: Run, make_recipe: MakeRecipe) -> None:
    with pytest.raises(RecipeError, match=r"holds a finished adapter\n.*--overwrite to replace"):
        run(make_recipe(finished.output))


def test_overwriting_keeps_the_old_adapter_until_the_new_one_is_done(
    finished: Run, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    shutil.copytree(finished.output, tmp_path / "a")
    recipe = make_recipe(tmp_path / "a", seed=7, training={"max_steps": 3})
    run_and_die(recipe, at_step=2, overwrite=True)
    assert adapter_bytes(recipe.output) == adapter_bytes(finished.output)
    run(recipe, overwrite=True)
    assert adapter_bytes(recipe.output) != adapter_bytes(finished.output)


def test_somebody_elses_directory_is_left_alone(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    mine = tmp_path / "runs" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("mine", encoding="utf-8")
    for overwrite in (False, True):
        with pytest.raises(RecipeError, match="is not empty, and is not a training run"):
            run(make_recipe(tmp_path), overwrite=overwrite)
    assert mine.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("below", ["", "a/b"])
def test_an_output_that_is_a_file_or_below_one_is_refused(
    make_recipe: MakeRecipe, tmp_path: Path, below: str
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RecipeError, match="is a file"):
        run(make_recipe(tmp_path / "file" / below))


def test_no_training_at_all_is_refused(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    training = {"max_steps": -1, "num_train_epochs": 0}
    with pytest.raises(RecipeError, match="num_train_epochs: expected more than 0, got 0"):
        run(make_recipe(tmp_path / "a", training=training))


def test_a_rank_that_the_target_does_not_take_is_refused(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match="rank 300 is over what target 'cpu' takes, 256"):
        run(make_recipe(tmp_path / "a", method="qlora", weights="target:cpu", lora={"r": 300}))


def test_the_best_checkpoint_is_kept(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    spoilt = {"learning_rate": 0.5, "lr_scheduler_type": "linear", "warmup_steps": 30}
    result = run(make_recipe(tmp_path / "a", training=spoilt))
    by_step = {p.step: p.eval_loss for p in result.report.loss_curve if p.eval_loss is not None}
    best = min(by_step, key=by_step.__getitem__)
    assert best < 10
    assert result.report.best_step == best
    assert result.report.metrics["validation"]["loss"] == pytest.approx(by_step[best], rel=1e-6)


def test_rows_too_long_are_left_out_told_and_counted(
    make_recipe: MakeRecipe, rows_csv: Path, tmp_path: Path
) -> None:
    source = tmp_path / "rows.csv"
    long_row = f"{'light ' * 80},kitchen\n"
    source.write_text(rows_csv.read_text(encoding="utf-8") + long_row, encoding="utf-8")
    data = {"train": str(source), "validation": str(rows_csv), "max_length": 64}
    result = run(make_recipe(tmp_path / "a", data=data, training={"max_steps": 1}))
    warning = "1 of 29 training rows are longer than 64 tokens and left out (data.max_length)"
    assert result.report.rows.truncated == 1
    assert result.report.rows.used == 28
    assert warning in result.report.warnings
    assert Message(text=warning, is_warning=True) in result.events


def test_a_maximum_that_leaves_nothing_is_refused(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"every training row is longer than max_length \(8 tokens"):
        run(make_recipe(tmp_path / "a", data={"max_length": 8}))


def test_a_maximum_beyond_the_base_is_refused(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"data\.max_length is 600, but .* at most 512 tokens"):
        run(make_recipe(tmp_path / "a", data={"max_length": 600}))


def test_wrong_training_keys_are_listed_together(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    wrong = {
        "max_stps": 3,
        "warmup_ratio": 0.1,
        "output_dir": "x",
        "learning_rate": "fast",
        "bf16": 1,
    }
    with pytest.raises(RecipeError) as caught:
        run(make_recipe(tmp_path / "a", training=wrong))
    assert set(caught.value.problems) == {
        "training.max_stps: unknown key; did you mean 'max_steps' or 'save_steps'?",
        "training.warmup_ratio: unknown key; use warmup_steps (a value below 1 is a share)",
        "training.output_dir: set `output` at the top of the recipe",
        "training.learning_rate: expected a number, got 'fast'",
        "training.bf16: expected true or false, got 1",
    }


def test_a_value_that_transformers_refuses_is_a_recipe_error(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=r"training cannot be used: .*cosinus"):
        run(make_recipe(tmp_path / "a", training={"lr_scheduler_type": "cosinus"}))


def test_a_run_that_diverges_stops_and_says_what_to_do(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    wild = {"learning_rate": 1e30, "max_grad_norm": 0, "warmup_steps": 0, "optim": "sgd"}
    with pytest.raises(RecipeError, match=r"training diverged: .*\nLower training\.learning_rate"):
        run(make_recipe(tmp_path / "a", training=wild))


def test_unknown_metrics_are_refused_before_training(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match="'acuracy': did you mean 'accuracy'"):
        run(make_recipe(tmp_path / "a", metrics=["acuracy"]))


def test_modules_that_the_base_lacks_are_refused_and_block_nothing(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    lora = {"target_modules": ["query_key_value"]}
    with pytest.raises(RecipeError, match=r"lora cannot be used with .*query_key_value"):
        run(make_recipe(tmp_path / "a", lora=lora))
    run(make_recipe(tmp_path / "a", training={"max_steps": 1}))


def test_libraries_print_nothing(
    make_recipe: MakeRecipe, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run(make_recipe(tmp_path / "a", training={"max_steps": 1}))
    assert capfd.readouterr() == ("", "")


def test_training_works_without_validation(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    result = run(make_recipe(tmp_path / "a", data={"validation": 0}, training={"max_steps": 2}))
    assert result.report.metrics == {}
    assert result.report.best_step == 2
    assert result.file("edgekit.json")["examples"]


def test_packed_rows_of_a_users_function_are_trained_on(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    function = tmp_path / "twice.py"
    function.write_text("def twice(rows):\n    return rows * 2\n")
    data = {"packing": True, "augment": f"{function}:twice", "validation": 0.25}
    training = {"max_steps": -1, "num_train_epochs": 1}
    result = run(make_recipe(tmp_path / "a", data=data, training=training))
    plain = run(make_recipe(tmp_path / "b", data={"validation": 0.25}, training=training))
    assert result.report.rows.used == 2 * plain.report.rows.used
    assert result.report.steps < plain.report.steps
    assert math.isfinite(result.report.metrics["validation"]["loss"])


def test_a_test_split_is_scored_too(
    make_recipe: MakeRecipe, rows_csv: Path, tmp_path: Path
) -> None:
    data = {"test": str(rows_csv)}
    result = run(make_recipe(tmp_path / "a", data=data, training={"max_steps": 1}))
    assert result.report.n_generated["test"] == 28
    assert "accuracy" in result.report.metrics["test"]


def test_long_splits_are_capped_for_generation_and_it_is_told(
    make_recipe: MakeRecipe,
    rows_csv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edgekit.training.scoring.MAX_GENERATED", 2)
    result = run(make_recipe(tmp_path / "a", training={"max_steps": 1}))
    assert result.report.n_generated == {"validation": 2}
    assert "validation: metrics are of the first 2 of 4 rows" in result.report.warnings


def test_conversations_are_trained_on(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    source = tmp_path / "rows.jsonl"
    source.write_text(f"{json.dumps({'messages': turns})}\n" * 8, encoding="utf-8")
    data = {"train": str(source), "messages": "messages", "system": "Be kind."}
    recipe = make_recipe(tmp_path / "a", task="chat", whole_data=data, training={"max_steps": 2})
    record = run(recipe).file("edgekit.json")
    assert (record["messages"], record["system"]) == ("messages", "Be kind.")
    assert record["examples"][0].startswith("<|im_start|>system\nBe kind.")


def test_whole_texts_are_trained_on(
    make_recipe: MakeRecipe, rows_csv: Path, tmp_path: Path
) -> None:
    data = {"train": str(rows_csv), "text_template": "{text}: {label}"}
    recipe = make_recipe(
        tmp_path / "a", task="generation", whole_data=data, training={"max_steps": 2}
    )
    result = run(recipe)
    assert set(result.report.metrics["validation"]) == {"loss", "perplexity"}
    assert result.report.n_generated == {}


def test_qlora_trains_on_the_weights_that_the_device_has(
    make_recipe: MakeRecipe, tiny_base: Path, rows_csv: Path, tmp_path: Path
) -> None:
    """Its loss is the bundle's, up to int8 activations; on the float base it is another."""
    from edgekit import evaluate
    from edgekit.building.build import build
    from edgekit.bundling.adapters import AdapterSource

    changes = {"data": {"validation": str(rows_csv)}, "training": {"max_steps": 4}}
    recipe = make_recipe(tmp_path / "a", method="qlora", weights="target:cpu", **changes)
    result = run(recipe)
    assert result.file("edgekit.json")["weights"] == "target:cpu"
    build(
        name="one",
        base=str(tiny_base),
        output=tmp_path / "bundle",
        targets=("cpu",),
        adapters={"a": AdapterSource(path=recipe.output)},
        parity=False,
    )
    in_torch = {"base": str(tiny_base), "adapter": str(recipe.output)}
    reports = {
        "device": evaluate(data=str(rows_csv), bundle=tmp_path / "bundle", adapter="a"),
        "torch": evaluate(data=str(rows_csv), **in_torch),
        "float": evaluate(data=str(rows_csv), weights="float", **in_torch),
    }
    assert reports["torch"].subject == f"torch {tiny_base}, weights of target:cpu"
    trained = math.log(result.report.metrics["validation"]["perplexity"])
    gap = {name: abs(math.log(r.metrics["perplexity"]) - trained) for name, r in reports.items()}
    assert gap["torch"] < 1e-4
    assert gap["device"] < 0.02  # int8 activations of a tiny random model
    assert gap["float"] > 5 * gap["device"]


def test_qlora_on_an_unknown_target_is_refused_before_any_work(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match="no target 'cpo'"):
        run(make_recipe(tmp_path / "a", method="qlora", weights="target:cpo"))
    assert not (tmp_path / "a").exists()


def test_gradient_accumulation_is_the_same_as_a_larger_batch(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    lora = {"r": 4, "lora_dropout": 0.0}
    one = {"max_steps": 3, "per_device_train_batch_size": 8}
    two = {"max_steps": 3, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    whole = run(make_recipe(tmp_path / "a", lora=lora, training=one)).report.loss_curve
    parts = run(make_recipe(tmp_path / "b", lora=lora, training=two)).report.loss_curve
    for left, right in zip(whole, parts, strict=True):
        assert left.train_loss == pytest.approx(right.train_loss, rel=1e-4)


@pytest.mark.parametrize("json_flag", [True, False])
def test_the_command_trains_and_reports(
    tiny_base: Path,
    rows_csv: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    json_flag: bool,
) -> None:
    from edgekit.cli import main

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"base: {tiny_base}\ndata: {{train: {rows_csv}, prompt: '{{text}}:', "
        f"completion: ' {{label}}'}}\noutput: {tmp_path / 'a'}\n",
        encoding="utf-8",
    )
    argv = ["train", str(recipe), "--set", "training.max_steps=2"]
    assert main([*argv, *["--json"] * json_flag]) == 0
    out, err = capsys.readouterr()
    if json_flag:
        assert json.loads(out)["steps"] == 2
    else:
        assert "kept" in out
        assert "edgekit build --base" in out
    assert "step 2/2  loss" in err


def test_the_command_says_what_is_wrong_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgekit.cli import main

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("bse: x\n", encoding="utf-8")
    assert main(["train", str(recipe)]) == 1
    err = capsys.readouterr().err
    assert "bse: unknown key; did you mean 'base'" in err
    assert "Traceback" not in err


def test_the_report_has_what_the_run_took(finished: Run) -> None:
    usage = finished.file("training_report.json")["usage"]
    assert usage["steps_per_s"] > 0
    assert 0 < usage["cpu_cores"] <= usage["cpu_count"] + 0.5
    assert usage["peak_rss_bytes"] > 50 * 1024**2


def test_a_run_that_learns_nothing_is_told_and_recorded(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    result = run(make_recipe(tmp_path / "a", training={"learning_rate": 1e-9}))
    (verdict,) = result.file("training_report.json")["verdicts"]
    assert verdict["kind"] == "nothing_learnt"
    told = [e.text for e in result.events if isinstance(e, Message) and e.is_warning]
    assert any(text.startswith("nothing learnt: the training loss was") for text in told)
    page = (result.output / "training_report.html").read_text(encoding="utf-8")
    assert "<b>nothing learnt</b>: the training loss was" in page
