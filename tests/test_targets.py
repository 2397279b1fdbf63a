"""Target profiles: the shipped ones load, and what people type is refused with the right word."""

import re
from pathlib import Path

import pytest
import yaml

from edgekit.errors import RecipeError
from edgekit.targets import (
    TargetProfile,
    list_targets,
    load_target,
    profile_schema,
    targets_dir,
)

SHIPPED = sorted(targets_dir().glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_profile_loads_under_its_name(path: Path) -> None:
    profile = load_target(path.stem)
    assert profile.name == path.stem
    assert profile == list_targets()[path.stem]


def test_the_cpu_profile_states_the_designs_bounds() -> None:
    parity = load_target("cpu").parity
    assert (parity.exact_max_mean_kl, parity.exact_min_top1) == (1e-6, 0.999)
    assert parity.shipping_max_mean_kl == 1e-2


def own(tmp_path: Path, *edits: tuple[str, str]) -> Path:
    """A copy of cpu.yaml with some lines replaced (regular expressions)."""
    text = (targets_dir() / "cpu.yaml").read_text(encoding="utf-8")
    for pattern, replacement in edits:
        text, n = re.subn(f"(?m){pattern}", replacement, text)
        assert n == 1, pattern
    path = tmp_path / "own.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_target(str(path))
    assert caught.value.what == f"target profile '{path}' is wrong"
    return list(caught.value.problems)


def test_an_own_profile_is_loaded_by_its_path(tmp_path: Path) -> None:
    path = own(
        tmp_path, ("^name: cpu", "name: watch"), ("^context_length: 4096", "context_length: 256")
    )
    profile = load_target(str(path))
    assert (profile.name, profile.context_length) == ("watch", 256)


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        (
            ("^precision:", "precison:"),
            "precison: unknown key; did you mean 'precision'",
        ),
        (
            ("  block_size:", "  blocksize:"),
            "quantization.blocksize: unknown key; did you mean 'block",
        ),
        (
            ("  max_rank: 256", "  max_rank: 0"),
            "adapters.max_rank: expected 1 or more, got 0",
        ),
        (("^name: cpu", "name: ../up"), "name: expected text that matches ^[A-Za-z0-9]"),
        (
            ("  block_size: 32", "  block_size: 33"),
            "quantization.block_size: expected 16, 32, 64, 128 or 256, got 33",
        ),
        (
            ("  tier: default", "  tier: qualty"),
            "quantization.tier: expected 'fast', 'default' or 'quality', got 'qualty'; "
            "did you mean 'quality'?",
        ),
        (
            ("  is_symmetric: true", "  is_symmetric: perhaps"),
            "quantization.is_symmetric: expected true or false, got 'perhaps'",
        ),
        (("  embedding: true", "  embedding: maybe"), "quantization.embedding: expected true or"),
        (
            ("  exact_min_top1: 0.999", "  exact_min_top1: most"),
            "parity.exact_min_top1: expected a number, got 'most'",
        ),
        (
            ("  max_nll_increase: null", "  max_nll_increase: .nan"),
            "parity.max_nll_increase: expected a finite",
        ),
        (
            ("^packages:", "packages:\n  1: x"),
            "packages.1: expected text as a key, got 1 (put it in",
        ),
        (("^name: cpu", "1: cpu"), "1: expected text as a key, got 1 (put it in quotes)"),
        (("^precision: int4", "precision: null"), "precision: expected 'int4' or 'int8', got null"),
        (("^description: .*$", ""), "description: missing"),
    ],
    ids=lambda value: value[1].strip() if isinstance(value, tuple) else "",
)
def test_a_wrong_profile(edit: tuple[str, str], line: str, tmp_path: Path) -> None:
    assert any(problem.startswith(line) for problem in refusal(own(tmp_path, edit)))


def test_all_problems_come_together(tmp_path: Path) -> None:
    path = own(tmp_path, ("  tier: default", "  bits: 3"), ("^context_length: 4096", "context: 9"))
    found = refusal(path)
    assert [problem.partition(":")[0] for problem in found] == [
        "quantization.bits",
        "context_length",
        "context",
    ]


def test_problems_of_fields_and_between_fields_come_together(tmp_path: Path) -> None:
    text = "extends: cuda\nname: own\ncontext_length: 9\nbuilder: cpu\nprovider_options: {x: '1'}\n"
    found = refusal(extending(tmp_path, "own.yaml", text))
    assert [problem.partition(":")[0] for problem in found] == [
        "context_length",
        "provider_options.x",
        "io_dtype",
    ]


def test_an_unknown_name_says_what_there_is() -> None:
    with pytest.raises(RecipeError) as caught:
        load_target("cpuu")
    assert str(caught.value).startswith("no target 'cpuu'; did you mean 'cpu' or 'cuda'? known: ")
    assert str(caught.value).endswith(
        "See `edgekit targets list`, or give the path of your own profile (.yaml)."
    )


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"target profile '.*nowhere\.yaml': no such file"):
        load_target(str(tmp_path / "nowhere.yaml"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: [", "line 1, column 8: not valid YAML: expected the node content"),
        (b"\xff\xfe\x00", "cannot be read: "),
        (b"", "holds no keys"),
        (b"- cpu", "holds no keys"),
    ],
)
def test_a_file_that_is_no_profile(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yml"
    path.write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        load_target(str(path))
    assert message in str(caught.value)


def extending(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_profile_extends_another_section_by_section(tmp_path: Path) -> None:
    path = extending(
        tmp_path, "own.yaml", "extends: cpu\nname: own\nquantization: {block_size: 64}\n"
    )
    profile, cpu = load_target(str(path)), load_target("cpu")
    changed = cpu.quantization.model_copy(update={"block_size": 64})
    assert profile == cpu.model_copy(update={"name": "own", "quantization": changed})


def test_a_profile_without_a_name_has_its_files(tmp_path: Path) -> None:
    assert load_target(str(extending(tmp_path, "watch.yaml", "extends: cpu\n"))).name == "watch"
    extending(tmp_path, "house.yaml", "extends: cuda\nname: house\n")
    assert load_target(str(extending(tmp_path, "car.yaml", "extends: house.yaml\n"))).name == "car"
    whole = own(tmp_path, ("^name: cpu", ""))
    assert load_target(str(whole)).name == "own"
    (wrong,) = refusal(extending(tmp_path, "my watch.yaml", "extends: cpu\n"))
    assert wrong.startswith("name: expected text that matches ^[A-Za-z0-9]")


def test_what_is_extended_may_extend_and_is_found_beside_the_file(tmp_path: Path) -> None:
    extending(
        tmp_path,
        "shared/house.yaml",
        "extends: cuda\nname: house\ncontext_length: 1024\nprovider_options: {use_tf32: '0'}\n",
    )
    path = extending(
        tmp_path,
        "own.yaml",
        "extends: shared/house.yaml\nname: own\nprovider_options: {enable_cuda_graph: null}\n",
    )
    profile = load_target(str(path))
    assert (profile.name, profile.context_length) == ("own", 1024)
    assert profile.provider_options == {"use_tf32": "0"}  # null takes the inherited entry out


def test_a_profile_that_extends_itself(tmp_path: Path) -> None:
    first = extending(tmp_path, "first.yaml", "extends: second.yaml\nname: first\n")
    second = extending(tmp_path, "second.yaml", "extends: first.yaml\nname: second\n")
    with pytest.raises(RecipeError) as caught:
        load_target(str(first))
    assert caught.value.what.endswith("extends itself")
    first, second = first.resolve(), second.resolve()
    assert caught.value.problems == (f"{first} extends {second} extends {first}",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: [cpu]\n", "extends: expected a profile's name or path, got ['cpu']"),
        ("extends: cpuu\n", "no target 'cpuu'; did you mean 'cpu' or"),
        ("extends: gone.yaml\n", "gone.yaml': no such file"),
    ],
)
def test_a_profile_that_extends_nothing(text: str, message: str, tmp_path: Path) -> None:
    path = extending(tmp_path, "own.yaml", f"name: own\n{text}")
    with pytest.raises(RecipeError) as caught:
        load_target(str(path))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "execution_provider: CUDAExcutionProvider",
            "execution_provider: no such execution provider; did you mean 'CUDAExecutionProvider'",
        ),
        (
            "verify: {execution_provider: CPUExecutonProvider}",
            "verify.execution_provider: no such execution provider; did you mean",
        ),
        (
            "provider_options: {enable_cuda_grph: '1'}",
            "provider_options.enable_cuda_grph: CUDAExecutionProvider has no such option; "
            "did you mean 'enable_cuda_graph'",
        ),
        (
            "execution_provider: WebGpuExecutionProvider",  # inherits an option of CUDA
            "provider_options.enable_cuda_graph: WebGpuExecutionProvider has no such option;",
        ),
        (
            "session_options: {intra_op_threads: 2}",
            "session_options.intra_op_threads: no such option; did you mean 'intra_op_num_threads'",
        ),
        (
            "session_options: {intra_op_num_threads: many}",
            "session_options.intra_op_num_threads: expected a whole number, got 'many'",
        ),
        (
            "session_options: {inter_op_num_threads: true}",
            "session_options.inter_op_num_threads: expected a whole number, got true",
        ),
        (
            "session_options: {enable_mem_pattern: 1}",
            "session_options.enable_mem_pattern: expected true or false, got 1",
        ),
        (
            "session_options: {session.intra_op.allow_spinning: 0}",
            "session_options.session.intra_op.allow_spinning: expected text, got 0 (put it in",
        ),
        (
            "provider_options: {device_id: 0}",
            "provider_options.device_id: expected text, got 0 (put it in quotes)",
        ),
        ("io_dtype: float32", "io_dtype: builder 'cuda' makes float16, got float32"),
        ("builder: cpu", "io_dtype: builder 'cpu' makes float32, got float16"),
        (
            "adapters: {mechanism: static_inputs}",
            "adapters.mechanism: builder 'static' and static_inputs go together, got builder "
            "'cuda' and static_inputs",
        ),
        ("adapters: {empty_rank: 2}", "adapters.empty_rank: expected 0 or 1, got 2"),
    ],
    ids=lambda text: text.partition(":")[0],
)
def test_parts_that_do_not_go_together(text: str, problem: str, tmp_path: Path) -> None:
    path = extending(tmp_path, "own.yaml", f"extends: cuda\nname: own\n{text}\n")
    assert any(found.startswith(problem) for found in refusal(path))


def test_static_graphs_and_k_quant_have_no_zero_points_of_ours(tmp_path: Path) -> None:
    text = "extends: qnn\nname: own\nquantization: {is_symmetric: false}\n"
    assert refusal(extending(tmp_path, "own.yaml", text)) == [
        "quantization.is_symmetric: static graphs have no zero points, got false",
    ]
    text = "extends: cuda\nname: own\nquantization: {algorithm: k_quant, is_symmetric: false}\n"
    assert refusal(extending(tmp_path, "own.yaml", text)) == [
        "quantization.is_symmetric: expected true with k_quant, which has zero points of its own, "
        "or the algorithm rtn, gptq or tuned, got false",
    ]


def test_an_entry_of_onnx_runtime_is_a_session_option(tmp_path: Path) -> None:
    text = "extends: cpu\nname: own\nsession_options: {session.intra_op.allow_spinning: '0'}\n"
    profile = load_target(str(extending(tmp_path, "own.yaml", text)))
    assert profile.session_options == {"session.intra_op.allow_spinning": "0"}


@pytest.mark.parametrize("name", [path.stem for path in SHIPPED])
def test_a_resolved_profile_is_the_same_profile(name: str, tmp_path: Path) -> None:
    profile = load_target(name)
    values = profile.model_dump(mode="json")
    path = extending(tmp_path, "whole.yaml", yaml.safe_dump(values, sort_keys=False))
    assert load_target(str(path)) == profile


def test_the_schema_knows_every_key_that_a_profile_may_have() -> None:
    schema = profile_schema()
    assert set(schema["properties"]) == {*TargetProfile.model_fields, "extends"}
    assert schema["additionalProperties"] is False
    complete = next(way["required"] for way in schema["anyOf"] if way["required"] != ["extends"])
    required = {name for name, key in TargetProfile.model_fields.items() if key.is_required()}
    assert set(complete) == required - {"name"}  # the file's, where the profile says none
    for path in SHIPPED:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert set(values) <= set(schema["properties"])
        assert set(complete) <= set(values) or "extends" in values
