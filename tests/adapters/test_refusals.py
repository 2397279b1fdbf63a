"""Adapters that cannot be used exactly are refused, with every problem in one message."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.adapters.peft_dir import PeftAdapter, read_peft_adapter
from edgekit.bases import EMBEDDED, Base, resolve_base
from edgekit.errors import PeftAdapterError
from tests.peft_adapters import make_peft_adapter
from tests.tiny_models import make_tiny_model

Q0 = "model.layers.0.self_attn.q_proj"
KEY = f"base_model.model.{Q0}"


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> Base:
    return resolve_base(str(tiny_base))


@pytest.fixture(scope="module")
def pristine(base: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rank 4 on q_proj and o_proj, by plain peft."""
    path = tmp_path_factory.mktemp("pristine") / "adapter"
    return make_peft_adapter(base.path, path, target_modules=["q_proj", "o_proj"])


@pytest.fixture
def adapter(pristine: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return shutil.copytree(pristine, tmp_path / "adapter")


def set_config(adapter: Path, **values: Any) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def edit_tensors(adapter: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    from safetensors.numpy import load_file, save_file

    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file)


def read(adapter: Path, base: Base, **options: Any) -> PeftAdapter:
    return read_peft_adapter(adapter, base, name="legal", **{"max_rank": 8} | options)


def problems(adapter: Path, base: Base, **options: Any) -> list[str]:
    with pytest.raises(PeftAdapterError) as caught:
        read(adapter, base, **options)
    error = caught.value
    assert error.what == "adapter 'legal' does not fit base 'tiny-llama'" or "name" in options
    assert all(f"\n  {problem}" in str(error) for problem in error.problems)
    assert error.hint in str(error)
    return list(error.problems)


def test_the_pristine_adapter_is_taken(adapter: Path, base: Base) -> None:
    assert len(read(adapter, base).modules) == 4


def test_a_wrong_shape(adapter: Path, base: Base) -> None:
    edit_tensors(
        adapter, lambda t: t.update({f"{KEY}.lora_A.weight": np.zeros((4, 1024), np.float32)})
    )
    assert problems(adapter, base) == [f"{Q0}.lora_A: expected shape (4, 64), got (4, 1024)"]


def test_a_rank_that_is_not_the_tensors(adapter: Path, base: Base) -> None:
    set_config(adapter, r=6)
    found = problems(adapter, base)
    assert f"{Q0}.lora_A: expected shape (6, 64), got (4, 64)" in found
    assert f"{Q0}.lora_B: expected shape (128, 6), got (128, 4)" in found
    assert len(found) == 8  # both halves of all four modules


@pytest.mark.parametrize("name", ["model.embed_tokens", "lm_head", "model.layers.9.mlp.up_proj"])
def test_a_module_that_is_no_decoder_linear(name: str, adapter: Path, base: Base) -> None:
    key = f"base_model.model.{name}.lora_A.weight"
    edit_tensors(adapter, lambda t: t.update({key: np.zeros((4, 64), np.float32)}))
    assert problems(adapter, base) == [f"{key}: the base has no decoder linear '{name}'"]


def test_an_embedding_adapter_as_peft_writes_it(base: Base, tmp_path: Path) -> None:
    make_peft_adapter(base.path, tmp_path, target_modules=["q_proj", "embed_tokens"])
    found = problems(tmp_path, base)
    for half in "AB":
        name = f"base_model.model.model.embed_tokens.lora_embedding_{half}"
        assert f"{name}: no LoRA tensor of a linear layer" in found


@pytest.mark.parametrize("dtype", ["int8", "int32", "float64"])
def test_a_dtype_that_is_no_lora(dtype: str, adapter: Path, base: Base) -> None:
    edit_tensors(
        adapter, lambda t: t.update({f"{KEY}.lora_B.weight": np.ones((128, 4), np.dtype(dtype))})
    )
    assert problems(adapter, base) == [
        f"{KEY}.lora_B.weight: expected float32, float16 or bfloat16, got {dtype}"
    ]


def test_nan_and_infinity(adapter: Path, base: Base) -> None:
    def spoil(tensors: dict[str, Any]) -> None:
        tensors[f"{KEY}.lora_A.weight"][0, :2] = (np.nan, np.inf)

    edit_tensors(adapter, spoil)
    assert problems(adapter, base) == [f"{KEY}.lora_A.weight: 2 of 256 values are NaN or infinite"]


@pytest.mark.parametrize("half", ["A", "B"])
def test_one_half_missing(half: str, adapter: Path, base: Base) -> None:
    edit_tensors(adapter, lambda t: t.__delitem__(f"{KEY}.lora_{half}.weight"))
    assert problems(adapter, base) == [f"{Q0}.lora_{half}: missing, its other half is there"]


def test_a_module_that_the_config_targets_is_missing(adapter: Path, base: Base) -> None:
    def drop(tensors: dict[str, Any]) -> None:
        del tensors[f"{KEY}.lora_A.weight"], tensors[f"{KEY}.lora_B.weight"]

    edit_tensors(adapter, drop)
    assert problems(adapter, base) == [
        f"{Q0}: adapter_config.json targets it, but the file holds no lora_A and lora_B of it"
    ]


def test_a_module_that_the_config_does_not_target(adapter: Path, base: Base) -> None:
    set_config(adapter, target_modules=["o_proj"])
    assert problems(adapter, base) == [
        f"model.layers.{layer}.self_attn.q_proj: the file holds it, but adapter_config.json does "
        "not target it"
        for layer in (0, 1)
    ]


def test_a_rank_over_the_targets(adapter: Path, base: Base) -> None:
    with pytest.raises(PeftAdapterError) as caught:
        read_peft_adapter(adapter, base, name="legal", max_rank=3, target="watch")
    assert caught.value.problems == ("adapter 'legal' has rank 4, target 'watch' takes at most 3",)
    assert "adapters.max_rank" in caught.value.hint


def test_a_rank_over_the_targets_stands_beside_other_problems(adapter: Path, base: Base) -> None:
    set_config(adapter, r=2)
    found = problems(adapter, base, max_rank=3)
    assert f"{Q0}.lora_A: expected shape (2, 64), got (4, 64)" in found
    assert found[-1] == "adapter 'legal' has rank 4, the base takes at most 3"


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"use_dora": True}, "use_dora=True: DoRA rescales the rows of the merged weight"),
        (
            {"modules_to_save": ["lm_head"]},
            "modules_to_save=['lm_head']: whole retrained modules do not fit a socket",
        ),
        ({"bias": "lora_only"}, "bias='lora_only': trained biases do not fit a socket"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights='pissa_niter_4' changes the"),
        ({"init_lora_weights": "OLoRA"}, "init_lora_weights='olora' changes the base's weights"),
        ({"peft_type": "IA3"}, "peft_type: expected LORA, got IA3"),
        ({"peft_type": None}, "peft_type: expected LORA, got None"),
        (
            {"trainable_token_indices": [1, 2]},
            "trainable_token_indices=[1, 2] is not supported: it changes what LoRA computes",
        ),
        ({"alora_invocation_tokens": [5]}, "alora_invocation_tokens=[5] is not supported"),
        ({"layer_replication": [[0, 2]]}, "layer_replication=[[0, 2]] is not supported"),
        ({"lora_bias": True}, "lora_bias=True is not supported"),
        ({"use_qalora": True}, "use_qalora=True is not supported"),
        ({"some_future_thing": {"x": 1}}, "some_future_thing={'x': 1} is not supported"),
        ({"r": "four"}, "r: expected a whole number from 1, got 'four'"),
        ({"r": 0}, "r: expected a whole number from 1, got 0"),
        ({"lora_alpha": None}, "lora_alpha: expected a number, got None"),
        ({"rank_pattern": {"q_proj": 2.5}}, "rank_pattern.q_proj: expected a whole number from 1"),
        ({"rank_pattern": ["q_proj"]}, "rank_pattern: expected an object, got ['q_proj']"),
        ({"alpha_pattern": {"(": 4}}, "alpha_pattern.(: is no regular expression"),
    ],
)
def test_a_setting_that_sockets_cannot_express(
    values: dict[str, Any], line: str, adapter: Path, base: Base
) -> None:
    set_config(adapter, **values)
    assert any(
        found.startswith(f"adapter_config.json: {line}") for found in problems(adapter, base)
    )


@pytest.mark.parametrize("value", [None, False, [], {}, ""])
def test_an_unknown_setting_that_is_off_is_no_problem(
    value: object, adapter: Path, base: Base
) -> None:
    set_config(adapter, some_future_thing=value)
    assert read(adapter, base).modules


@pytest.mark.parametrize("special", [{"use_dora": True}, {"bias": "all"}], ids=str)
def test_what_peft_itself_writes_with_it_is_refused(
    special: dict[str, Any], base: Base, tmp_path: Path
) -> None:
    make_peft_adapter(base.path, tmp_path, target_modules=["q_proj"], **special)
    key = next(iter(special))
    assert any(line.startswith(f"adapter_config.json: {key}=") for line in problems(tmp_path, base))


def test_all_problems_come_in_one_message(adapter: Path, base: Base) -> None:
    set_config(adapter, use_dora=True, lora_bias=True, base_model_name_or_path="org/other")
    edit_tensors(
        adapter,
        lambda t: t.update(
            {
                f"{KEY}.lora_A.weight": np.full((4, 32), np.nan, np.float32),
                "base_model.model.lm_head.lora_A.weight": np.zeros((4, 64), np.float32),
            }
        ),
    )
    found = "\n".join(problems(adapter, base))
    for piece in (
        "use_dora=True",
        "lora_bias=True",
        "expected 'tiny-llama', got 'org/other'",
        "128 of 128 values are NaN",
        f"{Q0}.lora_A: expected shape (4, 64), got (4, 32)",
        "no decoder linear 'lm_head'",
    ):
        assert piece in found


def test_no_directory(base: Base, tmp_path: Path) -> None:
    with pytest.raises(PeftAdapterError, match="adapter 'legal': there is no directory"):
        read(tmp_path / "nowhere", base)


def test_an_empty_directory_names_both_files(base: Base, tmp_path: Path) -> None:
    assert problems(tmp_path, base) == [
        "adapter_config.json: missing; point at what PeftModel.save_pretrained wrote",
        "adapter_model.safetensors: missing",
    ]


def test_a_pickled_adapter_is_not_loaded(adapter: Path, base: Base) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    assert problems(adapter, base) == [
        "adapter_model.safetensors: missing; only a pickled adapter_model.bin is there, which is "
        "not loaded for safety: save it again with safe_serialization=True"
    ]


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\xff" * 100])
def test_broken_safetensors(content: bytes, adapter: Path, base: Base) -> None:
    (adapter / "adapter_model.safetensors").write_bytes(content)
    (found,) = problems(adapter, base)
    assert found.startswith("adapter_model.safetensors: cannot be read: ")


def test_safetensors_cut_off(adapter: Path, base: Base) -> None:
    file = adapter / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-7])
    assert problems(adapter, base)[0].startswith("adapter_model.safetensors: cannot be read: ")


def test_safetensors_without_tensors(adapter: Path, base: Base) -> None:
    edit_tensors(adapter, lambda tensors: tensors.clear())
    assert problems(adapter, base) == ["adapter_model.safetensors: holds no tensors"]


@pytest.mark.parametrize(
    ("content", "line"),
    [("{", "adapter_config.json: cannot be read: "), ("[]", "adapter_config.json: is no JSON obj")],
)
def test_a_broken_config(content: str, line: str, adapter: Path, base: Base) -> None:
    (adapter / "adapter_config.json").write_text(content)
    assert problems(adapter, base)[0].startswith(line)


@pytest.mark.parametrize(
    ("record", "line"),
    [
        ({"examples": "one"}, "edgekit.json.examples: expected list of str"),
        ({"prompt": 3}, "edgekit.json.prompt: expected str, got int"),
        ({"validation": []}, "edgekit.json.validation: expected dict, got list"),
        ({"max_new_tokens": "8"}, "edgekit.json.max_new_tokens: expected int, got str"),
        ({"base": {"name": "x"}}, "edgekit.json.base.fingerprint: missing"),
    ],
)
def test_a_record_that_makes_no_sense(
    record: dict[str, Any], line: str, adapter: Path, base: Base
) -> None:
    (adapter / "edgekit.json").write_text(json.dumps(record))
    assert any(found.startswith(line) for found in problems(adapter, base))


def test_a_recorded_fingerprint_of_another_base(adapter: Path, base: Base) -> None:
    record = {"base": {"name": "smollm2-135m", "fingerprint": "sha256:" + "0" * 64}}
    (adapter / "edgekit.json").write_text(json.dumps(record))
    line = (
        f"trained on base 'smollm2-135m' with fingerprint sha256:{'0' * 64}, "
        f"this is 'tiny-llama' with {base.fingerprint}"
    )
    assert problems(adapter, base) == [line]
    # What is recorded is certain: nobody can wave it away.
    assert problems(adapter, base, assume_base=True) == [line]


def test_a_recorded_fingerprint_of_this_base(adapter: Path, base: Base) -> None:
    (adapter / "edgekit.json").write_text(
        json.dumps({"base": {"name": "renamed", "fingerprint": base.fingerprint}})
    )
    set_config(adapter, base_model_name_or_path="org/whatever")
    assert read(adapter, base).binding == "recorded"


def test_another_bases_name_needs_assume_base(adapter: Path, base: Base) -> None:
    set_config(adapter, base_model_name_or_path="org/other-model")
    assert problems(adapter, base) == [
        "adapter_config.json: base_model_name_or_path: expected 'tiny-llama', got "
        "'org/other-model'; if they are the same weights, say so with --assume-base"
    ]
    assert read(adapter, base, assume_base=True).binding == "assumed"


def test_the_alias_and_its_hub_model_are_two_bases_and_both_are_named(
    adapter: Path, base: Base
) -> None:
    hub_id = EMBEDDED["smollm2-135m"].hub_id
    set_config(adapter, base_model_name_or_path=hub_id)
    alias = replace(base, name="smollm2-135m")
    with pytest.raises(PeftAdapterError) as caught:
        read(adapter, alias)
    assert (
        f"expected 'smollm2-135m', got '{hub_id}' ('smollm2-135m' holds dequantized weights, "
        f"'{hub_id}' the Hub's float ones)"
    ) in str(caught.value)


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("tiny-llama", "tiny-llama"),
        ("org/Tiny-Llama", "tiny-llama"),
        ("org/model", "org/model@v2"),
        ("/home/somebody/models/m", "tiny-llama"),
        ("C:\\models\\m", "tiny-llama"),
        ("", "tiny-llama"),
        (None, "tiny-llama"),
    ],
)
def test_names_that_do_not_contradict(
    said: str | None, name: str, adapter: Path, base: Base
) -> None:
    set_config(adapter, base_model_name_or_path=said)
    assert read(adapter, replace(base, name=name)).binding == "assumed"


def test_a_base_directory_that_is_here_is_compared_by_its_weights(
    adapter: Path, base: Base, tmp_path: Path
) -> None:
    other = make_tiny_model(tmp_path / "other", seed=7)
    set_config(adapter, base_model_name_or_path=str(other))
    assert f"got '{other}'" in problems(adapter, base)[0]
    shutil.copytree(base.path, tmp_path / "same")
    set_config(adapter, base_model_name_or_path=str(tmp_path / "same"))
    assert read(adapter, base).modules
