"""The page for the eyes and hands of everybody: axe-core, keyboard, themes, small screens."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.serving.browser.conftest import HOW
from tests.serving.browser.opened import Opened
from tests.serving.running import Running, running

THEMES = ["light", "dark"]
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@pytest.fixture(scope="session")
def axe() -> str:
    """axe-core's source, from a package that ships it."""
    spec = find_spec("axe_playwright_python")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(HOW.format("axe-core"))
    return (Path(spec.submodule_search_locations[0]) / "axe.min.js").read_text(encoding="utf-8")


def violations(opened: Opened, axe: str) -> list[str]:
    opened.page.evaluate(axe)
    found = opened.page.evaluate(
        "rules => axe.run(document, {runOnly: {type: 'tag', values: rules}})", RULES
    )
    assert len(found["passes"]) > 20  # it did look
    return [f"{v['id']}: {n['target']} {n['any']}" for v in found["violations"] for n in v["nodes"]]


@pytest.mark.parametrize("theme", THEMES)
def test_axe_finds_nothing_in_the_chat(
    theme: str, open_page: Any, server: Running, axe: str
) -> None:
    with open_page(server, color_scheme=theme) as opened:
        opened.wait_for_models()
        assert violations(opened, axe) == []
        opened.page.get_by_label("Max tokens").fill("3")
        opened.ask("Hello")
        opened.choose("tiny:beta")
        box = opened.page.get_by_label("Message", exact=True)
        box.fill("word " * 400)
        box.press("Enter")
        opened.page.locator(".failed").wait_for()  # it does not fit
        assert violations(opened, axe) == []


@pytest.mark.parametrize("theme", THEMES)
def test_axe_finds_nothing_beside_it(
    theme: str, open_page: Any, tiny_bundle: Path, axe: str
) -> None:
    with (
        running(tiny_bundle, api_key="correct-horse") as server,
        open_page(server, color_scheme=theme) as opened,
    ):
        opened.page.get_by_role("dialog").wait_for()
        assert violations(opened, axe) == []
        opened.page.get_by_role("textbox", name="API key").fill("correct-horse")
        opened.page.keyboard.press("Enter")
        opened.wait_for_models()
        opened.page.get_by_role("button", name="Compare").click()
        opened.page.get_by_label("Max tokens").fill("3")
        opened.ask("Hello")
        assert violations(opened, axe) == []


def focused(opened: Opened) -> str:
    return str(opened.page.evaluate("document.activeElement.id || document.activeElement.tagName"))


def test_everything_is_reached_by_tab_in_the_order_of_the_page(opened: Opened) -> None:
    found = []
    for _ in range(25):
        opened.page.keyboard.press("Tab")
        found.append(focused(opened))
    expected = [
        "A",  # skips to the message
        *("show-chat", "show-compare", "new-chat", "theme", "adapter", "log", "prompt", "send"),
        *("SUMMARY", "system", "temperature", "top-p", "max-tokens", "seed"),
        *("SUMMARY", "SUMMARY"),
    ]
    assert found[: len(expected)] == expected


def test_a_whole_chat_by_the_keyboard(opened: Opened) -> None:
    page = opened.page
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert focused(opened) == "prompt"
    page.keyboard.type("One")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Tab")
    assert focused(opened) == "send"
    page.keyboard.press("Enter")
    opened.until("document.querySelectorAll('.answer .meta:not(:empty)').length === 1")
    page.locator("#send").wait_for()
    assert focused(opened) == "send"  # it was Stop's for a while, and came back
    assert opened.asked[0]["messages"][0]["content"] == "One\ntwo"


def test_screen_readers_hear_whole_answers(opened: Opened) -> None:
    opened.page.get_by_label("Max tokens").fill("20")
    opened.ask("Hello")
    region = opened.page.locator("#announcer")
    assert (region.get_attribute("role"), region.get_attribute("aria-live")) == ("log", "polite")
    first, *middle, last = region.locator("p").all_inner_texts()
    assert first == "tiny (no adapter) answers."
    assert "".join("".join(middle).split()) == "".join(opened.answers()[0].split()) != ""
    assert last == opened.notes()[0]


def background(opened: Opened) -> str:
    return str(opened.page.evaluate("getComputedStyle(document.body).backgroundColor"))


def test_the_theme_is_the_system_s_or_the_one_chosen(open_page: Any, server: Running) -> None:
    found = {}
    for theme in THEMES:
        with open_page(server, color_scheme=theme) as opened:
            found[theme] = background(opened)
    assert found["light"] != found["dark"]
    with open_page(server, color_scheme="light") as opened:
        picker = opened.page.get_by_label("Theme")
        picker.select_option("dark")
        assert background(opened) == found["dark"]
        opened.page.reload()
        assert background(opened) == found["dark"]
        picker.select_option("")
        assert background(opened) == found["light"]
        assert opened.page.evaluate("localStorage.length") == 0


@pytest.mark.parametrize("width", [320, 390, 700, 1280])
def test_nothing_is_cut_off_at_any_width(width: int, open_page: Any, server: Running) -> None:
    with open_page(server, viewport={"width": width, "height": 700}) as opened:
        opened.wait_for_models()
        opened.page.get_by_label("Max tokens").fill("20")
        opened.ask("word" * 100)
        for view in ("Compare", "Chat"):
            opened.page.get_by_role("button", name=view, exact=True).click()
            wide = opened.page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width
            box = opened.page.get_by_role("button", name="Send").bounding_box()
            assert box["x"] + box["width"] <= width


@pytest.mark.parametrize("width", [390, 1280])
def test_the_end_of_a_long_chat_stays_in_view(width: int, open_page: Any, server: Running) -> None:
    with open_page(server, viewport={"width": width, "height": 700}) as opened:
        opened.wait_for_models()
        opened.page.get_by_label("Max tokens").fill("20")
        for text in ("one", "two", "three", "four"):
            opened.ask(text)
        opened.page.evaluate("scrollTo(0, 0)")
        last = opened.page.locator(".answer").last.bounding_box()
        box = opened.page.locator("#composer").bounding_box()
        assert last["y"] + last["height"] <= box["y"] + 1
        assert box["y"] + box["height"] <= 700
