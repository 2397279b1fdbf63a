"""The measuring of routing, on made-up data and a tiny base: that it runs and adds up."""

import json
import re
import sys
from pathlib import Path

import pytest

from tests.proofs import routing


def test_the_table_has_a_row_for_each_number_of_examples(
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for folder in ("banking77", "snips"):
        (tmp_path / folder).mkdir()
    texts = [f"my card {number} is lost" for number in range(34)]
    rows = "".join(f"{text},lost\n" for text in texts)
    (tmp_path / "banking77" / "test.csv").write_text(f"text,category\n{rows}")
    for intent in routing.INTENTS:
        said = [{"data": [{"text": f"{intent} "}, {"text": text}]} for text in texts]
        path = tmp_path / "snips" / f"validate_{intent}.json"
        path.write_text(json.dumps({intent: said}), encoding="latin-1")
    line = ["routing", str(tiny_bundle), str(tmp_path), "--texts", "34", "--draws", "2"]
    monkeypatch.setattr(sys, "argv", line)
    routing.main()
    table = capsys.readouterr().out
    assert re.findall(r"^\| (\d+) \| [\d.]+% ±[\d.]+ \|", table, re.M) == ["4", "8", "16", "32"]
    # Every text once: five skills, the chat, and the requests that ship.
    assert "234 texts" in table
