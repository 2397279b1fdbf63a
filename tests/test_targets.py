"""Target profiles: the shipped ones load, and what people type is refused with the right word."""

import re
from pathlib import Path

import pytest

from edgekit.errors import RecipeError
from edgekit.targets import list_targets, load_target, targets_dir

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
            "adapters.max_rank: Input should be greater than or",
        ),
        (("^name: cpu", "name: ../up"), "name: String should match pattern"),
        (("  bits: 4", "  bits: 3"), "quantization.bits: Input should be 4, got 3"),
        (("^description: .*$", ""), "description: missing"),
    ],
    ids=lambda value: value[1].strip() if isinstance(value, tuple) else "",
)
def test_a_wrong_profile(edit: tuple[str, str], line: str, tmp_path: Path) -> None:
    assert any(problem.startswith(line) for problem in refusal(own(tmp_path, edit)))


def test_all_problems_come_together(tmp_path: Path) -> None:
    path = own(tmp_path, ("  bits: 4", "  bits: 3"), ("^context_length: 4096", "context: 9"))
    found = refusal(path)
    assert [problem.partition(":")[0] for problem in found] == [
        "quantization.bits",
        "context_length",
        "context",
    ]


def test_an_unknown_name_says_what_there_is() -> None:
    with pytest.raises(RecipeError) as caught:
        load_target("cpuu")
    assert str(caught.value).startswith("no target 'cpuu'; did you mean 'cpu'? known: ")
    assert str(caught.value).endswith(
        "See `edgekit targets list`, or give the path of your own profile (.yaml)."
    )


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"target profile '.*nowhere\.yaml': no such file"):
        load_target(str(tmp_path / "nowhere.yaml"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: [", "cannot be read: while parsing"),
        (b"\xff\xfe\x00", "cannot be read: "),
        (b"", "profile: Input should be a valid dictionary"),
        (b"- cpu", "profile: Input should be a valid dictionary"),
    ],
)
def test_a_file_that_is_no_profile(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yml"
    path.write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        load_target(str(path))
    assert message in str(caught.value)
