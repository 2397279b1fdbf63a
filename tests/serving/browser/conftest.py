"""A real headless Chromium that opens the server's page, and watches what it does there."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from tests.serving.browser.opened import Opened
from tests.serving.running import Running

HOW = "no {} here; `make browser` installs Playwright, and says how to get Chromium"
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")

Open = Callable[..., AbstractContextManager[Opened]]


def chromium() -> str:
    """The system's Chromium; skips the test where there is none."""
    found = os.environ.get("EDGEKIT_TEST_CHROMIUM") or next(
        filter(None, map(shutil.which, NAMES)), ""
    )
    if not found:
        pytest.skip(HOW.format("Chromium"))
    return found


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    """Chromium; closed with the last test here, since nobody else can run asyncio meanwhile."""
    api = pytest.importorskip("playwright.sync_api", reason=HOW.format("Playwright"))
    program = chromium()
    # In containers Chromium's own sandbox and shared memory are not to be had.
    options = ["--no-sandbox", "--disable-dev-shm-usage"]
    with api.sync_playwright() as started:
        found = started.chromium.launch(executable_path=program, args=options)
        yield found
        found.close()


@pytest.fixture
def open_page(browser: Any) -> Open:
    """Opens the page of a server in a tab of its own."""

    @contextmanager
    def opening(server: Running, **options: Any) -> Iterator[Opened]:
        with browser.new_context(**options) as context:
            opened = Opened(context.new_page(), server)
            yield opened
            opened.check()

    return opening


@pytest.fixture
def opened(open_page: Open, server: Running) -> Iterator[Opened]:
    """The page of the shared server, with its models listed."""
    with open_page(server) as found:
        found.wait_for_models()
        yield found
