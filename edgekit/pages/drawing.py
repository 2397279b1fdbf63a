"""Matplotlib's figures as SVG text that stands in a page by itself."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

BLUE, RED = "#33658a", "#c8553d"
_MAX_CHARS = 28


def new_figure(width: float, height: float) -> tuple[Any, Any]:
    """A figure of so many inches, and its axes."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def draw_bars(values: Mapping[str, float], xlabel: str, form: str = "{:.1f}") -> str:
    """One bar for each value, its figure behind it; nothing where there is none."""
    if not values:
        return ""
    figure, axes = new_figure(7, 0.7 + 0.35 * len(values))
    bars = axes.barh(range(len(values)), list(values.values()), height=0.7, color=BLUE)
    axes.bar_label(bars, labels=[form.format(value) for value in values.values()], padding=4)
    name_ticks(axes.yaxis, list(values))
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.margins(x=0.12)
    axes.set_xlabel(xlabel)
    return svg_text(figure)


def name_ticks(axis: Any, names: Sequence[str], **text: Any) -> None:
    """Write names as they are: a dollar sign begins no formula."""
    short = [n if len(n) <= _MAX_CHARS else n[: _MAX_CHARS - 1] + "…" for n in map(_plain, names)]
    axis.set_ticks(range(len(short)), labels=short, parse_math=False, **text)


def _plain(name: str) -> str:
    return "".join(char if char.isprintable() else " " for char in name)


def svg_text(figure: Any) -> str:
    """The same picture gives the same text."""
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "edgekit", "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    _, tag, rest = text.getvalue().partition("<svg")
    return tag + rest
