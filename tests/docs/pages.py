"""The project's Markdown pages, taken apart: fenced blocks, links, tables, headings.

Comments before a block say what the tests do with it:

- ``<!-- run -->``: its commands (or its Python) are run, in the order of the page;
- ``<!-- file: NAME -->``: it is saved under that name first.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>[\w-]*)\s*$")
_COMMENT = re.compile(r"^\s*<!-- *(?P<text>.*?) *-->\s*$")
_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<target>[^)\s]+)\)")
_IMAGE = re.compile(r"!\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(?P<text>.+?) *$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """One fenced block.

    Attributes:
        line: Where its text begins.
        marks: The comments right before it.
    """

    page: Path
    line: int
    language: str
    text: str
    marks: tuple[str, ...]

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"

    @property
    def is_run(self) -> bool:
        return "run" in self.marks

    @property
    def file_name(self) -> str | None:
        names = [mark.removeprefix("file: ") for mark in self.marks if mark.startswith("file: ")]
        return names[0] if names else None

    def commands(self) -> list[str]:
        """The lines of a shell block, continued ones joined, comments and output left out."""
        joined = re.sub(r"\\\n\s*", " ", self.text)
        lines = [line.strip() for line in joined.splitlines()]
        if self.language == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        return [line for line in lines if line and not line.startswith("#")]


class Page:
    """One Markdown file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = path.read_text(encoding="utf-8")

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @cached_property
    def blocks(self) -> list[Block]:
        found: list[Block] = []
        marks: list[str] = []
        lines = self.text.splitlines()
        index = 0
        while index < len(lines):
            line = lines[index]
            if fence := _FENCE.match(line):
                start = index + 1
                index = next(
                    i for i in range(start, len(lines)) if lines[i].strip() == fence["fence"]
                )
                inner = [text.removeprefix(fence["indent"]) for text in lines[start:index]]
                found.append(
                    Block(
                        page=self.path,
                        line=start + 1,
                        language=fence["language"],
                        text="\n".join(inner) + "\n",
                        marks=tuple(marks),
                    )
                )
                marks = []
            elif comment := _COMMENT.match(line):
                marks.append(comment["text"])
            elif line.strip():
                marks = []
            index += 1
        return found

    @cached_property
    def prose(self) -> str:
        """The page without its fenced blocks."""
        kept, fence = [], ""
        for line in self.text.splitlines():
            match = _FENCE.match(line)
            if fence:
                fence = "" if line.strip() == fence else fence
            elif match:
                fence = match["fence"]
            else:
                kept.append(line)
        return "\n".join(kept)

    @property
    def links(self) -> list[str]:
        found = [*_LINK.finditer(self.prose), *_IMAGE.finditer(self.prose)]
        return [match["target"] for match in found]

    @property
    def anchors(self) -> set[str]:
        """What a forge makes of the headings."""
        headings = [_HEADING.match(line) for line in self.prose.splitlines()]
        texts = [match["text"].lower() for match in headings if match]
        return {re.sub(r"[^\w\- ]", "", text).replace(" ", "-") for text in texts}

    def between(self, name: str) -> str:
        """What lies between ``<!-- name -->`` and the next ``<!-- /… -->``."""
        _, found, rest = self.text.partition(f"<!-- {name} -->\n")
        assert found, f"{self.name}: no <!-- {name} -->"
        return rest.partition("<!-- /")[0].strip("\n")

    def table(self, name: str) -> dict[str, list[str]]:
        """A marked table: first cell (without backticks) to the other cells."""
        rows = [_cells(line) for line in self.between(name).splitlines() if line.startswith("|")]
        return {row[0].strip("`"): row[1:] for row in rows[2:]}


def _cells(line: str) -> list[str]:
    cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
    return [cell.strip().replace(r"\|", "|") for cell in cells]


def all_pages() -> list[Page]:
    """Every Markdown page that this project writes."""
    paths = [ROOT / "README.md", ROOT / "CHANGELOG.md"]
    paths += [ROOT / "runtime" / "README.md", ROOT / "bundles" / "README.md"]
    return [Page(path) for path in [*paths, *sorted((ROOT / "docs").rglob("*.md"))]]


def page(name: str) -> Page:
    """A page by its path in the repository."""
    return Page(ROOT / name)


def all_blocks(*languages: str) -> list[Block]:
    """Every fenced block of some languages."""
    return [block for p in all_pages() for block in p.blocks if block.language in languages]
