"""Pictures of an evaluation, as SVG text that stands in a page by itself."""

from collections.abc import Mapping, Sequence

import numpy as np

from edgekit.evaluating.class_metrics import OTHER, Confusion
from edgekit.evaluating.rows import AnsweredRow
from edgekit.evaluating.sampling import Interval
from edgekit.pages.drawing import BLUE, RED, name_ticks, new_figure, svg_text

_MAX_LABELS = 40
_MAX_COUNTED = 15


def draw_scores(
    scores: Mapping[str, float], intervals: Mapping[str, Interval | None], xlabel: str
) -> str:
    """Each score as a point with its interval; nothing where there is no finite one."""
    shown = {name: value for name, value in scores.items() if np.isfinite(value)}
    if not shown:
        return ""
    figure, axes = new_figure(7, 0.7 + 0.4 * len(shown))
    for place, (name, value) in enumerate(shown.items()):
        low, high = intervals[name] or (value, value)
        axes.plot([low, high], [place, place], color=BLUE, linewidth=2)
        axes.plot([value], [place], "o", color=RED)
    name_ticks(axes.yaxis, list(shown))
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlabel(xlabel)
    axes.grid(axis="x", alpha=0.25)
    return svg_text(figure)


def draw_confusion(confusion: Confusion) -> str:
    """Share of each reference's rows by prediction; of many labels, those most confused."""
    counts = np.array(confusion.counts)
    n_labels = len(confusion.labels)
    wrong = counts.sum(axis=1) - np.diag(counts[:, :n_labels])
    taken = counts[:, :n_labels].sum(axis=0) - np.diag(counts[:, :n_labels])
    kept = sorted(np.argsort(-(wrong + taken), kind="stable")[:_MAX_LABELS].tolist())
    shown = counts[np.ix_(kept, [*kept, n_labels])]
    shares = shown / np.maximum(counts[kept].sum(axis=1, keepdims=True), 1)
    names = [confusion.labels[index] for index in kept]
    size = 2.2 + 0.32 * len(names)
    figure, axes = new_figure(size + 0.8, size)
    edges = np.arange(len(names) + 2) - 0.5  # drawn as shapes: a page may load no image
    axes.pcolormesh(edges, edges[:-1], shares, cmap="Blues", vmin=0, vmax=1)
    axes.invert_yaxis()
    axes.set_aspect("equal")
    if len(names) <= _MAX_COUNTED:
        for (row, column), count in np.ndenumerate(shown):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour)
    name_ticks(axes.yaxis, names)
    name_ticks(axes.xaxis, [*names, OTHER], rotation=90)
    axes.set(xlabel="prediction", ylabel="reference")
    return svg_text(figure)


def draw_reliability(rows: Sequence[AnsweredRow]) -> str:
    """How often an answer is right against how likely it was said to be, in tenths."""
    stated = np.array([row.probability for row in rows if row.probability is not None])
    right = np.array([_is_right(row) for row in rows if row.probability is not None])
    if not len(stated):
        return ""
    figure, axes = new_figure(4.6, 4)
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle="--")
    tenths = np.minimum((stated * 10).astype(int), 9)
    for tenth in np.unique(tenths):
        chosen = tenths == tenth
        size = 20 + 180 * chosen.mean()
        axes.scatter([stated[chosen].mean()], [right[chosen].mean()], s=size, color=BLUE)
    axes.set(xlabel="stated probability", ylabel="share right", xlim=(0, 1.02), ylim=(-0.02, 1.02))
    axes.grid(alpha=0.25)
    return svg_text(figure)


def _is_right(row: AnsweredRow) -> bool:
    return (row.prediction or "").strip() == row.reference.strip()
