"""An adapter knows the quantized weights that it was trained on, and build holds it to them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekit.bases import resolve_base
from edgekit.building.base_shape import BaseShape, shape_of
from edgekit.building.build import build
from edgekit.building.inputs import load_profiles
from edgekit.building.memory import disk_bytes
from edgekit.building.plan import plan_build
from edgekit.bundling.adapters import AdapterSource
from edgekit.bundling.edit import add_adapter
from edgekit.errors import PeftAdapterError, RecipeError
from edgekit.evaluating.evaluate import evaluate
from edgekit.recipes import TrainRecipe, parse_recipe
from edgekit.training.memory import RunSize, estimate
from edgekit.training.report import TrainingReport
from edgekit_runtime import Bundle

Train = Callable[..., TrainingReport]


@pytest.fixture(scope="module")
def rows_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    path.write_text("text,label\n" + "".join(f"light {i},on\n" for i in range(24)), "utf-8")
    return path


@pytest.fixture(scope="module")
def train_it(tiny_base: Path, rows_csv: Path) -> Train:
    def run(output: Path, **changes: Any) -> TrainingReport:
        from edgekit.training.train import train

        values: dict[str, Any] = {
            "base": str(tiny_base),
            "method": "qlora",
            "weights": "target:cpu-fast",
            "data": {"train": str(rows_csv), "prompt": "{text}:", "completion": " {label}"},
            "training": {"max_steps": 4, "bf16": False, "per_device_train_batch_size": 4},
            "output": str(output),
        }
        return train(parse_recipe(values | changes, TrainRecipe))

    return run


@pytest.fixture(scope="module")
def exact(train_it: Train, tmp_path_factory: pytest.TempPathFactory) -> TrainingReport:
    return train_it(tmp_path_factory.mktemp("adapters") / "exact")


def build_it(base: Path, adapter: Path, output: Path, **options: Any) -> Any:
    return build(
        name="one",
        base=str(base),
        output=output,
        adapters={"exact": AdapterSource(path=adapter)},
        parity=False,
        **options,
    )


def test_the_memory_estimate_counts_the_bits_of_the_target(
    exact: TrainingReport, train_it: Train, tiny_base: Path, tmp_path: Path
) -> None:
    profile = load_profiles(("cpu-fast",), None, None)["cpu-fast"]
    shape = shape_of(resolve_base(str(tiny_base)))
    in_bits = exact.memory_estimate
    stored = disk_bytes(replace(shape, max_positions=0), profile)
    assert in_bits["weights_bytes"] == stored < shape.n_weights
    assert in_bits["dequantized_bytes"] > 0
    in_floats = train_it(tmp_path / "a", lora={"r": 4, "init_lora_weights": "pissa"})
    assert in_floats.memory_estimate["weights_bytes"] == 4 * shape.n_weights
    assert in_floats.memory_estimate["dequantized_bytes"] == 0


def test_a_base_of_a_billion_weights_is_estimated_under_three_gigabytes() -> None:
    """The shape of Llama 3.2 1B, batches of 4 rows of 256 tokens, checkpointing."""
    layer = {"q_proj": (2048, 2048), "k_proj": (512, 2048), "v_proj": (512, 2048)}
    layer |= {"o_proj": (2048, 2048), "gate_proj": (8192, 2048), "up_proj": (8192, 2048)}
    layer["down_proj"] = (2048, 8192)
    linears = {
        f"model.layers.{index}.mlp.{name}": size
        for index in range(16)
        for name, size in layer.items()
    }
    shape = BaseShape(
        linears=linears,
        hidden_size=2048, vocab_size=128256, is_tied=True, n_layers=16, n_key_value_heads=8,
        head_size=64, max_positions=131072, tokenizer_bytes=0, float_bytes=0,
    )  # fmt: skip
    profile = load_profiles(("cpu-fast",), None, None)["cpu-fast"]
    packed = disk_bytes(shape, profile)
    size = RunSize(
        shape=shape, method="qlora", n_trainable=11_000_000, tokens=4 * 256, learnt=4 * 32,
        is_half=False, is_checkpointed=True, weight_bytes=4, process_bytes=700_000_000,
        packed_bytes=packed, loading_bytes=packed,
    )  # fmt: skip
    assert shape.n_weights > 1.2e9
    assert estimate(size).total_bytes < 3e9
    assert estimate(replace(size, packed_bytes=0)).total_bytes > 6e9


def test_the_report_has_the_loss_on_both_weights_and_names_the_quantization(
    exact: TrainingReport, tiny_base: Path, rows_csv: Path
) -> None:
    losses = exact.losses["validation"]
    assert list(losses) == ["target:cpu-fast", "float"]
    assert losses["target:cpu-fast"] == exact.metrics["validation"]["loss"] != losses["float"]
    record = json.loads((exact.output / "edgekit.json").read_text(encoding="utf-8"))
    assert record["quantization"] == exact.quantization
    assert record["quantization"]["target"] == "cpu-fast"
    assert record["quantization"]["options"]["algorithm"] == "rtn"
    assert record["quantization"]["fingerprint"].startswith("sha256:")
    scored = evaluate(data=str(rows_csv), base=str(tiny_base), adapter=str(exact.output))
    assert list(scored.losses) == ["target:cpu-fast", "float"]
    assert scored.losses["float"] != scored.losses["target:cpu-fast"]


def test_a_float_adapter_is_scored_on_both_weights(
    train_it: Train, tiny_base: Path, rows_csv: Path, tmp_path: Path
) -> None:
    plain = train_it(tmp_path / "plain", method="lora", weights=None)
    assert (plain.losses, plain.quantization) == ({}, None)
    where = {"data": str(rows_csv), "base": str(tiny_base), "adapter": str(plain.output)}
    scored = evaluate(weights="target:cpu-fast", **where)
    assert list(scored.losses) == ["target:cpu-fast", "float"]
    in_float = evaluate(**where)
    assert in_float.losses == {}
    assert in_float.metrics["perplexity"] == pytest.approx(2.718281828 ** scored.losses["float"])


def test_build_takes_it_for_its_own_quantization_only(
    exact: TrainingReport, tiny_base: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    build_it(tiny_base, exact.output, own, targets=("cpu-fast",))
    card = json.loads((own / "adapters/exact/adapter.json").read_text(encoding="utf-8"))
    assert card["trained_on"] == {"cpu-fast": exact.quantization}
    assert Bundle.open(own).adapter_card("exact").name == "exact"
    other = {"targets": ("cpu-fast",), "quantization": "algorithm=rtn,block_size=16"}
    with pytest.raises(PeftAdapterError) as caught:
        build_it(tiny_base, exact.output, tmp_path / "other", **other)
    (problem,) = caught.value.problems
    assert problem.startswith("adapter 'exact': trained on the weights of target 'cpu-fast' (sha")
    assert problem.endswith("…); block_size was 32 and is 16")
    assert "--allow-other-quantization" in str(caught.value.hint)
    assert not (tmp_path / "other").exists()
    with pytest.raises(PeftAdapterError, match="block_size was 32 and is 16"):
        plan_build(
            name="one",
            base=str(tiny_base),
            output=tmp_path / "other",
            adapters={"exact": AdapterSource(path=exact.output)},
            **other,
        )
    build_it(tiny_base, exact.output, tmp_path / "other", allow_other_quantization=True, **other)


def test_adding_it_to_a_bundle_of_another_quantization_is_refused(
    exact: TrainingReport, tiny_base: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    options = {"targets": ("cpu-fast",), "quantization": "algorithm=rtn,block_size=16"}
    build(name="bare", base=str(tiny_base), output=bundle, parity=False, **options)
    source = AdapterSource(path=exact.output)
    with pytest.raises(PeftAdapterError, match="target 'cpu-fast' has others"):
        add_adapter(bundle, "exact", source, base=str(tiny_base), parity=False)
    assert "exact" not in Bundle.open(bundle).manifest.adapters
    add_adapter(
        bundle,
        "exact",
        source,
        base=str(tiny_base),
        parity=False,
        allow_other_quantization=True,
    )
    assert "exact" in Bundle.open(bundle).manifest.adapters


def test_checkpointing_and_a_start_in_the_base_go_with_it(
    train_it: Train, exact: TrainingReport, tmp_path: Path
) -> None:
    training = {"max_steps": 4, "bf16": False, "per_device_train_batch_size": 4}
    again = train_it(tmp_path / "a", training=training | {"gradient_checkpointing": True})
    assert again.losses["validation"] == pytest.approx(exact.losses["validation"], rel=1e-5)
    pissa = train_it(tmp_path / "b", lora={"r": 4, "init_lora_weights": "pissa"})
    assert pissa.losses == {}  # what it takes out of the base cannot be packed
    assert pissa.quantization == exact.quantization


def test_nf4_without_bitsandbytes_says_how_to_get_it(train_it: Train, tmp_path: Path) -> None:
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        pass
    else:
        pytest.skip("bitsandbytes is installed")
    with pytest.raises(RecipeError, match=r"nf4 needs bitsandbytes .* or newer, and it is not"):
        train_it(tmp_path / "a", weights="nf4")
    assert not (tmp_path / "a").exists()


def test_nf4_trains_where_bitsandbytes_is(train_it: Train, tiny_base: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    report = train_it(tmp_path / "a", weights="nf4")
    assert report.steps == 4
    assert report.quantization is None
    build_it(tiny_base, report.output, tmp_path / "bundle", targets=("cpu-fast",))


def test_nf4_does_not_show_its_weights_to_an_init() -> None:
    values = {
        "base": "b", "method": "qlora", "weights": "nf4", "output": "o",
        "data": {"train": "x.csv", "text_template": "{t}"},
        "lora": {"init_lora_weights": "loftq"},
    }  # fmt: skip
    with pytest.raises(RecipeError, match="loftq reads the base's weights, and nf4 does not"):
        parse_recipe(values, TrainRecipe)
