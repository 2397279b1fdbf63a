"""What the page says when something goes wrong, and how it asks for a key."""

import threading
from pathlib import Path
from typing import Any

import httpx2

from tests.serving.running import PATIENCE_S, Running, eventually, running

KEY = "correct-horse"


def test_a_prompt_that_is_too_long(opened: Any) -> None:
    text = "word " * 2000
    opened.page.get_by_label("Message", exact=True).fill(text)
    opened.page.get_by_role("button", name="Send").click()
    opened.page.locator(".failed").wait_for()
    (note,) = opened.notes()
    assert "expected at most 511 tokens" in note
    assert note.endswith("Start a new chat, or shorten the message.")
    opened.until("document.getElementById('prompt').value !== ''")
    box = opened.page.get_by_label("Message", exact=True)
    assert box.input_value() == text.strip()  # to be shortened


def test_the_worker_dies_in_an_answer(tiny_bundle: Path, open_page: Any) -> None:
    with running(tiny_bundle) as server, open_page(server) as opened:
        opened.wait_for_models()
        opened.page.get_by_label("Max tokens").fill("3")
        with server.frozen_worker():
            opened.start("Hello")
            eventually(lambda: server.service.turns.n_running == 1)
            server.kill_worker()
            opened.page.locator(".failed").wait_for()
        (note,) = opened.notes()
        assert note.startswith("The worker process died while it answered")
        assert "ask again" in note
        eventually(lambda: server.service.supervisor.is_ready)
        opened.page.get_by_role("button", name="Send").click()  # the text is there again
        opened.until("document.querySelectorAll('.answer').length === 2")
        opened.page.locator("#send").wait_for()
        assert "3 tokens" in opened.notes()[1]


def test_the_server_is_full(tiny_bundle: Path, open_page: Any) -> None:
    with running(tiny_bundle, parallel=1, max_waiting=0) as server, open_page(server) as opened:
        opened.wait_for_models()
        asked = {"model": "tiny", "prompt": "a", "max_tokens": 3}
        with server.frozen_worker():
            url = f"{server.url}/v1/completions"
            other = threading.Thread(
                target=lambda: httpx2.post(url, json=asked, timeout=PATIENCE_S)
            )
            other.start()
            eventually(lambda: server.service.turns.n_running == 1)
            opened.page.get_by_label("Message", exact=True).fill("Hello")
            opened.page.get_by_role("button", name="Send").click()
            opened.page.locator(".failed").wait_for()
            assert "Try again in 1 s." in opened.notes()[0]
        other.join(PATIENCE_S)


def test_the_server_is_gone(tiny_bundle: Path, open_page: Any) -> None:
    with running(tiny_bundle) as server, open_page(server) as opened:
        opened.wait_for_models()
        server.stop()
        status = opened.page.get_by_role("status")
        status.get_by_text("The server does not answer.").wait_for()
        opened.page.get_by_label("Message", exact=True).fill("Hello")
        opened.page.get_by_role("button", name="Send").click()
        opened.page.locator(".failed").wait_for()
        assert "Start it again" in opened.notes()[0]


def test_the_page_asks_for_the_key_and_keeps_it_for_the_tab(
    tiny_bundle: Path, open_page: Any
) -> None:
    with running(tiny_bundle, api_key=KEY) as server, open_page(server) as opened:
        page = opened.page
        dialog = page.get_by_role("dialog", name="This server asks for an API key")
        dialog.wait_for()
        assert "tiny" not in page.content()
        dialog.get_by_label("API key").fill("wrong-horse")
        page.keyboard.press("Enter")
        dialog.get_by_role("alert").get_by_text("Wrong API key").wait_for()
        dialog.get_by_label("API key").fill(KEY)
        page.keyboard.press("Enter")
        opened.wait_for_models()
        dialog.wait_for(state="hidden")
        page.get_by_label("Max tokens").fill("3")
        opened.ask("Hello")
        assert "3 tokens" in opened.notes()[0]
        page.reload()
        opened.wait_for_models()
        kept = "JSON.stringify([{...sessionStorage}, {...localStorage}, document.cookie])"
        assert page.evaluate(kept) == f'[{{"edgekit-key":"{KEY}"}},{{}},""]'
        page.get_by_role("button", name="API key").click()
        page.get_by_role("button", name="Forget it").click()
        dialog.wait_for()
        assert page.evaluate("sessionStorage.length") == 0


def test_a_page_without_javascript_says_so(open_page: Any, server: Running) -> None:
    with open_page(server, java_script_enabled=False) as opened:
        assert "needs JavaScript" in opened.page.locator("body").inner_text()
