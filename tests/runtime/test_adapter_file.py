"""Reading .onnx_adapter files, sound and broken."""

import random
from pathlib import Path

import numpy as np
import pytest

from edgekit_runtime import AdapterError
from edgekit_runtime.adapter_file import AdapterFile
from tests.runtime.bundle_edits import adapter_bytes


@pytest.fixture
def written(tmp_path: Path) -> bytes:
    """Three tensors as ONNX Runtime writes them."""
    tensors = {
        "a.lora_A": np.arange(12, dtype=np.float32).reshape(4, 3),
        "a.lora_B": np.arange(6, dtype=np.float32).reshape(3, 2) / 7,
        "b.half": np.ones((2, 2), dtype=np.float16),
    }
    return adapter_bytes(tensors, tmp_path)


def test_tensors_come_back_as_they_were_written(written: bytes) -> None:
    file = AdapterFile.from_bytes(written, where="x")
    assert set(file.infos) == {"a.lora_A", "a.lora_B", "b.half"}
    assert file.infos["b.half"].dtype == "float16"
    expected = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.testing.assert_array_equal(file.tensor("a.lora_A"), expected)
    assert file.value_problems() == []


def test_nan_and_infinity_are_named(tmp_path: Path) -> None:
    tensors = {
        "x": np.array([[1, np.nan]], dtype=np.float32),
        "y": np.array([[np.inf]], dtype=np.float32),
        "z": np.ones((1, 1), dtype=np.float32),
    }
    file = AdapterFile.from_bytes(adapter_bytes(tensors, tmp_path), where="x")
    assert sorted(file.value_problems()) == [
        "x: holds NaN or infinity",
        "y: holds NaN or infinity",
    ]


@pytest.mark.parametrize("data", [b"", b"\0" * 7, b"\0" * 64, b"\x0c\0\0\0ABCD" + b"\0" * 64])
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(AdapterError, match="expected identifier TORT"):
        AdapterFile.from_bytes(data, where="adapter 'x'")


def test_a_cut_file_is_refused(written: bytes) -> None:
    for size in range(8, len(written) - 64, 7):
        with pytest.raises(AdapterError, match="adapter 'x' is not an ONNX Runtime adapter file"):
            AdapterFile.from_bytes(written[:size], where="adapter 'x'")


def test_random_damage_never_crashes(written: bytes) -> None:
    chance = random.Random(0)
    for _ in range(3000):
        data = bytearray(written)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            file = AdapterFile.from_bytes(bytes(data), where="x")
            for name in file.infos:
                file.tensor(name)
        except AdapterError:
            pass
