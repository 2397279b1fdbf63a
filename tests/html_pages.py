"""What holds for every page that edgekit writes."""

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

_ALONE = {"meta", "br"}  # tags that are not closed


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.append(tag)
        if tag not in _ALONE:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def tags_of(page: str) -> list[str]:
    """The tags of a page that is whole, and loads and runs nothing."""
    parsed = _Page()
    parsed.feed(page)
    parsed.close()
    assert parsed.open == []
    assert not {"script", "link", "img", "image", "iframe"} & set(parsed.seen)
    assert not re.search(r'(?:src|href)="(?!#)|url\((?!#)|@import', page)
    for svg in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL):
        ElementTree.fromstring(svg)
    return parsed.seen
