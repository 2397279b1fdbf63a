"""The documentation as a site: it builds without a warning, and fetches nothing from elsewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, all_pages

pytest.importorskip("mkdocs", reason="mkdocs-material is not installed")
pytest.importorskip("material", reason="mkdocs-material is not installed")
_FETCHED = re.compile(r"""<(?:script|link|img)[^>]+(?:src|href)="(https?://[^"]+)""")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "WARNING  -" not in done.stderr
    return output


def test_every_page_is_there_and_in_the_navigation(site: Path) -> None:
    start = (site / "index.html").read_text(encoding="utf-8")
    for page in all_pages():
        if page.path.parent.name != "docs" and "docs" not in page.path.parts:
            continue
        name = page.path.relative_to(ROOT / "docs").with_suffix("")
        built = site / "index.html" if name.name == "index" else site / name / "index.html"
        assert built.is_file(), name
        if name.name != "index" and name.parts[0] in ("how-to", "tutorial", "concepts"):
            assert f'href="{name.as_posix()}/"' in start, name


def test_what_pages_link_to_outside_docs_is_copied(site: Path) -> None:
    copied = (site / "repository" / "targets" / "cpu.yaml").read_bytes()
    assert copied == (ROOT / "targets" / "cpu.yaml").read_bytes()
    targets = (site / "reference" / "targets" / "index.html").read_text(encoding="utf-8")
    assert 'href="../../repository/targets/cpu.yaml"' in targets


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        found = _FETCHED.findall(page.read_text(encoding="utf-8"))
        assert not [url for url in found if "mkdocs.org" not in url], page
