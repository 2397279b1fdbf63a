"""A build as a page: what a build says of itself, shown; nothing in it is obeyed."""

import json
from pathlib import Path

import pytest

from edgekit.building.page import build_page
from edgekit.cli import main
from tests.html_pages import tags_of

EVIL = "<script>alert('x')</script> $x^2"


def test_the_page_shows_what_the_build_says(
    tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "build.html"
    words = ["--base", str(tiny_base), "--target", "cpu-fast", "-o", str(tmp_path / "bundle")]
    assert main(["build", *words, "--html", str(page), "--json", "--report-quantization"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert sum(told["sizes"].values()) == told["size_bytes"]
    assert {"weights", "graphs", "tokenizer"} <= set(told["sizes"])
    text = page.read_text(encoding="utf-8")
    assert text == build_page(told)
    assert tags_of(text).count("svg") == 2  # sizes, parity
    assert told["digest"] in text
    assert f"{told['parity']['cpu-fast']['base']['nll_shipping']:.3f}" in text
    assert "Quantization, against the float base" in text


def test_names_are_shown_and_not_obeyed() -> None:
    figures = {
        "effect_kl": 0.1, "exact_mean_kl": 0.0, "exact_top1": 1.0, "shipping_mean_kl": 0.01,
        "nll_torch": None, "nll_shipping": 2.5, "nll_increase": None,
    }  # fmt: skip
    target = {"read_bytes": 9, "seconds": 1.0, "verified_on": None}
    told = {
        "output": EVIL, "name": EVIL, "version": "1", "digest": "sha256:0", "size_bytes": 9,
        "sizes": {EVIL: 9}, "targets": {EVIL: target, "b": target},
        "parity": {EVIL: {"base": figures | {"effect_kl": 0.0}, EVIL: figures}},
    }  # fmt: skip
    tags = tags_of(build_page(told))
    assert tags.count("svg") == 3  # times, sizes, parity


def test_an_unchecked_build_says_so() -> None:
    told = {
        "output": "o", "name": "n", "version": "1", "digest": "d", "size_bytes": 0, "sizes": {},
        "targets": {}, "parity": {},
    }  # fmt: skip
    assert "Unchecked" in build_page(told)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--html", "{out}/page.html", "--overwrite"], "its manifest does not list"),
        (["--html", "{out}", "--overwrite"], "is a directory"),
        (["--html", "page.html", "--dry-run"], "builds nothing"),
    ],
)
def test_a_place_for_the_page_that_does_not_do_is_refused_before_any_work(
    words: list[str], told: str, tiny_base: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    words = [word.format(out=tmp_path) for word in words]
    assert main(["build", "--base", str(tiny_base), "-o", str(tmp_path), *words]) == 2
    assert told in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert [*tmp_path.iterdir()] == []
