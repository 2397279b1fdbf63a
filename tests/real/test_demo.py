"""The demo, as `make demo` runs it: minutes, so it stands in the slow tier."""

import json
from pathlib import Path

import pytest

from edgekit.cli import main


@pytest.mark.real
@pytest.mark.slow
def test_each_adapter_wins_on_its_own_task_and_only_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "-o", str(tmp_path / "demo"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    for task, row in report["scores"].items():
        other = next(name for name in report["scores"] if name != task)
        assert row[task] >= row["base"] + 0.3, task
        assert row[task] >= row[other] + 0.3, task
    assert report["scores"]["tone"]["tone"] > report["scores"]["tone"]["tfidf"]
    assert report["bench"]["swap_ms"]["resident"]["p50"] > 0
