"""A benchmark as a page."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from edgekit_runtime.bench_page import histogram
from edgekit_runtime.cli import main


class Page(HTMLParser):
    """Checks that tags are closed, and collects what is there."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())


def test_the_page_shows_every_time_and_the_comparison_and_loads_nothing(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bench.html"
    given = ["bench", str(tiny_bundle), "--against", str(tiny_bundle), "--html", str(file)]
    given += ["--prompt-tokens", "16", "--prefill-tokens", "8", "--new-tokens", "8"]
    assert main([*given, "--repeats", "2", "--warmup", "0", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {key: len(times) for key, times in report["latencies_ms"].items()} == {
        "ttft": 2,
        "itl": 2 * 7,
        "swap_resident": 20,
        "swap_cold": 20,
    }
    text = file.read_text(encoding="utf-8")
    page = Page(text)
    assert {"first token", "prefill, 8 tokens", "swap, from disk", "Compared"} <= set(page.words)
    assert text.count("<svg") == 3  # of two first tokens the table says all
    assert not re.search(r"(src|href)=|url\(|@import|<script", text)
    assert f"{report['itl_ms']['p95']:.2f}" in page.words


def test_every_time_is_in_a_bar_and_the_slowest_are_told() -> None:
    times = [1.0 + i / 100 for i in range(199)] + [500.0]
    picture = Page(histogram(times, "Between <tokens>"))
    told = next(value for name, value in picture.attributes if name == "aria-label")
    assert told == "Between <tokens>: 200 times, median 2.00 ms, and 2 more up to 500.0 ms"
    heights = [float(v or 0) for name, v in picture.attributes if name == "height"]
    assert len(heights) == 48 and max(heights) == pytest.approx(116)


@pytest.mark.parametrize("times", [[3.0], [3.0] * 5])
def test_equal_times_are_one_bar(times: list[float]) -> None:
    assert histogram(times, "x").count("<rect") == 1


def test_a_page_that_cannot_be_written_is_told(
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ["bench", str(tiny_bundle), "--html", str(tmp_path / "no" / "x.html")]
    monkeypatch.setattr("edgekit_runtime.bench.bench", lambda *_: pytest.fail("measured"))
    assert main(given) == 1
    assert "cannot be written" in capsys.readouterr().err
