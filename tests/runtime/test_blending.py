"""Several adapters at once: their weighted sum, by any way of asking for it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit_runtime import AdapterError, Bundle, Engine
from edgekit_runtime.adapter_choice import adapter_text
from edgekit_runtime.adapter_file import AdapterFile, adapter_bytes
from edgekit_runtime.blending import as_file, blend
from edgekit_runtime.cli import main
from edgekit_runtime.contract import Socket, SocketContract, SocketPart
from tests.runtime.bundle_edits import Tensors, change_adapter

PROMPT = "Q: where is the card\nA:"
BOTH = {"alpha": 0.7, "beta": -0.4}


def test_one_blend_has_one_name_however_it_is_written() -> None:
    assert adapter_text(None) is None
    assert adapter_text("legal") == adapter_text({"legal": 1}) == adapter_text("legal=1.0")
    assert adapter_text({"tone": 3, "legal": 0.7}) == "legal=0.7,tone=3.0"
    assert adapter_text(" tone=3 , legal=0.7") == "legal=0.7,tone=3.0"
    assert adapter_text({"legal": 0.5}) == "legal=0.5"


@pytest.mark.parametrize(
    ("choice", "problem"),
    [
        ({}, "no adapter is named"),
        ({"a": True}, "a: expected a number as its weight, got True"),
        ({"a": float("nan")}, "a: expected a finite weight other than 0, got nan"),
        ({"a": 0}, "a: expected a finite weight other than 0, got 0"),
        ({"a,b": 1.0}, "'a,b': expected an adapter's name"),
        ("a=x", "a: expected a number as its weight, got 'x'"),
        ("a=1,a=2", "a: there twice"),
        ("a=1,b", "b: expected a number as its weight, got ''"),
        ("=1", "'': expected an adapter's name"),
    ],
)
def test_what_is_no_blend_is_refused(choice: Any, problem: str) -> None:
    with pytest.raises(AdapterError, match="cannot be blended so") as caught:
        adapter_text(choice)
    assert problem in caught.value.problems


def test_adapter_files_are_read_by_onnx_runtime_and_by_us(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    tensors = {
        "a.lora_A": np.arange(15, dtype=np.float32).reshape(5, 3).T,
        "longer.name.lora_B": np.arange(3, dtype=np.float16).reshape(3, 1) / 7,
    }
    data = adapter_bytes(tensors)
    assert data == adapter_bytes(tensors)
    (tmp_path / "x.onnx_adapter").write_bytes(data)
    theirs = onnxruntime.AdapterFormat.read_adapter(str(tmp_path / "x.onnx_adapter"))
    ours = AdapterFile.from_bytes(data, where="x")
    for name, values in tensors.items():
        assert ours.infos[name].dtype == values.dtype.name
        np.testing.assert_array_equal(ours.tensor(name), values)
        np.testing.assert_array_equal(theirs.get_parameters()[name].numpy(), values)
    assert len(ours.infos) == len(theirs.get_parameters()) == 2


def _adapter(rank: int, used: int, seed: int) -> AdapterFile:
    """One socket's random A (4, rank) and B (rank, 6), zero from a rank on."""
    random = np.random.default_rng(seed)
    a, b = random.normal(size=(4, rank)), random.normal(size=(rank, 6))
    a[:, used:], b[used:] = 0, 0
    tensors = {"s.lora_A": a.astype(np.float32), "s.lora_B": b.astype(np.float32)}
    return AdapterFile.from_bytes(adapter_bytes(tensors), where="x")


def _product(file: AdapterFile) -> Any:
    return file.tensor("s.lora_A").astype(np.float64) @ file.tensor("s.lora_B").astype(np.float64)


@pytest.mark.parametrize("static_rank", [None, 8])
def test_a_blend_is_the_weighted_sum_also_where_the_rank_is_fixed(static_rank: int | None) -> None:
    part = SocketPart(module="m", offset=0, n=6)
    socket = Socket(name="s", k=4, n=6, parts=(part,))
    contract = SocketContract(
        dtype="float32", max_rank=16, sockets=(socket,), static_rank=static_rank
    )
    first, second = _adapter(8, 3, seed=0), _adapter(8, 5, seed=1)
    data = blend([(first, 0.7), (second, -2.0)], contract)
    found = AdapterFile.from_bytes(data, where="x")
    assert contract.problems(found.infos) == []
    expected = 0.7 * _product(first) - 2.0 * _product(second)
    np.testing.assert_allclose(_product(found), expected, atol=1e-6)
    if static_rank:
        wide = AdapterFile.from_bytes(
            blend([(first, 1.0), (_adapter(8, 6, seed=2), 1.0)], contract), where="x"
        )
        assert contract.problems(wide.infos) == ["s.lora_A: expected rank 8, got 9"]


def test_a_weight_scales_and_a_blend_holds_both(engine: Engine) -> None:
    tokens = engine.tokenize("the card is lost and the payment was not found")
    base, alpha, beta = (
        engine.token_log_probs(tokens, adapter=one) for one in (None, "alpha", "beta")
    )
    tiny = {"alpha": 1e-6, "beta": 1e-6}
    # As near as int8 activations let it be: one that is rounded the other way moves the rest.
    np.testing.assert_allclose(engine.token_log_probs(tokens, adapter=tiny), base, atol=0.05)
    nearly_alpha = engine.token_log_probs(tokens, adapter={"alpha": 1, "beta": 1e-6})
    np.testing.assert_allclose(nearly_alpha, alpha, atol=0.05)
    both = engine.token_log_probs(tokens, adapter=BOTH)
    for other in (base, alpha, beta):
        assert np.abs(both - other).max() > 0.2
    assert engine.generate(PROMPT, adapter=BOTH, max_new_tokens=2).adapter == "alpha=0.7,beta=-0.4"


def test_sessions_swap_to_a_blend_and_back(engine: Engine) -> None:
    def ask(session: Any) -> Any:
        session.reset()
        return session.generate("where is my card", max_new_tokens=6).token_ids

    with engine.session(adapter="beta") as session, engine.session(adapter=BOTH) as other:
        before = ask(session)
        session.swap(BOTH)
        assert session.adapter == other.adapter == "alpha=0.7,beta=-0.4"
        assert ask(session) == ask(other)
        session.swap("beta")
        assert ask(session) == before


def test_one_scaled_adapter_keeps_its_template_and_a_blend_what_all_share(
    tiny_bundle: Path,
) -> None:
    with Bundle.open(tiny_bundle, cache_dir=None) as bundle:
        alpha, half = bundle.adapter_card("alpha"), bundle.adapter_card("alpha=0.5")
        assert half.prompt_template == alpha.prompt_template == "Q: {text}\nA:"
        assert (half.name, half.r, dict(half.metrics)) == ("alpha=0.5", alpha.r, {})
        both = bundle.adapter_card("alpha=0.7,beta=-0.4")
        assert both.prompt_template is None and both.license is None
        assert (both.r, both.binding) == (alpha.r + bundle.adapter_card("beta").r, "assumed")
        with pytest.raises(AdapterError, match="has no adapter 'gama'"):
            bundle.adapter_card("alpha=0.7,gama=1.0")


def test_a_blend_counts_as_all_it_holds_and_can_be_pinned(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle, cache_dir=None)
    with bundle.engine(threads=1) as probe:
        sizes = {status.name: status.size_bytes for status in probe.adapters()}
    with bundle.engine(threads=1, adapter_budget_bytes=sum(sizes.values()) + 10) as engine:
        engine.pin_adapter(BOTH)
        with pytest.raises(AdapterError, match="no room for adapter 'alpha'"):
            engine.load_adapter("alpha")
        engine.unpin_adapter(BOTH)
        engine.load_adapter("alpha")
        engine.unload_adapter(BOTH)


def test_a_changed_part_of_a_blend_is_refused(bundle_copy: Path) -> None:
    with Bundle.open(bundle_copy, cache_dir=None).engine(threads=1) as engine:
        path = bundle_copy / "adapters/beta/float32.onnx_adapter"
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        with pytest.raises(AdapterError, match="adapter 'beta' was changed"):
            engine.generate(PROMPT, adapter=BOTH, max_new_tokens=1)


def test_a_blend_that_overflows_is_refused(bundle_copy: Path) -> None:
    def enlarge(tensors: Tensors) -> None:
        for name in tensors:
            if name.endswith("lora_B"):
                tensors[name][:] = 3e38

    change_adapter(bundle_copy, "beta", enlarge)
    with (
        Bundle.open(bundle_copy, cache_dir=None).engine(threads=1) as engine,
        pytest.raises(AdapterError, match=r"'beta=2.0' does not fit") as caught,
    ):
        engine.generate(PROMPT, adapter={"beta": 2}, max_new_tokens=1)
    assert "holds NaN or infinity" in caught.value.problems[0]


def test_without_files_in_memory_a_blend_goes_through_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delattr("os.memfd_create", raising=False)
    with as_file(b"abc", tmp_path) as path:
        assert Path(path).read_bytes() == b"abc" and Path(path).is_relative_to(tmp_path)
    assert list((tmp_path / "blends").iterdir()) == []
    with pytest.raises(AdapterError, match="without a cache"), as_file(b"abc", None):
        pass


def test_the_command_line_blends(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("typer")
    given = ["run", str(tiny_bundle), "-p", PROMPT, "--max-new-tokens", "2", "--json"]
    assert main([*given, "--adapter", "beta=-0.4,alpha=0.7"]) == 0
    assert json.loads(capsys.readouterr().out)["adapter"] == "alpha=0.7,beta=-0.4"
    assert main([*given, "--adapter", "beta=0"]) == 1
    assert "beta: expected a finite weight other than 0" in capsys.readouterr().err
