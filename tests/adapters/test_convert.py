"""PEFT's A and B become packed sockets: the same sum, to the last bit in the file."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from edgekit.adapters.convert import to_sockets, write_onnx_adapter
from edgekit.adapters.peft_dir import LoraPair
from edgekit.errors import PeftAdapterError
from edgekit_runtime.contract import Socket, SocketContract, SocketPart

K = 16
QKV = (("q_proj", 12), ("k_proj", 4), ("v_proj", 4))


def module(name: str, layer: int = 0) -> str:
    return f"model.layers.{layer}.self_attn.{name}"


@pytest.fixture
def contract() -> SocketContract:
    parts, offset = [], 0
    for name, n in QKV:
        parts.append(SocketPart(module=module(name), offset=offset, n=n))
        offset += n
    return SocketContract(
        dtype="float32",
        max_rank=8,
        sockets=(
            Socket(name="model.layers.0.attn.qkv_proj", k=K, n=offset, parts=tuple(parts)),
            Socket(
                name="model.layers.0.attn.o_proj",
                k=12,
                n=K,
                parts=(SocketPart(module=module("o_proj"), offset=0, n=K),),
            ),
        ),
    )


def pair(r: int, into: int, out: int, seed: int) -> LoraPair:
    random = np.random.default_rng(seed)
    return LoraPair(
        random.standard_normal((r, into), np.float32), random.standard_normal((out, r), np.float32)
    )


def test_a_packed_socket_adds_the_sum_of_its_loras(contract: SocketContract) -> None:
    ranks = {"q_proj": 2, "k_proj": 5, "v_proj": 3}
    loras = {module(name): pair(ranks[name], K, n, seed=n) for name, n in QKV}
    packed = to_sockets(loras, contract)
    a = packed["model.layers.0.attn.qkv_proj.lora_A"]
    b = packed["model.layers.0.attn.qkv_proj.lora_B"]
    assert (a.shape, b.shape) == ((K, 10), (10, 20))
    x = np.random.default_rng(9).standard_normal((7, K), np.float32)
    single = [x @ loras[module(name)].a.T @ loras[module(name)].b.T for name, _ in QKV]
    np.testing.assert_allclose(x @ a @ b, np.concatenate(single, axis=1), rtol=1e-5, atol=1e-5)


def test_projections_without_an_adapter_take_no_rank_and_get_nothing(
    contract: SocketContract,
) -> None:
    lora = pair(3, K, 4, seed=1)
    packed = to_sockets({module("v_proj"): lora}, contract)
    assert sorted(packed) == [
        "model.layers.0.attn.qkv_proj.lora_A",
        "model.layers.0.attn.qkv_proj.lora_B",
    ]
    b = packed["model.layers.0.attn.qkv_proj.lora_B"]
    assert b.shape == (3, 20)
    assert not b[:, :16].any()
    np.testing.assert_array_equal(b[:, 16:], lora.b.T)


def test_sockets_that_share_a_fused_linear_take_their_own_rows_of_it() -> None:
    starts = {"q_proj": 0, "k_proj": 12, "v_proj": 16}
    cut = SocketContract(
        dtype="float32",
        max_rank=8,
        sockets=tuple(
            Socket(
                name=name,
                k=K,
                n=n,
                parts=(SocketPart(module=module("qkv_proj"), offset=0, n=n, start=starts[name]),),
            )
            for name, n in QKV
        ),
    )
    lora = pair(3, K, 20, seed=1)
    packed = to_sockets({module("qkv_proj"): lora}, cut)
    x = np.random.default_rng(9).standard_normal((7, K), np.float32)
    parts = [x @ packed[f"{name}.lora_A"] @ packed[f"{name}.lora_B"] for name, _ in QKV]
    np.testing.assert_allclose(
        np.concatenate(parts, axis=1), x @ lora.a.T @ lora.b.T, rtol=1e-5, atol=1e-5
    )


def test_a_module_without_a_socket_is_refused(contract: SocketContract) -> None:
    loras = {module("q_proj"): pair(2, K, 12, 1), module("q_proj", 1): pair(2, K, 12, 1)}
    with pytest.raises(PeftAdapterError) as caught:
        to_sockets(loras, contract)
    assert caught.value.problems == ("model.layers.1.self_attn.q_proj",)
    assert "no socket for some adapted modules" in str(caught.value)


def test_the_file_holds_the_parameters_bit_by_bit(contract: SocketContract, tmp_path: Path) -> None:
    parameters = to_sockets({module("q_proj"): pair(2, K, 12, 1)}, contract)
    path = tmp_path / "float32.onnx_adapter"
    write_onnx_adapter(parameters, contract, path)
    stored = ort.AdapterFormat.read_adapter(str(path)).get_parameters()
    assert sorted(stored) == sorted(parameters)
    for name, value in parameters.items():
        np.testing.assert_array_equal(stored[name].numpy(), value)
    assert list(tmp_path.iterdir()) == [path]


def test_float16_targets_get_float16_tensors(contract: SocketContract) -> None:
    half = SocketContract(dtype="float16", max_rank=8, sockets=contract.sockets)
    parameters = to_sockets({module("q_proj"): pair(2, K, 12, 1)}, half)
    assert {value.dtype.name for value in parameters.values()} == {"float16"}


def test_the_same_adapter_gives_the_same_bytes(contract: SocketContract, tmp_path: Path) -> None:
    loras = {module(name): pair(3, K, n, seed=n) for name, n in QKV}
    loras[module("o_proj")] = pair(2, 12, K, seed=5)
    for name in ("one", "two"):
        write_onnx_adapter(to_sockets(loras, contract), contract, tmp_path / name)
        loras = dict(reversed(loras.items()))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_tensors_that_do_not_fit_the_contract_are_never_written(
    contract: SocketContract, tmp_path: Path
) -> None:
    parameters = to_sockets({module("q_proj"): pair(2, K, 12, 1)}, contract)
    parameters["model.layers.0.attn.qkv_proj.lora_A"] = np.zeros((K, 2), np.float16)
    with pytest.raises(PeftAdapterError, match="expected dtype float32, got float16"):
        write_onnx_adapter(parameters, contract, tmp_path / "bad")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("a_size", "b_size", "problem"),
    [
        (1.0, 1e5, "lora_B: values up to "),
        (1e-9, 1.0, "lora_A: 100% of it is too small"),
    ],
)
def test_what_float16_cannot_hold_is_refused(
    contract: SocketContract, a_size: float, b_size: float, problem: str
) -> None:
    lora = pair(3, K, 4, seed=1)
    sized = LoraPair(lora.a * np.float32(a_size), lora.b * np.float32(b_size))
    half = replace(contract, dtype="float16")
    with pytest.raises(PeftAdapterError) as caught:
        to_sockets({module("v_proj"): sized}, half)
    (line,) = caught.value.problems
    assert problem in line
    assert to_sockets({module("v_proj"): sized}, contract)
