"""What a build refuses before any work: adapters without a target, blocks that leave a rest."""

from pathlib import Path

import pytest

from edgekit.building.inputs import BuildInputs, check_inputs, load_profiles
from edgekit.bundling.adapters import AdapterSource
from edgekit.errors import BuildError, RecipeError


def inputs_of(base: Path, output: Path, *targets: str, **adapters: AdapterSource) -> BuildInputs:
    return check_inputs(
        name="b",
        base=str(base),
        output=output,
        targets=targets,
        adapters=adapters,
        max_nll_increase=None,
        parity=True,
        assume_base=False,
        overwrite=False,
    )


@pytest.fixture
def mine(tmp_path: Path) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: cpu\nname: mine\n", encoding="utf-8")
    return str(path)


def test_an_own_path_is_found_for_a_profile_of_ones_own(
    tiny_base: Path, alpha_adapter: Path, beta_adapter: Path, mine: str, tmp_path: Path
) -> None:
    source = AdapterSource(path=alpha_adapter, by_target={"cpu": alpha_adapter, mine: beta_adapter})
    inputs = inputs_of(tiny_base, tmp_path / "b", "cpu", mine, skill=source)
    assert inputs.adapters["cpu"]["skill"].path == alpha_adapter
    assert inputs.adapters["mine"]["skill"].path == beta_adapter
    assert inputs.sources["skill"].for_target("mine") == beta_adapter


def test_a_target_without_a_path_and_without_a_default_is_refused(
    tiny_base: Path, alpha_adapter: Path, mine: str, tmp_path: Path
) -> None:
    source = AdapterSource(
        path=alpha_adapter, by_target={"cpu": alpha_adapter}, is_for_every_target=False
    )
    with pytest.raises(BuildError) as caught:
        inputs_of(tiny_base, tmp_path / "b", "cpu", mine, skill=source)
    assert caught.value.problems == ("adapter 'skill': no path for target 'mine', and no default",)


def test_blocks_that_leave_a_rest_are_refused_where_edgekit_rounds(
    tiny_base: Path, tmp_path: Path
) -> None:
    own = tmp_path / "wide.yaml"
    own.write_text("extends: cuda\nname: wide\nquantization: {block_size: 128}\n", encoding="utf-8")
    with pytest.raises(BuildError) as caught:
        inputs_of(tiny_base, tmp_path / "b", str(own))
    assert caught.value.problems == (
        "target 'wide': 64 inputs are no whole number of blocks of 128",
    )


def test_other_quantization_leaves_static_graphs_as_their_profile_says() -> None:
    profiles = load_profiles(("cpu", "qnn"), "tier=quality", None)
    assert profiles["cpu"].quantization.algorithm == "gptq"
    assert profiles["qnn"].quantization.bits == 8
    assert profiles["qnn"].quantization.algorithm == "rtn"


def test_calibration_text_that_is_not_there_is_refused_first(tmp_path: Path) -> None:
    """Even before the base is looked for: it may have to be fetched."""
    gone, odd = tmp_path / "gone.txt", tmp_path / "odd.txt"
    odd.write_bytes(b"\xff")
    for name, source in (("first", gone), ("second", odd), ("third", gone)):
        tier = "fast" if name == "third" else "default"  # fast reads none
        text = f"{{tier: {tier}, calibration: {{source: {source}}}}}"
        (tmp_path / f"{name}.yaml").write_text(f"extends: cpu\nquantization: {text}\n")
    targets = [str(tmp_path / f"{name}.yaml") for name in ("first", "second", "third")]
    with pytest.raises(RecipeError) as caught:
        inputs_of(tmp_path / "no-base", tmp_path / "b", *targets)
    first, second = caught.value.problems
    assert first == f"target 'first': calibration.source: no such file '{gone}'"
    assert second.startswith(f"target 'second': calibration.source '{odd}': 'utf-8' codec can't")
