"""Stop strings across any token boundary."""

import itertools

import pytest

from edgekit_runtime.stopping import StopScanner


def _run(pieces: list[str], stops: list[str]) -> tuple[str, bool]:
    scanner = StopScanner(stops)
    shown = "".join(scanner.push(piece) for piece in pieces)
    return shown + scanner.flush(), scanner.stopped


def test_the_text_before_the_stop_comes_out_wherever_the_pieces_are_cut() -> None:
    text = "ab<|end|>cd"
    for i, j in itertools.combinations(range(len(text)), 2):
        assert _run([text[:i], text[i:j], text[j:]], ["<|end|>"]) == ("ab", True)


def test_a_false_start_is_shown_after_all() -> None:
    assert _run(["a<", "|en", "x"], ["<|end|>"]) == ("a<|enx", False)
    assert _run(["a<|e"], ["<|end|>"]) == ("a<|e", False)


def test_nothing_that_may_begin_a_stop_is_shown_early() -> None:
    scanner = StopScanner(["stop", "\n\n"])
    assert [scanner.push(piece) for piece in ["go s", "to", "w\n", "x"]] == [
        "go ",
        "",
        "stow",
        "\nx",
    ]


def test_the_earliest_of_several_stops_counts() -> None:
    assert _run(["one two three"], ["three", "two"]) == ("one ", True)


@pytest.mark.parametrize("stop", ["aab", "aaa"])
def test_overlapping_beginnings_are_found(stop: str) -> None:
    assert _run(list("xaa" + stop), [stop])[1]


def test_nothing_comes_after_the_stop() -> None:
    scanner = StopScanner(["."])
    assert (scanner.push("a.b"), scanner.push("c"), scanner.flush()) == ("a", "", "")
