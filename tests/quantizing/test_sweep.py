"""The sweep's table: sizes of files that were built, figures against the float base."""

import json
from pathlib import Path

import pytest

from edgekit.bases import resolve_base
from edgekit.building.reference import torch_reference
from edgekit.cli import main
from edgekit.errors import RecipeError
from edgekit.quantizing.report import compare_with_float, text_rows
from edgekit.quantizing.sweep import turns


def test_the_sweep_measures_size_speed_and_cost(
    tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the card is lost and the payment was not found. " * 300, encoding="utf-8")
    tries = [
        "--try",
        "tier=fast",
        "--try",
        "bits=8,head_bits=8",
        "--try",
        "tier=fast,block_size=64",
    ]
    arguments = [str(tiny_base), *tries, "--text", str(text), "--tokens", "2048", "--threads", "1"]
    assert main(["quantize-sweep", *arguments, "--json"]) == 0
    fast, wide, coarse = json.loads(capsys.readouterr().out)
    assert fast["options"] == "tier=fast"
    assert fast["speed_ratio"] == 1
    assert wide["size_bytes"] > fast["size_bytes"] > coarse["size_bytes"]
    assert wide["mean_kl"] < fast["mean_kl"] / 20
    assert wide["top1"] > fast["top1"]
    assert wide["is_best"]
    for one in (fast, wide, coarse):
        assert one["n_tokens"] == 2048
        assert one["decode_tokens_per_s"] > 0
        assert one["nll_float"] == fast["nll_float"]
        assert one["nll_increase"] == pytest.approx(one["nll"] - one["nll_float"], abs=0.02)
        assert one["nll_increase_se"] > 0


def test_the_sweeps_table_fits_a_narrow_terminal(
    tiny_base: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = tmp_path / "text.txt"
    text.write_text("the card is lost and the payment was not found. " * 20, encoding="utf-8")
    tried = "tier=fast,bits=8,head_bits=8,block_size=64"
    arguments = [str(tiny_base), "--try", tried, "--text", str(text), "--threads", "1"]
    assert main(["quantize-sweep", *arguments]) == 0
    out = capsys.readouterr().out
    assert "…" not in out
    assert all(len(line) <= 80 for line in out.splitlines())
    # The options are the column that is wrapped, after a comma.
    assert all(option in out for option in tried.split(","))


def test_figures_are_those_of_the_graph_that_ships(
    built_tiny_bundle: Path, tiny_base: Path
) -> None:
    """The same numbers, computed here from the bundle's own scoring graph."""
    import numpy as np
    import torch

    from edgekit.building.sessions import TargetSessions

    base = resolve_base(str(tiny_base))
    target = built_tiny_bundle / "targets" / "cpu"
    rows = [[1, *range(10, 60)], [1, *range(200, 230)]]
    figures = compare_with_float(base, {"cpu": target}, rows, threads=1)["cpu"]
    sessions = TargetSessions(target, 1)
    nll, kl, same = [], [], []
    with torch_reference(base, {}) as reference:
        for row in rows:
            q = torch.from_numpy(sessions.score(row, None)).double().log_softmax(-1)
            p = reference.logits("", row).double().log_softmax(-1)
            nll += [-q[i, token].item() for i, token in enumerate(row[1:])]
            kl += (p.exp() * (p - q)).sum(-1).tolist()
            same += (p.argmax(-1) == q.argmax(-1)).tolist()
    assert figures.n_tokens == 51 + 31
    assert figures.nll == pytest.approx(np.mean(nll), rel=1e-6)
    assert figures.mean_kl == pytest.approx(np.mean(kl), rel=1e-6)
    assert figures.top1 == pytest.approx(np.mean(same))


def test_a_comparison_that_was_stopped_goes_on_where_it_was(
    built_tiny_bundle: Path,
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    base = resolve_base(str(tiny_base))
    targets = {"cpu": built_tiny_bundle / "targets" / "cpu"}
    rows = [[1, *range(10, 60)], [1, *range(200, 230)], [1, *range(90, 100)]]

    class StoppedError(Exception):
        pass

    def stop(message: str) -> None:
        if "row 3" in message:
            raise StoppedError

    with pytest.raises(StoppedError):
        compare_with_float(base, targets, rows, threads=1, on_message=stop)
    (file,) = (tmp_path / "cache" / "compared").iterdir()
    with file.open("a", encoding="utf-8") as lines:
        lines.write('{"row": "cut o')
    said: list[str] = []
    resumed = compare_with_float(base, targets, rows, threads=1, on_message=said.append)
    assert said == ["comparing with the float base: row 3 of 3"]
    again = compare_with_float(base, targets, rows, threads=1, on_message=said.append)
    assert len(said) == 1
    file.unlink()
    assert compare_with_float(base, targets, rows, threads=1)["cpu"] == resumed["cpu"]
    assert again == resumed


def test_each_target_comes_first_in_turn() -> None:
    assert [turns(["a", "b"], round_) for round_ in range(3)] == [
        ["a", "b"],
        ["b", "a"],
        ["a", "b"],
    ]
    assert [turns(["a", "b", "c"], round_)[0] for round_ in range(6)] == list("abcabc")


def test_rows_are_spread_over_the_whole_text(tiny_base: Path, tmp_path: Path) -> None:
    base = resolve_base(str(tiny_base))
    text = tmp_path / "text.txt"
    text.write_text("0" * 512 * 5 + "9" * 512 * 5, encoding="utf-8")
    rows = text_rows(base, text, 1024)
    assert [len(row) for row in rows] == [512, 512]
    assert rows[0] != rows[1]
    assert len(text_rows(base, text, None)) == 10
    text.write_text("", encoding="utf-8")
    with pytest.raises(RecipeError, match="has 0 tokens, too few to compare on"):
        text_rows(base, text, None)


def test_calibration_text_that_is_not_there_is_refused_before_any_try(
    tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = f"algorithm=gptq,calibration.source={tmp_path / 'gone.txt'}"
    arguments = [str(tiny_base), "--try", "tier=fast", "--try", gone]
    assert main(["quantize-sweep", *arguments]) == 1
    err = capsys.readouterr().err
    assert f"{gone}: calibration.source: no such file" in err
    assert "tier=fast:" not in err
