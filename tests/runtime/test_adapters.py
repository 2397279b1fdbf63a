"""The adapter pool: loading, budget, pins, and what it refuses."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgekit_runtime import AdapterError, AdapterStatus, Bundle, Engine
from tests.runtime.bundle_edits import Tensors, adapter_bytes, change_adapter, replace_file, seal

PROMPT = "Q: where is the card\nA:"
ALPHA = "adapters/alpha/float32.onnx_adapter"


def _engine(path: Path, budget_bytes: int = 1 << 20) -> Engine:
    bundle = Bundle.open(path, cache_dir=None)
    return bundle.engine(threads=1, adapter_budget_bytes=budget_bytes)


def _status(engine: Engine, name: str) -> AdapterStatus:
    return next(status for status in engine.adapters() if status.name == name)


def test_nothing_is_loaded_before_it_is_needed(tiny_bundle: Path) -> None:
    with _engine(tiny_bundle) as engine:
        assert not any(status.loaded for status in engine.adapters())
        engine.generate(PROMPT, adapter="beta", max_new_tokens=1)
        assert _status(engine, "beta").loaded and not _status(engine, "alpha").loaded


def test_load_pin_and_unload(tiny_bundle: Path) -> None:
    with _engine(tiny_bundle) as engine:
        engine.load_adapter("alpha")
        engine.pin_adapter("alpha")
        assert _status(engine, "alpha").pinned
        engine.unpin_adapter("alpha")
        assert not _status(engine, "alpha").pinned
        engine.unload_adapter("alpha")
        engine.unload_adapter("alpha")
        assert not _status(engine, "alpha").loaded


def test_the_least_recently_used_goes_when_the_budget_is_full(tiny_bundle: Path) -> None:
    with _engine(tiny_bundle) as probe:
        sizes = {status.name: status.size_bytes for status in probe.adapters()}
    with _engine(tiny_bundle, max(sizes.values()) + 10) as engine:
        first = engine.generate(PROMPT, adapter="alpha", max_new_tokens=6).token_ids
        engine.generate(PROMPT, adapter="beta", max_new_tokens=1)
        assert not _status(engine, "alpha").loaded
        assert engine.generate(PROMPT, adapter="alpha", max_new_tokens=6).token_ids == first
        assert not _status(engine, "beta").loaded


def test_pinned_adapters_stay_and_the_next_finds_no_room(tiny_bundle: Path) -> None:
    with _engine(tiny_bundle) as probe:
        size = max(status.size_bytes for status in probe.adapters())
    with _engine(tiny_bundle, size + 10) as engine:
        engine.pin_adapter("alpha")
        with pytest.raises(AdapterError, match="no room for adapter 'beta'") as caught:
            engine.load_adapter("beta")
        assert "are pinned or in use" in caught.value.problems[0]
        assert _status(engine, "alpha").loaded


def test_an_adapter_in_use_is_not_unloaded(tiny_bundle: Path) -> None:
    with _engine(tiny_bundle) as engine:
        with engine.stream(PROMPT, adapter="alpha", max_new_tokens=60, regex="[a-e]{60}") as stream:
            next(stream)
            assert _status(engine, "alpha").in_use == 1
            with pytest.raises(AdapterError, match="adapter 'alpha' is in use"):
                engine.unload_adapter("alpha")
        engine.unload_adapter("alpha")


def test_unknown_names_are_refused_by_every_call(tiny_bundle: Path) -> None:
    with _engine(tiny_bundle) as engine:
        for call in (
            engine.load_adapter,
            engine.unload_adapter,
            engine.pin_adapter,
            engine.unpin_adapter,
        ):
            with pytest.raises(AdapterError, match="no adapter 'gamma'"):
                call("gamma")


def test_a_file_changed_while_the_engine_runs_is_refused(bundle_copy: Path) -> None:
    with _engine(bundle_copy) as engine:
        data = bytearray((bundle_copy / ALPHA).read_bytes())
        data[-5] ^= 1
        (bundle_copy / ALPHA).write_bytes(data)
        with pytest.raises(AdapterError, match="'alpha' was changed after the bundle was built"):
            engine.load_adapter("alpha")


def _first(tensors: Tensors, half: str) -> str:
    return next(name for name in sorted(tensors) if name.endswith(half))


def _rename(tensors: Tensors) -> None:
    tensors["model.layers.0.self_attn.q_proj.lora_A"] = tensors.pop(_first(tensors, "lora_A"))


def _drop_half(tensors: Tensors) -> None:
    del tensors[_first(tensors, "lora_B")]


def _narrow(tensors: Tensors) -> None:
    name = _first(tensors, "lora_A")
    tensors[name] = np.ascontiguousarray(tensors[name][1:])


def _half_precision(tensors: Tensors) -> None:
    for name in tensors:
        tensors[name] = tensors[name].astype(np.float16)


def _nan(tensors: Tensors) -> None:
    tensors[_first(tensors, "lora_B")][0, 0] = np.nan


def _other_rank(tensors: Tensors) -> None:
    name = _first(tensors, "lora_B")
    tensors[name] = np.ascontiguousarray(tensors[name][1:])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (_rename, r"self_attn\.q_proj\.lora_A: no such socket"),
        (_drop_half, r"lora_B: missing, its other half is there"),
        (_narrow, r"lora_A: expected shape \(\d+, r\), got "),
        (_half_precision, r"lora_A: expected dtype float32, got float16"),
        (_nan, r"lora_B: holds NaN or infinity"),
        (_other_rank, r"lora_B: expected shape"),
    ],
)
def test_what_does_not_fit_the_sockets_is_refused_at_load(
    bundle_copy: Path, change: Callable[[Tensors], None], problem: str
) -> None:
    change_adapter(bundle_copy, "alpha", change)
    with _engine(bundle_copy) as engine:
        before = engine.generate(PROMPT, max_new_tokens=3).token_ids
        with pytest.raises(AdapterError, match=problem):
            engine.load_adapter("alpha")
        with pytest.raises(AdapterError, match=problem):
            engine.generate(PROMPT, adapter="alpha")
        assert engine.generate(PROMPT, max_new_tokens=3).token_ids == before


def test_an_empty_adapter_is_refused(bundle_copy: Path) -> None:
    replace_file(bundle_copy, ALPHA, adapter_bytes({}, bundle_copy.parent))
    with _engine(bundle_copy) as engine, pytest.raises(AdapterError, match="holds no tensors"):
        engine.load_adapter("alpha")


def test_a_file_that_is_no_adapter_is_refused(bundle_copy: Path) -> None:
    replace_file(bundle_copy, ALPHA, b"no adapter at all")
    with _engine(bundle_copy) as engine, pytest.raises(AdapterError, match="identifier TORT"):
        engine.load_adapter("alpha")


def test_an_adapter_of_another_base_never_runs(bundle_copy: Path) -> None:
    def other_base(value: dict[str, dict[str, str]]) -> None:
        value["base"]["fingerprint"] = "sha256:" + "2" * 64

    seal(bundle_copy, other_base)
    with _engine(bundle_copy) as engine:
        assert engine.generate(PROMPT, max_new_tokens=1).token_ids
        with pytest.raises(AdapterError, match="made for another base than this bundle's"):
            engine.generate(PROMPT, adapter="alpha")


def test_an_adapter_without_a_file_for_the_target_says_so(bundle_copy: Path) -> None:
    def no_file(value: dict[str, dict[str, dict[str, dict[str, str]]]]) -> None:
        value["adapters"]["alpha"]["files"] = {}

    seal(bundle_copy, no_file)
    with _engine(bundle_copy) as engine:
        with pytest.raises(AdapterError, match="'alpha' has no file for target 'cpu'"):
            engine.load_adapter("alpha")
        assert [status.name for status in engine.adapters()] == ["beta"]
