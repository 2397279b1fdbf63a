"""Fills a page's template, which extends ``frame.html.j2``; texts in it are never obeyed."""

from pathlib import Path
from typing import Any

_FRAME = Path(__file__).parent


def render_page(template: Path, **values: Any) -> str:
    """Write a page.

    Args:
        template: A Jinja2 file that begins with ``{% extends "frame.html.j2" %}``.
        **values: What it names. Pictures go in by ``| safe``, everything else is escaped.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([template.parent, _FRAME]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template.name).render(**values)
