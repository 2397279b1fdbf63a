"""Two adapters side by side."""

from openai import OpenAI

from tests.serving.browser.opened import Opened
from tests.serving.browser.test_chat import said, shown, user
from tests.serving.running import Running


def compare(opened: Opened, left: str, right: str) -> None:
    opened.page.get_by_role("button", name="Compare").click()
    opened.choose(left, "Left")
    opened.choose(right, "Right")


def test_both_answer_the_same_prompt(opened: Opened, client: OpenAI) -> None:
    opened.page.get_by_label("Max tokens").fill("8")
    opened.page.get_by_label("Seed").fill("5")
    compare(opened, "tiny", "tiny:beta")
    opened.ask("Hello")
    assert [asked["model"] for asked in opened.asked] == ["tiny", "tiny:beta"]
    same = [{k: v for k, v in asked.items() if k != "model"} for asked in opened.asked]
    assert same[0] == same[1]
    expected = [
        said(client, asked["model"], [user("Hello")], max_tokens=8) for asked in opened.asked
    ]
    assert [shown(text) for text in opened.answers()] == [shown(text) for text in expected]


def test_the_chat_is_not_part_of_it(opened: Opened) -> None:
    opened.page.get_by_label("Max tokens").fill("3")
    opened.ask("in the chat")
    compare(opened, "tiny", "tiny:alpha")
    opened.ask("beside it")
    assert all(asked["messages"] == [user("beside it")] for asked in opened.asked[1:])
    opened.page.get_by_role("button", name="Chat", exact=True).click()
    assert len(opened.answers()) == 1


def test_an_error_of_one_leaves_the_other(opened: Opened, server: Running) -> None:
    opened.page.get_by_label("Max tokens").fill("3")
    server.service.models.add("gone", is_single_turn=False)
    opened.page.evaluate("window.dispatchEvent(new Event('focus'))")
    opened.page.locator("#left option[value='tiny:gone']").wait_for(state="attached")
    compare(opened, "tiny:gone", "tiny")
    server.service.models.remove("gone")
    opened.ask("Hello")
    wrong, right = opened.notes()
    assert "There is no model 'tiny:gone'" in wrong
    assert "Choose another adapter." in wrong
    assert "3 tokens" in right


def test_stop_ends_both(opened: Opened, server: Running) -> None:
    compare(opened, "tiny", "tiny:beta")
    with server.frozen_worker():
        opened.start("Hello")
        opened.page.get_by_role("button", name="Stop").click()
        opened.page.locator("#send").wait_for()
    assert opened.notes() == ["Stopped.", ""]
    assert len(opened.asked) == 1
