"""The gate of static graphs has teeth; adapters that do not fit are refused, every module named."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from edgekit.adapters.convert import to_sockets, write_onnx_adapter
from edgekit.adapters.peft_dir import LoraPair, read_peft_adapter
from edgekit.bases import Base, resolve_base
from edgekit.building.build import build
from edgekit.building.parity import check_parity
from edgekit.building.parity_figures import AdapterFiles
from edgekit.building.qnn.target_dir import stored_profile, write_static_target
from edgekit.bundling.adapters import AdapterSource
from edgekit.bundling.edit import add_adapter
from edgekit.errors import BuildError, ParityError, PeftAdapterError
from edgekit.targets import ParityBounds, load_target
from edgekit_runtime import Bundle
from edgekit_runtime.contract import SocketContract, TensorInfo
from tests.peft_adapters import make_peft_adapter
from tests.static.profiles import static_profile, write_profile

Modules = dict[str, LoraPair]


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> Base:
    return resolve_base(str(tiny_base))


@pytest.fixture(scope="module")
def target(base: Base, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SocketContract]:
    directory = tmp_path_factory.mktemp("gate")
    contract = write_static_target(directory / "target", base, static_profile(directory))
    return directory / "target", contract


def scaled(modules: Modules) -> Modules:
    return {name: LoraPair(pair.a, pair.b * 2) for name, pair in modules.items()}


def swapped(modules: Modules) -> Modules:
    """k and v have the same shape."""
    return {re.sub(r"\b[kv]_proj", lambda m: "v_proj" if m[0][0] == "k" else "k_proj", name): pair
            for name, pair in modules.items()}  # fmt: skip


def shifted(modules: Modules) -> Modules:
    return {re.sub(r"\.([01])\.", lambda m: f".{1 - int(m[1])}.", name): pair
            for name, pair in modules.items()}  # fmt: skip


def without_a_layer(modules: Modules) -> Modules:
    return {name: pair for name, pair in modules.items() if ".1." not in name}


@pytest.mark.parametrize("mistake", [scaled, swapped, shifted, without_a_layer])
def test_a_wrong_conversion_fails(
    mistake: object,
    base: Base,
    target: tuple[Path, SocketContract],
    alpha_adapter: Path,
    tmp_path: Path,
) -> None:
    directory, contract = target
    assert callable(mistake)
    modules = dict(read_peft_adapter(alpha_adapter, base, name="a", max_rank=16).modules)
    onnx = tmp_path / "a.onnx_adapter"
    write_onnx_adapter(to_sockets(mistake(modules), contract), contract, onnx)
    files = {"a": AdapterFiles(peft=alpha_adapter, onnx=onnx)}
    bounds = ParityBounds(exact_min_top1=0.99)
    with pytest.raises(ParityError, match="adapter 'a': conversion is not exact: mean KL"):
        check_parity(directory, base, contract, files, bounds, check_base=False, threads=1)


def test_a_graph_with_another_weight_fails(
    base: Base, target: tuple[Path, SocketContract], tmp_path: Path
) -> None:
    directory, contract = target
    copy = Path(shutil.copytree(directory, tmp_path / "copy"))
    weights = bytearray((copy / "decoder.onnx.data").read_bytes())
    weights[:4096] = bytes(4096)
    (copy / "decoder.onnx.data").write_bytes(weights)
    with pytest.raises(ParityError, match="base: shipping compute: mean KL"):
        check_parity(copy, base, contract, {}, ParityBounds(), threads=1)


def test_a_rank_over_the_fixed_one_is_refused_in_one_line(tiny_base: Path, tmp_path: Path) -> None:
    wide = make_peft_adapter(tiny_base, tmp_path / "wide", r=32, target_modules=["q_proj"])
    profile = write_profile(tmp_path)
    with pytest.raises(PeftAdapterError) as caught:
        build(
            name="tiny",
            base=str(tiny_base),
            output=tmp_path / "bundle",
            targets=(str(profile),),
            adapters={"wide": AdapterSource(path=wide)},
        )
    assert caught.value.problems == (
        f"adapter 'wide' has rank 32, target '{load_target(str(profile)).name}' takes at most 16",
    )
    assert not (tmp_path / "bundle").exists()


def test_the_runtime_refuses_another_rank_too(target: tuple[Path, SocketContract]) -> None:
    _, contract = target
    socket = contract.sockets[0]
    infos = {
        socket.a_name: TensorInfo(shape=(socket.k, 8), dtype="float16"),
        socket.b_name: TensorInfo(shape=(8, socket.n), dtype="float16"),
    }
    assert contract.problems(infos) == [f"{socket.a_name}: expected rank 16, got 8"]


def test_conversion_pads_with_zeros(
    base: Base, target: tuple[Path, SocketContract], beta_adapter: Path
) -> None:
    _, contract = target
    modules = read_peft_adapter(beta_adapter, base, name="b", max_rank=16).modules
    parameters = to_sockets(modules, contract)
    a = parameters["model.layers.1.mlp.down_proj.lora_A"]
    b = parameters["model.layers.1.mlp.down_proj.lora_B"]
    assert (a.shape, b.shape, a.dtype.name) == ((128, 16), (16, 64), "float16")
    assert not a[:, 8:].any() and not b[8:].any() and a[:, :8].any()
    pair = modules["model.layers.1.mlp.down_proj"]
    assert np.allclose(a[:, :8], pair.a.T, atol=1e-3)


def test_a_rank_that_only_conversion_sees_is_refused(
    base: Base, target: tuple[Path, SocketContract], tmp_path: Path
) -> None:
    wide = make_peft_adapter(base.path, tmp_path / "wide", r=32, target_modules=["q_proj"])
    modules = read_peft_adapter(wide, base, name="wide", max_rank=64).modules
    with pytest.raises(PeftAdapterError, match="over the target's fixed rank of 16") as caught:
        to_sockets(modules, target[1])
    assert caught.value.problems[0] == "model.layers.0.self_attn.q_proj: rank 32"


def test_an_adapter_is_added_later_and_checked_on_the_same_graphs(
    static_bundle: Path, beta_adapter: Path, tiny_base: Path, tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(static_bundle, tmp_path / "bundle"))
    source = AdapterSource(path=beta_adapter)
    figures = add_adapter(bundle, "gamma", source, base=str(tiny_base))
    assert figures["static"].exact_mean_kl < 1e-6
    assert figures["static"].placement.keys() == {"CPUExecutionProvider"}
    with Bundle.open(bundle, cache_dir=None).engine(threads=1) as engine:
        one, two = (engine.generate("the card", adapter=name) for name in ("beta", "gamma"))
        assert one.token_ids == two.token_ids


def test_a_target_that_lost_its_profile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="does not say how the target was built"):
        stored_profile(tmp_path)
