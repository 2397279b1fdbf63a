"""Benchmarks over several processes, and beside each other."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from edgekit_runtime import bench_compare
from edgekit_runtime.bench import bench_in_turn
from edgekit_runtime.bench_compare import FIGURES, compare, over_rounds
from edgekit_runtime.bench_report import BenchPlan
from edgekit_runtime.cli import main

QUICK = ["--prompt-tokens", "16", "--new-tokens", "8", "--repeats", "2", "--warmup", "0"]


@pytest.fixture(scope="module")
def report(tiny_bundle: Path) -> dict[str, Any]:
    """Two rounds of the tiny bundle, with prompts of two lengths."""
    plan = BenchPlan(
        bundle=str(tiny_bundle), prompt_tokens=16, prefill_tokens=(8, 40), new_tokens=8, repeats=2
    )
    return bench_in_turn([plan], 2)[0]


def rounds(report: dict[str, Any], **figures: list[float]) -> dict[str, Any]:
    """The report with other figures; ``__`` stands for a dot."""
    changed = copy.deepcopy(report)
    changed["by_round"] = {name.replace("__", "."): values for name, values in figures.items()}
    return changed


def test_every_round_is_kept_and_the_figure_is_their_median(report: dict[str, Any]) -> None:
    assert report["rounds"] == 2
    prefill = {f"prefill.{n_tokens}.tokens_per_s" for n_tokens in (8, 40)}
    assert set(report["by_round"]) == {figure.name for figure in FIGURES} | prefill
    by_length = {str(one["prompt_tokens"]): one for one in report["prefill"]}
    for name, values in report["by_round"].items():
        found: Any = report | {"prefill": by_length}
        for key in name.split("."):
            found = found[key]
        assert len(values) == 2
        assert found == pytest.approx(sum(values) / 2, abs=1)


def test_prompts_of_other_lengths_are_timed(report: dict[str, Any]) -> None:
    assert [prefill["prompt_tokens"] for prefill in report["prefill"]] == [8, 40]
    assert all(prefill["tokens_per_s"] > 0 < prefill["ttft_ms"] for prefill in report["prefill"])


def test_a_figure_unknown_in_one_round_is_unknown(report: dict[str, Any]) -> None:
    without = report | {"joules_per_token": None}
    found = over_rounds([report | {"joules_per_token": 2.0}, without, without])
    assert found["joules_per_token"] is None


@pytest.mark.parametrize(
    ("now", "verdict"),
    [
        ([90, 91, 92, 93, 94], "worse"),
        ([110, 111, 112, 113, 114], "better"),
        ([90, 91, 92, 93, 100], "same"),  # one round is as fast as before
        ([96, 97, 97, 98, 98], "same"),  # within the tolerance
        ([50, 50, 50, 50], "too few rounds"),
    ],
)
def test_a_difference_counts_where_every_round_shows_it(
    report: dict[str, Any], now: list[float], verdict: str
) -> None:
    then = rounds(report, decode_tokens_per_s=[99, 100, 100, 101, 102])
    found = compare(then, rounds(report, decode_tokens_per_s=now), tolerance=0.05, is_paired=False)
    assert [row.verdict for row in found.figures] == [verdict]
    assert found.verdict == verdict


def test_rounds_run_in_turn_are_compared_pair_by_pair(report: dict[str, Any]) -> None:
    """The machine slows down meanwhile; each pair still tells the difference."""
    then = rounds(report, load_ms=[100, 110, 120, 130, 140])
    now = rounds(report, load_ms=[108, 119, 130, 141, 152])
    found = compare(then, now, tolerance=0.05, is_paired=True)
    assert [row.verdict for row in found.figures] == ["worse"]
    assert found.figures[0].ratio == pytest.approx(130 / 120)
    assert compare(then, now, tolerance=0.05, is_paired=False).verdict == "same"


def test_two_bundles_are_measured_in_turn(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", str(tiny_bundle), *QUICK, "--against", str(tiny_bundle), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["comparison"]["is_paired"]
    assert found["comparison"]["verdict"] == "too few rounds"
    assert found["then"]["bundle"] == found["bundle"]


def test_a_figure_that_is_worse_exits_with_1(
    tiny_bundle: Path,
    tmp_path: Path,
    report: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(bench_compare, "MIN_ROUNDS", 1)
    for value, code, word in ((1e-3, 1, "worse"), (1e9, 0, "better")):
        earlier = tmp_path / "earlier.json"
        earlier.write_text(json.dumps(rounds(report, load_ms=[value])))
        assert main(["bench", str(tiny_bundle), *QUICK, "--compare", str(earlier)]) == code
        assert word in capsys.readouterr().out


def test_prompts_of_other_lengths_are_compared_where_both_have_them(
    report: dict[str, Any],
) -> None:
    slow, fast = [90.0] * 5, [180.0] * 5
    then = rounds(report, prefill__8__tokens_per_s=slow, prefill__40__tokens_per_s=slow)
    now = rounds(report, prefill__8__tokens_per_s=fast)
    now["prefill"] = now["prefill"][:1]
    (figure,) = compare(then, now, tolerance=0.05, is_paired=False).figures
    assert (figure.figure, figure.verdict) == ("prefill.8.tokens_per_s", "better")


def test_another_prompt_length_is_refused_before_anything_is_measured(
    report: dict[str, Any],
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("edgekit_runtime.bench.bench", lambda *_: pytest.fail("measured"))
    (tmp_path / "then.json").write_text(json.dumps(report))
    given = ["bench", str(tiny_bundle), "--compare", str(tmp_path / "then.json")]
    assert main([*given, "--prompt-tokens", "17", "--threads", "64"]) == 1
    told = capsys.readouterr().err
    assert "prompt_tokens: 16 then, 17 now" in told and "threads: " in told


def test_other_conditions_are_refused_all_at_once(report: dict[str, Any]) -> None:
    other = copy.deepcopy(report)
    other["machine"]["cpu"] = "another"
    other["new_tokens"] = 9
    with pytest.raises(bench_compare.EdgekitRuntimeError) as caught:
        compare(other, report, tolerance=0.05, is_paired=False)
    assert "new_tokens: 9 then, 8 now" in str(caught.value)
    assert "machine.cpu: 'another' then" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no benchmark:\n  Expecting"),
        ("[]", "expected an object, got list"),
        ('{"load_ms": 3}', "  itl_ms: missing\n"),
        ('{"by_round": {"load_ms": [1, "2"]}}', "by_round.load_ms: expected a list of numbers"),
        ('{"by_round": {"load_ms": [0]}}', "by_round.load_ms: expected a list of numbers over 0"),
    ],
)
def test_a_file_that_is_no_benchmark_is_refused_before_anything_is_measured(
    tmp_path: Path, content: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "earlier.json").write_text(content)
    line = ["bench", "no-such-bundle", "--compare", str(tmp_path / "earlier.json")]
    assert main(line) == 1
    assert message in capsys.readouterr().err


def test_one_comparison_at_a_time(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["bench", str(tiny_bundle), "--against", str(tiny_bundle), "--compare", "x.json"]
    assert main(line) == 2
    assert "--against or --compare, not both" in capsys.readouterr().err
