"""Every method on a tiny base: what it trains, what it writes, and that it is exact."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekit.adapters.peft_dir import read_peft_adapter
from edgekit.bases import resolve_base
from edgekit.errors import BuildError, PeftAdapterError, RecipeError
from edgekit.recipes import TrainRecipe, parse_recipe
from edgekit.training.report import TrainingReport

LABELS = ("garden", "kitchen", "cellar")
TEXT = "Query: light 3 in the kitchen\nIntent:"
Train = Callable[..., TrainingReport]


@pytest.fixture(scope="module")
def rows_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    lines = [f"light {i} in the {label},{label}" for i in range(6) for label in LABELS]
    path.write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def train_it(tiny_base: Path, rows_csv: Path) -> Train:
    def train_it(output: Path, **changes: Any) -> TrainingReport:
        from edgekit.training.train import train

        options = changes.pop("options", {})
        values: dict[str, Any] = {
            "base": str(tiny_base),
            "task": "classification",
            "data": {
                "train": str(rows_csv),
                "prompt": "Query: {text}\nIntent:",
                "completion": " {label}",
            },
            "training": {"max_steps": 6, "per_device_train_batch_size": 4, "bf16": False},
            "output": str(output),
        }
        values |= changes
        return train(parse_recipe(values, TrainRecipe), **options)

    return train_it


def logits_of(model: Any, tokenizer: Any) -> Any:
    import torch

    with torch.inference_mode():
        return model(torch.tensor([tokenizer(TEXT)["input_ids"]])).logits[0]


def base_logits(path: Path, adapter: Path | None = None) -> Any:
    """What transformers and PEFT compute with what was written."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter))
    return logits_of(model.eval(), AutoTokenizer.from_pretrained(path))


def assert_same(found: Any, expected: Any) -> None:
    """Equal but for the rounding of float32 sums in another order, of logits up to about 20."""
    assert (found - expected).abs().max() < 1e-4


def merged_by_hand(base: Path, adapter: Path) -> Any:
    """What build makes of an adapter: B A added to the untouched weights."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    read = read_peft_adapter(adapter, resolve_base(str(base)), name="a", max_rank=64)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    with torch.no_grad():
        for module, pair in read.modules.items():
            model.get_submodule(module).weight += torch.from_numpy(pair.b @ pair.a)
    return logits_of(model, AutoTokenizer.from_pretrained(base))


def loss_of(subject: Any, report: TrainingReport) -> float:
    """Validation loss, as `edgekit eval` computes it on torch."""
    from edgekit.training.example_splits import load_examples
    from edgekit.training.tokens import tokenize_examples

    recipe = parse_recipe(dict(report.recipe), TrainRecipe)
    split = tokenize_examples(
        load_examples(recipe).validation,
        subject.tokenizer,
        max_length=512,
        end_ids=subject.end_ids,
    )
    nll, n_tokens = subject.nll(split.sequences)
    return float(nll / n_tokens)


@pytest.mark.parametrize(
    ("init", "r"),
    [("pissa", 8), ("pissa_niter_4", 8), ("olora", 8), ("orthogonal", 4), ("gaussian", 4)],
)
def test_an_initialization_gives_a_lora_of_the_untouched_base(
    init: str, r: int, train_it: Train, tiny_base: Path, tmp_path: Path
) -> None:
    from edgekit.evaluating.subjects import torch_subject

    report = train_it(tmp_path / "a", lora={"r": 4, "lora_alpha": 8, "init_lora_weights": init})
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["r"] == r
    with_peft = base_logits(tiny_base, tmp_path / "a")
    assert_same(merged_by_hand(tiny_base, tmp_path / "a"), with_peft)
    assert (with_peft - base_logits(tiny_base)).abs().max() > 0.05  # it is no zero adapter
    with torch_subject(str(tiny_base), tmp_path / "a") as subject:
        assert loss_of(subject, report) == pytest.approx(
            report.metrics["validation"]["loss"], abs=1e-4
        )


def test_eva_gives_ranks_where_they_explain_most(
    train_it: Train, tiny_base: Path, tmp_path: Path
) -> None:
    report = train_it(tmp_path / "a", lora={"r": 4, "lora_alpha": 8, "init_lora_weights": "eva"})
    read = read_peft_adapter(tmp_path / "a", resolve_base(str(tiny_base)), name="a", max_rank=8)
    ranks = {int(pair.a.shape[0]) for pair in read.modules.values()}
    assert len(ranks) > 1
    assert_same(merged_by_hand(tiny_base, tmp_path / "a"), base_logits(tiny_base, tmp_path / "a"))
    assert report.metrics["validation"]["loss"] > 0


def test_a_pissa_run_that_was_stopped_ends_as_an_unbroken_one(
    train_it: Train, tiny_base: Path, tmp_path: Path
) -> None:
    from edgekit.training.events import TrainingStep

    def die(event: Any) -> None:
        if isinstance(event, TrainingStep) and event.step == 4:
            raise KeyboardInterrupt

    lora = {"r": 4, "lora_alpha": 8, "init_lora_weights": "pissa"}
    train_it(tmp_path / "whole", lora=lora)
    with pytest.raises(KeyboardInterrupt):
        train_it(tmp_path / "parts", lora=lora, options={"on_event": die})
    assert train_it(tmp_path / "parts", lora=lora).resumed_from_step > 0
    name = "adapter_model.safetensors"
    assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_loftq_starts_with_what_rounding_took_from_the_weights(
    train_it: Train, tiny_base: Path, tmp_path: Path
) -> None:
    plain, loftq = (
        train_it(
            tmp_path / str(init),
            method="qlora",
            weights="target:cpu-fast",
            lora={"r": 16, "init_lora_weights": init},
            training={"max_steps": 1, "learning_rate": 1e-9, "bf16": False},
        )
        for init in (True, "loftq")
    )
    float_loss = train_it(
        tmp_path / "float", training={"max_steps": 1, "learning_rate": 1e-9, "bf16": False}
    ).metrics["validation"]["loss"]

    def distance(report: TrainingReport) -> float:
        return abs(report.metrics["validation"]["loss"] - float_loss)

    assert distance(loftq) < distance(plain)
    assert read_peft_adapter(
        tmp_path / "loftq", resolve_base(str(tiny_base)), name="a", max_rank=16
    ).modules


def test_loftq_knows_a_head_that_is_the_embedding(train_it: Train, tmp_path: Path) -> None:
    """The checkpoint of a tied base holds the head's weight under the embedding's name."""
    report = train_it(
        tmp_path / "head",
        method="qlora",
        weights="target:cpu-fast",
        lora={"r": 4, "init_lora_weights": "loftq", "target_modules": ["q_proj", "lm_head"]},
        training={"max_steps": 1, "bf16": False},
    )
    assert report.steps == 1


def test_a_bottleneck_config_that_was_changed_by_hand_is_refused(
    train_it: Train, tiny_base: Path, tmp_path: Path
) -> None:
    from edgekit.evaluating.subjects import torch_subject

    output = train_it(tmp_path / "a", method="bottleneck", training={"max_steps": 1}).output
    config = json.loads((output / "adapter_config.json").read_text(encoding="utf-8"))
    config["reduction_factor"] = "x"
    (output / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    with (
        pytest.raises(PeftAdapterError, match="reduction_factor: expected a number"),
        torch_subject(str(tiny_base), output),
    ):
        pass


def test_rslora_divides_by_the_root_of_the_rank(
    train_it: Train, tiny_base: Path, tmp_path: Path
) -> None:
    lora = {"r": 4, "use_rslora": True, "init_lora_weights": "pissa"}
    train_it(tmp_path / "a", lora=lora)
    assert_same(merged_by_hand(tiny_base, tmp_path / "a"), base_logits(tiny_base, tmp_path / "a"))


def test_a_full_fine_tune_is_a_new_base_that_build_takes(
    train_it: Train, tiny_base: Path, tmp_path: Path
) -> None:
    from edgekit.building.build import build
    from edgekit.evaluating.subjects import torch_subject
    from edgekit_runtime import Bundle

    report = train_it(tmp_path / "new", method="full", license="mit")
    new, old = resolve_base(str(tmp_path / "new")), resolve_base(str(tiny_base))
    assert new.fingerprint != old.fingerprint
    assert (new.license, new.architecture) == ("mit", old.architecture)
    record = json.loads((tmp_path / "new" / "edgekit.json").read_text(encoding="utf-8"))
    assert (record["method"], record["base"]["fingerprint"]) == ("full", old.fingerprint)
    assert json.loads((tmp_path / "new" / "training_report.json").read_text("utf-8"))["recipe"]
    with torch_subject(str(tmp_path / "new"), None) as subject:
        assert loss_of(subject, report) == pytest.approx(
            report.metrics["validation"]["loss"], abs=1e-4
        )
    assert not list((tmp_path / "new" / "checkpoints").glob("checkpoint-*"))
    built = build(
        name="new", base=str(tmp_path / "new"), output=tmp_path / "b", quantization="tier=fast"
    )
    assert built.parity["cpu"][""].exact_mean_kl < 1e-6
    assert Bundle.open(tmp_path / "b").manifest.base.fingerprint == new.fingerprint


def test_a_base_is_not_overwritten_unless_it_was_trained_here(
    train_it: Train, tiny_base: Path
) -> None:
    with pytest.raises(RecipeError, match=r"holds a finished base\n.*Choose another `output`\.$"):
        train_it(tiny_base, method="full", options={"overwrite": True})


def test_an_adapter_in_the_place_of_a_base_leaves_no_weights_of_it(
    train_it: Train, tmp_path: Path
) -> None:
    train_it(tmp_path / "a", method="full")
    with pytest.raises(RecipeError, match="holds a finished base"):
        train_it(tmp_path / "a")
    train_it(tmp_path / "a", options={"overwrite": True})
    assert [path.name for path in (tmp_path / "a").glob("*.safetensors")] == [
        "adapter_model.safetensors"
    ]
    assert not (tmp_path / "a" / "config.json").exists()


@pytest.mark.parametrize(
    "changes",
    [{"method": "dora"}, {"lora": {"r": 4, "modules_to_save": ["lm_head"]}}],
    ids=["dora", "modules_to_save"],
)
def test_what_no_socket_takes_is_refused_and_reaches_a_device_merged(
    changes: dict[str, Any], train_it: Train, tiny_base: Path, tmp_path: Path
) -> None:
    from edgekit.evaluating.subjects import torch_subject
    from edgekit.merging import merge

    report = train_it(tmp_path / "a", **changes)
    with pytest.raises(PeftAdapterError) as caught:
        read_peft_adapter(tmp_path / "a", resolve_base(str(tiny_base)), name="a", max_rank=64)
    (problem,) = caught.value.problems
    assert "edgekit merge, then build --base" in problem
    merged = merge(str(tiny_base), tmp_path / "a", tmp_path / "merged")
    assert merged.mean_kl < 1e-6
    assert merged.n_positions >= 256
    assert_same(base_logits(tmp_path / "merged"), base_logits(tiny_base, tmp_path / "a"))
    for base, adapter in ((tiny_base, tmp_path / "a"), (tmp_path / "merged", None)):
        with torch_subject(str(base), adapter) as subject:
            assert loss_of(subject, report) == pytest.approx(
                report.metrics["validation"]["loss"], abs=1e-4
            )


def test_a_merge_is_compared_with_what_it_was_made_of(
    train_it: Train, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit import merging

    train_it(tmp_path / "a", method="dora")
    write = merging.write_base_files

    def spoil(directory: Path, model: Any, *args: Any, **kwargs: Any) -> None:
        model.model.layers[1].mlp.down_proj.weight.data *= 1.01
        write(directory, model, *args, **kwargs)

    monkeypatch.setattr(merging, "write_base_files", spoil)
    with pytest.raises(BuildError, match="does not compute what"):
        merging.merge(str(tiny_base), tmp_path / "a", tmp_path / "merged")
    assert {path.name for path in tmp_path.iterdir()} == {"a"}


def test_merge_refuses_with_every_problem(train_it: Train, tiny_base: Path, tmp_path: Path) -> None:
    from edgekit.merging import merge

    train_it(tmp_path / "a", method="bottleneck")
    record = json.loads((tmp_path / "a" / "edgekit.json").read_text(encoding="utf-8"))
    record["weights"] = "target:cpu"
    record["base"]["fingerprint"] = "sha256:0"
    (tmp_path / "a" / "edgekit.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(PeftAdapterError) as caught:
        merge(str(tiny_base), tmp_path / "a", tmp_path / "merged")
    text = "\n".join(caught.value.problems)
    assert "sha256:0" in text
    assert "expected LORA, got BOTTLENECK" in text
    assert "trained on the weights of target:cpu" in text
    with pytest.raises(PeftAdapterError, match="there is no directory"):
        merge(str(tiny_base), tmp_path / "none", tmp_path / "merged")
    with pytest.raises(BuildError, match="exists"):
        merge(str(tiny_base), tmp_path / "a", tmp_path / "a")


def test_bottlenecks_train_and_are_scored_and_build_says_why_not(
    train_it: Train, tiny_base: Path, tmp_path: Path
) -> None:
    from edgekit.evaluating.subjects import torch_subject

    report = train_it(tmp_path / "a", method="bottleneck", bottleneck={"reduction_factor": 4})
    # Two layers, two places: down 64 to 16 and up, with biases.
    assert report.n_trainable_parameters == 4 * (64 * 16 + 16 + 16 * 64 + 64)
    losses = [point.train_loss for point in report.loss_curve if point.train_loss]
    assert losses[-1] < losses[0]
    with torch_subject(str(tiny_base), tmp_path / "a") as subject:
        assert loss_of(subject, report) == pytest.approx(
            report.metrics["validation"]["loss"], abs=1e-4
        )
    with torch_subject(str(tiny_base), None) as subject:
        assert abs(loss_of(subject, report) - report.metrics["validation"]["loss"]) > 1e-3
    with pytest.raises(PeftAdapterError, match="not linear: it fits no socket") as caught:
        read_peft_adapter(tmp_path / "a", resolve_base(str(tiny_base)), name="a", max_rank=64)
    assert len(caught.value.problems) == 1
