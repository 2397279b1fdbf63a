"""The page's conversation in a real browser, against the real server."""

import json
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from tests.serving.browser.conftest import Open
from tests.serving.browser.opened import CHAT, Opened
from tests.serving.running import Running, eventually, running
from tests.serving.test_auto import EVERY, EXAMPLES

HTML = "<img src=x onerror=\"document.title='owned'\"><b>bold</b>"


def said(client: OpenAI, model: str, messages: list[Any], **options: Any) -> str:
    """What the server answers to anybody else, as a page shows it."""
    answer = client.chat.completions.create(model=model, messages=messages, **options)
    return answer.choices[0].message.content or ""


def shown(text: str) -> str:
    """A text without what a browser's `innerText` does to spaces at its ends."""
    return text.strip()


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def test_a_conversation(opened: Opened, client: OpenAI) -> None:
    opened.page.get_by_label("Max tokens").fill("12")
    opened.ask("Hello there")
    opened.ask("And now?")
    first = said(client, "tiny", [user("Hello there")], max_tokens=12)
    history = [user("Hello there"), {"role": "assistant", "content": first}, user("And now?")]
    second = said(client, "tiny", history, max_tokens=12)
    assert opened.asked[1]["messages"] == history
    assert [shown(text) for text in opened.answers()] == [shown(first), shown(second)]
    assert "12 tokens · first after" in opened.notes()[0]
    assert "cut off at its longest length" in opened.notes()[0]


def test_another_adapter_in_the_middle_of_a_conversation(opened: Opened, client: OpenAI) -> None:
    opened.page.get_by_label("Max tokens").fill("6")
    opened.ask("Hello")
    opened.choose("tiny:beta")
    assert "reads the whole conversation" in opened.page.locator("#adapter-note").inner_text()
    opened.ask("More")
    assert opened.asked[1]["model"] == "tiny:beta"
    assert len(opened.asked[1]["messages"]) == 3
    swap = opened.page.locator(".swap").inner_text()
    assert swap.startswith("beta answers from here.")
    assert "nothing that another adapter computed is used" in swap
    beta = said(client, "tiny:beta", opened.asked[1]["messages"], max_tokens=6)
    assert shown(opened.answers()[1]) == shown(beta)


def test_a_single_turn_skill_is_explained(opened: Opened) -> None:
    opened.choose("tiny:alpha")
    note = opened.page.locator("#adapter-note").inner_text()
    assert "your last message fills its own template" in note


def test_settings_are_sent_and_empty_ones_are_not(opened: Opened) -> None:
    opened.ask("a")
    assert set(opened.asked[0]) == {"model", "messages", "stream", "stream_options"}
    page = opened.page
    page.get_by_label("System prompt").fill("Be brief.")
    for label, value in {
        "Temperature": "0.7",
        "Top p": "0.9",
        "Max tokens": "5",
        "Seed": "3",
    }.items():
        page.get_by_label(label).fill(value)
    opened.ask("b")
    sent = opened.asked[1]
    assert sent["messages"][0] == {"role": "system", "content": "Be brief."}
    found = {name: sent[name] for name in ("temperature", "top_p", "max_tokens", "seed")}
    assert found == {"temperature": 0.7, "top_p": 0.9, "max_tokens": 5, "seed": 3}


@pytest.mark.parametrize(
    ("label", "value"),
    [("Temperature", "-1"), ("Top p", "2"), ("Max tokens", "0"), ("Seed", "1.5")],
)
def test_a_setting_that_makes_no_sense_is_not_sent(label: str, value: str, opened: Opened) -> None:
    opened.page.get_by_label(label).fill(value)
    box = opened.page.get_by_label("Message", exact=True)
    box.fill("hello")
    box.press("Enter")
    focused = "document.activeElement.labels[0].textContent"
    opened.until(f"{focused} === {label!r}")
    assert box.input_value() == "hello"
    assert opened.asked == []


@pytest.mark.parametrize("way", ["button", "Escape"])
def test_an_answer_can_be_stopped(way: str, opened: Opened, server: Running) -> None:
    before = server.metric("edgekit_cancelled_total")
    with server.frozen_worker():
        opened.start("Hello")
        if way == "button":
            opened.page.get_by_role("button", name="Stop").click()
        else:
            opened.page.keyboard.press("Escape")
        opened.page.locator("#send").wait_for()
        assert opened.notes() == ["Stopped."]
        eventually(lambda: server.metric("edgekit_cancelled_total") == before + 1)
    opened.page.get_by_label("Max tokens").fill("3")
    opened.ask("Hello again")
    assert opened.asked[-1]["messages"] == [user("Hello again")]  # the other one has no answer
    assert "3 tokens" in opened.notes()[1]


def test_a_new_chat_forgets(opened: Opened) -> None:
    opened.page.get_by_label("Max tokens").fill("3")
    opened.ask("one")
    opened.page.get_by_role("button", name="New chat").click()
    assert opened.answers() == []
    opened.ask("two")
    assert opened.asked[1]["messages"] == [user("two")]


def test_what_is_said_is_never_html(opened: Opened) -> None:
    def make_it_say_html(route: Any) -> None:
        asked = json.loads(route.request.post_data) | {"structured_outputs": {"choice": [HTML]}}
        route.continue_(post_data=json.dumps(asked))

    opened.page.route(f"**{CHAT}", make_it_say_html)
    opened.ask(HTML)
    assert opened.answers() == [HTML]
    assert opened.page.locator("#log .said .text").inner_text() == HTML
    assert opened.page.locator("#log img, #log b").count() == 0
    assert opened.page.title() == "tiny · edgekit"


def test_an_answer_is_copied(open_page: Any, server: Running) -> None:
    with open_page(server, permissions=["clipboard-read", "clipboard-write"]) as opened:
        opened.wait_for_models()
        opened.page.get_by_label("Max tokens").fill("6")
        opened.ask("Hello")
        copy = opened.page.get_by_role("button", name="Copy the answer")
        copy.click()
        opened.until("document.querySelector('.actions').innerText === 'Copied'")
        copied = opened.page.evaluate("navigator.clipboard.readText()")
        assert shown(copied) == shown(opened.answers()[0]) != ""


def test_where_copying_is_not_allowed_the_answer_is_selected(opened: Opened) -> None:
    opened.page.evaluate("delete Navigator.prototype.clipboard")
    opened.page.get_by_label("Max tokens").fill("6")
    opened.ask("Hello")
    opened.page.get_by_role("button", name="Copy the answer").click()
    opened.until("getSelection().toString() !== ''")
    selected = opened.page.evaluate("getSelection().toString()")
    assert shown(selected) == shown(opened.answers()[0])


def test_times_and_memory_are_drawn(opened: Opened, server: Running) -> None:
    opened.page.get_by_label("Max tokens").fill("40")
    opened.ask("Hello")
    chart = opened.page.get_by_role("img", name="Memory: now")
    chart.wait_for()
    told = chart.get_attribute("aria-label")
    n_bytes = server.metric("edgekit_worker_resident_bytes")
    assert int(told.split()[2]) == pytest.approx(n_bytes / 1e6, rel=0.2)
    for name in ("Time to first token: now", "Tokens per second: now"):
        assert opened.page.get_by_role("img", name=name).count() == 1
    drawn = opened.page.locator("#charts rect, #charts polyline")
    assert drawn.count() == 3


def test_an_adapter_that_is_loaded_meanwhile_can_be_chosen(opened: Opened, server: Running) -> None:
    server.service.models.add("guest", is_single_turn=False)
    try:
        opened.page.evaluate("window.dispatchEvent(new Event('focus'))")
        opened.page.locator("#adapter option[value='tiny:guest']").wait_for(state="attached")
    finally:
        server.service.models.remove("guest")


def test_the_picked_adapter_is_named(open_page: Open, tiny_bundle: Path) -> None:
    with running(tiny_bundle, route=EVERY) as server, open_page(server) as opened:
        opened.wait_for_models()
        opened.choose("tiny:auto")
        note = opened.page.locator("#adapter-note")
        assert "whose examples are most alike" in note.inner_text()
        opened.page.get_by_label("Max tokens").fill("3")
        opened.ask(EXAMPLES["beta"][0])
        assert opened.asked[-1]["model"] == "tiny:auto"
        title = opened.page.locator(".answer .who").last
        assert title.inner_text() == "beta, picked for this message"
