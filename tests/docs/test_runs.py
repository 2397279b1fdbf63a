"""What the pages tell a reader to run, runs."""

from pathlib import Path

import pytest

from tests.docs.conftest import REAL_BASE, TINY_BASE, follow
from tests.docs.pages import Page, all_pages, page

PAGES = [p for p in all_pages() if any(block.is_run for block in p.blocks)]


@pytest.mark.parametrize("to_follow", PAGES, ids=[p.name for p in PAGES])
def test_a_page_can_be_followed(to_follow: Page, reader_directory: Path) -> None:
    follow(to_follow, reader_directory, base=TINY_BASE)


@pytest.mark.real
def test_the_tutorial_can_be_followed_on_the_real_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    follow(page("docs/tutorial.md"), tmp_path, base=REAL_BASE)
