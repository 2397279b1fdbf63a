"""What a builder is handed is read or refused with a clean error too: models, rows, recipes."""

import json
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

import pyarrow
import pyarrow.parquet
import pytest
import yaml

from edgekit.adapters.peft_dir import read_peft_adapter
from edgekit.bases import resolve_base
from edgekit.building.prebuilt import resolve_prebuilt
from edgekit.recipes import BundleRecipe, TrainRecipe, load_recipe
from edgekit.targets import load_target, targets_dir
from edgekit.training.tables import read_table
from edgekit.tuning.loading import load_search
from tests.building.test_prebuilt import export
from tests.fuzzing.children import RAW, child_process
from tests.fuzzing.mutations import break_bytes, break_json, broken_json_bytes
from tests.fuzzing.test_parsers import FEW, MANY, Break, Read, survive
from tests.test_bases import write_tiny_gguf

# PyYAML takes its time until it gives up on a hundred thousand brackets.
LONGEST_S: Final = 5.0
NAMES: Final = (
    *("adapter_config", "edgekit_record", "safetensors", "genai_config", "onnx_graph"),
    *("train_recipe", "bundle_recipe", "profile", "search", "csv", "jsonl", "json", "parquet"),
)
TRAIN: Final[dict[str, Any]] = {
    "base": "smollm2-135m",
    "task": "classification",
    "data": {"train": ["a.csv", "b.csv"], "prompt": "{text}", "completion": "{label}"},
    "lora": {"r": 8, "target_modules": ["q_proj"], "rank_pattern": {"q_proj": 4}},
    "training": {"max_steps": 10, "learning_rate": 1e-4, "lr_scheduler_kwargs": {"a": 1}},
    "output": "out",
}
BUNDLE: Final[dict[str, Any]] = {
    "name": "b",
    "base": "smollm2-135m",
    "targets": ["cpu", "cuda"],
    "adapters": {"a": {"path": {"cpu": "x", "default": "y"}, "defaults": {"temperature": 0}}},
    "quantization": "tier=fast,eight_bit=a+b",
    "output": "out",
}
SEARCH: Final[dict[str, Any]] = {
    "recipe": "train.yaml",
    "objective": {"metric": "accuracy", "direction": "maximize"},
    "search_strategy": {"type": "random", "num_trials": 3},
    "search_space": {
        "training.learning_rate": {"type": "float", "low": 1e-5, "high": 1e-3, "log": True},
        "lora.r": {"type": "categorical", "values": [4, 8]},
    },
    "output": "out",
}


def broken_yaml(value: Any, random: Random) -> bytes:
    """A YAML document, broken in its values or in its text."""
    if random.randrange(2):
        return json.dumps(break_json(value, random), ensure_ascii=False).encode(
            errors="surrogatepass"
        )
    return break_bytes(yaml.safe_dump(value).encode(), random)


def in_file(read: Callable[[Path], object], path: Path) -> Read:
    """A reader of bytes out of a reader of one file, the others beside it being whole."""

    def reading(data: bytes) -> object:
        path.write_bytes(data)
        return read(path)

    return reading


def parsers(name: str, base: Path, adapter: Path, folder: Path) -> tuple[Read, Break]:
    """A reader of foreign bytes in the builder, and what breaks its input."""
    if name in {"adapter_config", "edgekit_record", "safetensors"}:
        copy = Path(shutil.copytree(adapter, folder / "adapter"))
        tiny = resolve_base(str(base))
        file = {
            "adapter_config": "adapter_config.json",
            "edgekit_record": "edgekit.json",
            "safetensors": "adapter_model.safetensors",
        }[name]
        read = in_file(lambda _: read_peft_adapter(copy, tiny, name="a", max_rank=64), copy / file)
        whole = (adapter / file).read_bytes()
        if file.endswith(".json"):
            return read, partial(broken_json_bytes, json.loads(whole))
        return read, partial(break_bytes, whole)
    if name in {"genai_config", "onnx_graph"}:
        export(base, folder / "model", "cpu", {})
        file = "genai_config.json" if name == "genai_config" else "model.onnx"
        whole = (folder / "model" / file).read_bytes()
        read = in_file(lambda path: resolve_prebuilt(path.parent), folder / "model" / file)
        if name == "genai_config":
            return read, partial(broken_json_bytes, json.loads(whole))
        return read, partial(break_bytes, whole)
    (folder / "train.yaml").write_text(yaml.safe_dump(TRAIN))
    documents: dict[str, tuple[Callable[[Path], object], Any]] = {
        "train_recipe": (lambda path: load_recipe(path, TrainRecipe), TRAIN),
        "bundle_recipe": (lambda path: load_recipe(path, BundleRecipe), BUNDLE),
        "profile": (
            lambda path: load_target(str(path)),
            yaml.safe_load((targets_dir() / "cpu.yaml").read_text()),
        ),
        "search": (load_search, SEARCH | {"recipe": str(folder / "train.yaml")}),
    }
    if name in documents:
        load, value = documents[name]
        return in_file(load, folder / f"{name}.yaml"), partial(broken_yaml, value)
    rows = [{"text": f'row {i}, "quoted"', "label": i, "more": [i]} for i in range(9)]
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, folder / "whole.parquet")
    whole = {
        "csv": b'text,label\n"a, b",1\n"c\nd",2\n',
        "jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode(),
        "json": json.dumps(rows).encode(),
        "parquet": (folder / "whole.parquet").read_bytes(),
    }[name]
    read = in_file(lambda path: read_table([str(path)]), folder / f"rows.{name}")
    return read, partial(break_bytes, whole)


@pytest.mark.parametrize("name", NAMES)
def test_broken_input_is_read_or_refused(
    name: str, tiny_base: Path, alpha_adapter: Path, tmp_path: Path
) -> None:
    read, broken = parsers(name, tiny_base, alpha_adapter, tmp_path)
    n_read, n_refused = survive(read, broken, FEW // 3, LONGEST_S)
    assert n_read > 0
    assert n_refused > 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", NAMES)
def test_thousands_of_broken_inputs(
    name: str, tiny_base: Path, alpha_adapter: Path, tmp_path: Path
) -> None:
    read, broken = parsers(name, tiny_base, alpha_adapter, tmp_path)
    assert sum(survive(read, broken, MANY // 5, LONGEST_S)) == MANY // 5


def dequantize(path: Path) -> None:
    """What becomes of a ``.gguf`` file that is given as a base."""
    resolve_base(str(path), cache_dir=path.parent / "cache")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(sys.platform == "win32", reason="limits of memory are POSIX")
def test_a_broken_gguf_does_no_harm_to_this_process(tmp_path: Path, record_property: Any) -> None:
    """The gguf and tokenizers packages read it: in a child, which may die of it."""
    file = tmp_path / "base" / "tiny.gguf"
    file.parent.mkdir()
    whole = write_tiny_gguf(file).read_bytes()
    found = {"read": 0, "refused": 0}
    with child_process(dequantize, longest_s=60) as runner:
        for seed in range(200):
            file.write_bytes(break_bytes(whole, Random(seed)))
            said = runner.do(file)
            shutil.rmtree(file.parent / "cache", ignore_errors=True)
            if said is None:
                continue
            assert not said.startswith(RAW), f"seed {seed}: {said}"
            found["refused" if said else "read"] += 1
        found |= {"died": runner.n_deaths, "hung": runner.n_hangs}
    record_property("outcome", found)
    print(found)  # the table of docs/threat-model.md
    assert sum(found.values()) == 200
    assert found["refused"] > 0
    assert {path.name for path in tmp_path.iterdir()} == {"base"}
