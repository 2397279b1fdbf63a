"""What MkDocs asks while it builds the site: the navigation, and linked files beside docs/.

The pages are written to be read in the repository. Links that leave docs/ lead to copies here.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
COPIES = "repository"
_LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")
_ENTRY = re.compile(r"\[([^\]]+)\]\(([^)#]+)\)")


def navigation(index: str) -> list[dict[str, Any]]:
    """Sections and their pages, as ``docs/index.md`` lists them."""
    sections: list[dict[str, Any]] = [{"Home": "index.md"}]
    for part in index.split("\n## ")[1:]:
        title, _, body = part.partition("\n")
        pages = [
            {name.replace("`", ""): path}
            for name, path in _ENTRY.findall(body)
            if path.endswith(".md") and not path.startswith("..")
        ]
        if pages:
            sections.append({title: pages})
    return sections


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Take the navigation from the index."""
    index = Path(config.docs_dir, "index.md").read_text(encoding="utf-8")
    config.nav = navigation(index)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages link to outside docs/."""
    wanted = set()
    for file in files.documentation_pages():
        wanted |= {outside for outside in map(_outside, _targets(file)) if outside is not None}
    for path in sorted(wanted):
        # A README of the repository is shown as it is written; its links are the repository's.
        name = f"{COPIES}/{path}" + (".txt" if path.endswith(".md") else "")
        files.append(File.generated(config, name, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Lead the links that leave docs/ to the copies."""

    def changed(match: re.Match[str]) -> str:
        outside = _outside((page.file.src_uri, match[1]))
        if outside is None:
            return match[0]
        name = f"{COPIES}/{outside}" + (".txt" if outside.endswith(".md") else "")
        up = posixpath.relpath(name, posixpath.dirname(page.file.src_uri) or ".")
        return f"]({up})"

    return _LINK.sub(changed, markdown)


def _targets(file: File) -> list[tuple[str, str]]:
    return [(file.src_uri, match[1]) for match in _LINK.finditer(file.content_string)]


def _outside(link: tuple[str, str]) -> str | None:
    """The path from the repository's root of a link that leaves docs/."""
    page, target = link
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
    return None if path.startswith("docs/") or path == "docs" else path
