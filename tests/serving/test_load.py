"""A minute of mixed load with dying workers; ten by ``python -m tests.serving.load``."""

import json
from pathlib import Path

import pytest

from tests.serving.load import main


@pytest.mark.slow
def test_every_answer_is_complete_and_the_same_or_fails_cleanly(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--minutes", "1", "--kill-every", "15", "--", "--threads", "1"]
    code = main([str(tiny_bundle), *words])
    report = json.loads(capsys.readouterr().out)
    assert report["wrong"] == []
    assert code == 0
    outcomes = report["outcomes"]
    assert outcomes["workers killed"] >= 3
    assert outcomes["complete"] > 100
    assert outcomes["left"] > 0
