"""The page as a test drives it."""

import json
from typing import Any

from tests.serving.running import Running, eventually

CHAT = "/v1/chat/completions"
PAGE_PATIENCE_MS = 60_000  # before a test gives up on something that the page must show


class Opened:
    """A tab with the page.

    Args:
        page: Playwright's.
        server: Whose page it is.
    """

    def __init__(self, page: Any, server: Running) -> None:
        self.page = page
        self.server = server
        self.asked: list[dict[str, Any]] = []
        self._wrong: list[str] = []
        page.set_default_timeout(PAGE_PATIENCE_MS)
        page.on("console", self._note_console)
        page.on("pageerror", lambda error: self._wrong.append(str(error)))
        page.on("request", self._note_request)
        page.goto(server.url)

    def wait_for_models(self) -> None:
        self.page.locator("#adapter option").first.wait_for(state="attached")

    def ask(self, text: str) -> None:
        """Send a message by the keyboard, and wait until it is answered."""
        self.start(text)
        self.page.locator("#send").wait_for()

    def start(self, text: str) -> None:
        """Send a message by the keyboard."""
        box = self.page.get_by_label("Message", exact=True)
        box.fill(text)
        box.press("Enter")
        self.until("document.getElementById('prompt').value === ''")

    def choose(self, model: str, picker: str = "Adapter") -> None:
        self.page.get_by_label(picker, exact=True).select_option(model)

    def until(self, expression: str) -> None:
        """Wait until a JavaScript expression holds.

        Playwright's `wait_for_function` evaluates it in the page, where the policy forbids that.
        """
        eventually(lambda: bool(self.page.evaluate(expression)))

    def answers(self) -> list[str]:
        """The texts of the answers that are shown."""
        found: list[str] = self.page.locator(
            "section:not([hidden]) .answer .text"
        ).all_inner_texts()
        return found

    def notes(self) -> list[str]:
        """What stands below the answers."""
        found: list[str] = self.page.locator(
            "section:not([hidden]) .answer .meta"
        ).all_inner_texts()
        return found

    def check(self) -> None:
        """Nothing went wrong in the page, and nothing was asked of anybody else."""
        assert self._wrong == []

    def _note_console(self, message: Any) -> None:
        # The browser itself notes answers with an error status, which some tests provoke.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self._wrong.append(message.text)

    def _note_request(self, request: Any) -> None:
        if not request.url.startswith(f"{self.server.url}/"):
            self._wrong.append(f"asked for {request.url}")
        if request.url.endswith(CHAT):
            self.asked.append(json.loads(request.post_data))
