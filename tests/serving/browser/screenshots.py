"""Pictures of the web page for docs/images: ``python -m tests.serving.browser.screenshots BUNDLE``.

Takes the demo's bundle, and what `make browser` installs.
"""

import argparse
from pathlib import Path
from typing import Any

from edgekit_runtime.serving.settings import RouteSettings
from tests.serving.browser.conftest import chromium
from tests.serving.browser.opened import Opened
from tests.serving.running import Running, running

IMAGES = Path(__file__).parents[3] / "docs" / "images"
DESK = {"width": 1120, "height": 760}
PHONE = {"width": 390, "height": 760}


def chat(opened: Opened) -> None:
    """A conversation with the base, then each message to the adapter that is picked for it."""
    opened.page.get_by_label("Max tokens").fill("40")
    opened.ask("Write one sentence about a lighthouse.")
    opened.page.get_by_label("Max tokens").fill("")
    opened.choose("demo:auto")
    opened.ask("The bus broke down, and it rains")
    opened.ask("Call with Jane on Monday at 10")
    opened.page.wait_for_timeout(2500)  # until the chart has something to show


def compare(opened: Opened) -> None:
    """Two adapters on one prompt."""
    opened.page.get_by_role("button", name="Compare").click()
    opened.choose("demo:tone", "Left")
    opened.choose("demo:appointment", "Right")
    opened.ask("Lunch with Ada on Friday at noon, I cannot wait!")


def take(browser: Any, server: Running, folder: Path) -> None:
    """Take every picture."""
    for name, act, size, scheme in (
        ("page-chat", chat, DESK, "light"),
        ("page-compare", compare, DESK, "dark"),
        ("page-phone", chat, PHONE, "dark"),
    ):
        with browser.new_context(viewport=size, color_scheme=scheme) as context:
            opened = Opened(context.new_page(), server)
            opened.wait_for_models()
            act(opened)
            opened.check()
            opened.page.evaluate("scrollTo(0, 0)")
            opened.page.screenshot(path=folder / f"{name}.png")


def main() -> None:
    """Serve the bundle and take the pictures."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("folder", type=Path, nargs="?", default=IMAGES)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    options = {"executable_path": chromium(), "args": ["--no-sandbox", "--disable-dev-shm-usage"]}
    serving = running(given.bundle, route=RouteSettings(), threads=None)
    with serving as server, sync_playwright() as started:
        browser = started.chromium.launch(**options)
        take(browser, server, given.folder)
        browser.close()


if __name__ == "__main__":
    main()
