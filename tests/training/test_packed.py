"""A frozen base in the bits of the device: loss and gradients of its floats in less memory."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from edgekit.bases import Base, resolve_base
from edgekit.building.base_shape import shape_of
from edgekit.building.dequantize import quantization_fingerprint
from edgekit.building.device_weights import DeviceWeights, device_weights, use_device_weights
from edgekit.building.inputs import load_profiles
from edgekit.building.memory import disk_bytes
from edgekit.targets import TargetProfile
from edgekit.training import packed_linear
from edgekit.training.packed_base import load_packed, on_float_weights
from edgekit.training.packed_linear import PackedEmbedding, PackedLinear, packed_bytes
from tests.tiny_models import make_tiny_model

MIXED = (
    "algorithm=rtn,is_symmetric=false,head_bits=8,"
    "eight_bit=*layers.0.*.v_proj+*layers.1.*.down_proj"
)
CASES = {
    "llama-symmetric": ("llama", "tier=fast"),
    "llama-asymmetric": ("llama", "algorithm=rtn,is_symmetric=false"),
    "llama-mixed": ("llama", MIXED),
    "phi3-prefused": ("phi3", "algorithm=rtn,is_symmetric=false"),
    "gemma-tied-8-bit": ("gemma", "algorithm=rtn,bits=8,head_bits=8"),
    "gemma3-scaled-table": ("gemma3", "tier=fast"),
    "qwen2-biases-untied": ("qwen2", "tier=fast"),
}


@pytest.fixture(scope="module", params=CASES, ids=CASES)
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Base, TargetProfile, DeviceWeights]:
    family, options = CASES[request.param]
    path = tmp_path_factory.mktemp("bases") / family
    base = resolve_base(str(make_tiny_model(path, family, tied="untied" not in request.param)))
    profile = load_profiles(("cpu",), options, None)["cpu"]
    return base, profile, device_weights(base, profile)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """So small that tiny weights are cut up as large ones are."""
    monkeypatch.setattr(packed_linear, "CHUNK_VALUES", 64 * 24)
    yield


def with_lora(model: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    adapted = get_peft_model(
        model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    )
    return adapted.train()


def loss_and_gradients(model: Any, **context: Any) -> tuple[float, dict[str, torch.Tensor]]:
    ids = torch.randint(3, 320, (2, 24), generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16, enabled=bool(context)):
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return loss.item(), found


def float_model(base: Base, profile: TargetProfile, dtype: torch.dtype = torch.float32) -> Any:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base.path, dtype=dtype).eval()
    use_device_weights(model, base, profile)
    return model


def assert_same(
    left: tuple[float, dict[str, torch.Tensor]],
    right: tuple[float, dict[str, torch.Tensor]],
    bound: float,
) -> None:
    assert left[0] == pytest.approx(right[0], rel=bound)
    assert left[1].keys() == right[1].keys()
    assert all("lora_" in name for name in left[1])
    for name, gradient in right[1].items():
        error = (left[1][name] - gradient).norm() / gradient.norm()
        assert error < bound, name


def test_loss_and_gradients_are_those_of_the_dequantized_floats(
    case: tuple[Base, TargetProfile, DeviceWeights],
) -> None:
    base, profile, weights = case
    packed = with_lora(load_packed(base.path, weights, dtype=torch.float32))
    expected = loss_and_gradients(with_lora(float_model(base, profile)))
    assert_same(loss_and_gradients(packed), expected, 1e-6)
    packed.zero_grad()
    packed.gradient_checkpointing_enable({"use_reentrant": False})
    assert_same(loss_and_gradients(packed), expected, 1e-6)


@pytest.mark.usefixtures("small_chunks")
def test_weights_that_are_cut_up_add_up_to_the_same(
    case: tuple[Base, TargetProfile, DeviceWeights],
) -> None:
    base, profile, weights = case
    packed = with_lora(load_packed(base.path, weights, dtype=torch.float64))
    expected = loss_and_gradients(with_lora(float_model(base, profile, torch.float64)))
    assert_same(loss_and_gradients(packed), expected, 1e-12)


def test_every_weight_of_the_graph_is_held_in_its_bits(
    case: tuple[Base, TargetProfile, DeviceWeights],
) -> None:
    base, profile, weights = case
    packed, plain = load_packed(base.path, weights, dtype=torch.float32), float_model(base, profile)
    held = {
        f"{path}.weight": module.weight
        for path, module in packed.named_modules()
        if isinstance(module, PackedLinear | PackedEmbedding)
    }
    assert held.keys() == weights.keys()
    used = dict(plain.named_parameters(remove_duplicate=False))
    for name, values in held.items():
        torch.testing.assert_close(values, used[name], rtol=0, atol=0, msg=name)
    stored = {name: sum(part.n_bytes for part in parts) for name, parts in weights.items()}
    is_tied = plain.get_output_embeddings().weight is plain.get_input_embeddings().weight
    in_bits = sum(stored.values()) - is_tied * stored["lm_head.weight"]
    estimated = disk_bytes(replace(shape_of(base), max_positions=0), profile)
    assert in_bits == pytest.approx(estimated, rel=0.05)
    rest = sum(p.nbytes for name, p in packed.named_parameters())
    buffers = sum(b.nbytes for b in plain.buffers())
    assert packed_bytes(packed) == in_bits + rest + buffers
    assert in_bits < packed_bytes(plain) / (3.5 if profile.quantization.bits == 8 else 4.5)


def test_nothing_is_kept_for_the_backward_pass(
    case: tuple[Base, TargetProfile, DeviceWeights],
) -> None:
    base, _, weights = case
    model = load_packed(base.path, weights, dtype=torch.float32)
    layer = model.get_submodule("model.layers.0.mlp.down_proj")
    x = torch.randn(2, 5, layer.in_features, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = layer(x)
    assert kept == []
    y.sum().backward()
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand_as(x))


def test_autocast_rounds_as_it_does_a_linear(
    case: tuple[Base, TargetProfile, DeviceWeights],
) -> None:
    base, profile, weights = case
    packed = loss_and_gradients(
        with_lora(load_packed(base.path, weights, dtype=torch.float32)), autocast=True
    )
    plain = loss_and_gradients(with_lora(float_model(base, profile)), autocast=True)
    assert_same(packed, plain, 1e-2)


def test_the_floats_of_the_checkpoint_come_back_for_a_while(
    case: tuple[Base, TargetProfile, DeviceWeights],
) -> None:
    from transformers import AutoModelForCausalLM

    base, _, weights = case
    ids = torch.arange(3, 30)[None]
    plain = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32).eval()
    packed = load_packed(base.path, weights, dtype=torch.float32)
    with torch.no_grad():
        before = packed(ids).logits
        with on_float_weights(packed, base.path):
            torch.testing.assert_close(packed(ids).logits, plain(ids).logits, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(packed(ids).logits, before, rtol=0, atol=0)


def test_a_fingerprint_names_the_numbers_not_the_graph(tiny_base: Path) -> None:
    base = resolve_base(str(tiny_base))

    def fingerprint(target: str, options: str) -> str:
        profile = load_profiles((target,), options, None)[target]
        return quantization_fingerprint(device_weights(base, profile))

    plain = fingerprint("cpu", "tier=fast")
    assert plain == fingerprint("cpu", "tier=fast,accuracy_level=1")
    assert plain == fingerprint("cuda", "algorithm=rtn")  # float16 scales, another graph
    assert plain != fingerprint("cpu", "algorithm=rtn,block_size=16")
    assert plain != fingerprint("cpu", "algorithm=rtn,is_symmetric=false")
