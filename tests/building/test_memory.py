"""The memory model: its terms in numbers worked out by hand, and against what was built."""

from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.adapters.peft_dir import read_peft_adapter
from edgekit.bases import resolve_base
from edgekit.building.base_shape import BaseShape, shape_of
from edgekit.building.inputs import load_profiles
from edgekit.building.memory import (
    adapter_bytes,
    adapter_layout,
    context_length,
    disk_bytes,
    memory_need,
    show_bytes,
)
from edgekit.targets import Quantization, TargetProfile, load_target
from edgekit_runtime.adapter_file import AdapterFile

# One layer of 128 x 128 and a vocabulary of 512: 4 blocks of 32 a row.
SHAPE = BaseShape(
    linears={"model.layers.0.mlp.up_proj": (128, 128)},
    hidden_size=128,
    vocab_size=512,
    is_tied=True,
    n_layers=1,
    n_key_value_heads=2,
    head_size=32,
    max_positions=1000,
    tokenizer_bytes=100,
    float_bytes=0,
)
CPU = load_target("cpu-fast")
CUDA = load_profiles(("cuda",), "tier=fast", None)["cuda"]
LINEAR, TABLE = 128 * 128, 512 * 128


def quantized(profile: TargetProfile, **changes: object) -> TargetProfile:
    values = profile.quantization.model_dump() | changes
    return profile.model_copy(update={"quantization": Quantization.model_validate(values)})


def test_weights_on_the_disk() -> None:
    rotary = 1000 * 32 * 4
    both = (LINEAR + TABLE) * (4 / 8 + 4 / 32)  # values and one float32 scale a block
    assert disk_bytes(SHAPE, CPU) == both + rotary
    assert disk_bytes(SHAPE, CUDA) == (LINEAR + TABLE) * (4 / 8 + 2 / 32) + rotary / 2
    untied = replace(SHAPE, is_tied=False)
    assert disk_bytes(untied, CPU) == both + TABLE * (4 / 8 + 4 / 32) + rotary
    assert disk_bytes(SHAPE, quantized(CPU, embedding=False)) == both + TABLE * 4 + rotary
    wide_head = quantized(CPU, head_bits=8, block_size=64)
    assert disk_bytes(SHAPE, wide_head) == (
        LINEAR * (4 / 8 + 4 / 64) + TABLE * (8 / 8 + 4 / 64) + rotary
    )


def test_compiled_graphs_hold_the_layers_twice() -> None:
    static = CUDA.model_copy(update={"builder": "static"})
    layers, table = LINEAR * (4 / 8 + 2 / 32), TABLE * (4 / 8 + 4 / 32)
    assert disk_bytes(SHAPE, static) == layers + table
    compiled = static.model_copy(update={"execution_provider": "QNNExecutionProvider"})
    assert disk_bytes(SHAPE, compiled) == 2 * layers + table
    assert disk_bytes(replace(SHAPE, is_tied=False), compiled) == 2 * layers + 2 * table


def test_the_cpu_packs_weights_with_a_scale_and_a_sum_for_each_block() -> None:
    rotary = 1000 * 32 * 4
    embedding = TABLE * (4 / 8 + 4 / 32)
    packed = (LINEAR + TABLE) * (4 / 8 + 8 / 32)
    assert memory_need(SHAPE, CPU).weights_bytes == packed + embedding + rotary
    exact = quantized(CPU, accuracy_level=1)
    packed = (LINEAR + TABLE) * (4 / 8 + 4 / 32)
    assert memory_need(SHAPE, exact).weights_bytes == packed + embedding + rotary
    assert memory_need(SHAPE, CUDA).weights_bytes == disk_bytes(SHAPE, CUDA)


def test_the_cache_is_for_the_shorter_of_both_limits() -> None:
    assert context_length(SHAPE, CPU) == 1000
    assert memory_need(SHAPE, CPU).cache_bytes == 2 * 2 * 32 * 4 * 1000
    short = CUDA.model_copy(update={"context_length": 100})
    assert memory_need(SHAPE, short).cache_bytes == 2 * 2 * 32 * 2 * 100


def test_the_sum_is_of_all_terms() -> None:
    need = memory_need(SHAPE, CPU)
    told = need.to_dict()
    assert told.pop("total_bytes") == need.total_bytes == sum(told.values())
    assert memory_need(SHAPE, CUDA).runtime_bytes == 0  # a GPU's memory holds no interpreter


@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_an_adapter_has_the_size_of_its_file(
    name: str, request: pytest.FixtureRequest, tiny_base: Path, built_tiny_bundle: Path
) -> None:
    base = resolve_base(str(tiny_base))
    path = request.getfixturevalue(f"{name}_adapter")
    adapter = read_peft_adapter(path, base, name=name, max_rank=256)
    shape = shape_of(base)
    written = built_tiny_bundle / "adapters" / name / "float32.onnx_adapter"
    file = AdapterFile.from_bytes(written.read_bytes(), where=name)
    size = sum(file.tensor(tensor).nbytes for tensor in file.infos)
    assert adapter_bytes(adapter.modules, shape, CPU) == size
    assert adapter_bytes(adapter.modules, shape, CUDA) == size // 2
    unpacked = adapter_bytes(adapter.modules, shape, load_target("directml"))
    assert unpacked < size // 2  # no block diagonal with zeros between q, k and v


def test_targets_of_one_layout_share_adapter_files() -> None:
    layouts = {name: adapter_layout(load_target(name)) for name in ("cpu", "openvino")}
    assert layouts["cpu"] == layouts["openvino"]
    assert adapter_layout(CUDA) == adapter_layout(load_target("webgpu")) != layouts["cpu"]
    assert adapter_layout(load_target("directml")) != adapter_layout(CUDA)


def test_the_runtime_keeps_no_more_adapters_loaded_than_its_budget(
    tiny_base: Path, alpha_adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = resolve_base(str(tiny_base))
    modules = read_peft_adapter(alpha_adapter, base, name="a", max_rank=256).modules
    shape = shape_of(base)
    one = memory_need(shape, CPU, [modules]).adapter_bytes
    assert memory_need(shape, CPU, [modules] * 3).adapter_bytes == 3 * one
    monkeypatch.setattr("edgekit.building.memory.DEFAULT_ADAPTER_BUDGET_BYTES", one // 2)
    assert memory_need(shape, CPU, [modules] * 3).adapter_bytes == one


def test_the_weights_that_were_written_are_as_large_as_the_model_says(
    tiny_base: Path, built_tiny_bundle: Path
) -> None:
    shape = shape_of(resolve_base(str(tiny_base)))
    written = (built_tiny_bundle / "weights" / "cpu.data").stat().st_size
    assert disk_bytes(shape, CPU) == pytest.approx(written, rel=0.05)


def test_sizes_in_words() -> None:
    assert show_bytes(3 << 29) == "1.50 GiB"
    assert show_bytes(97_517_568) == "93.0 MiB"
