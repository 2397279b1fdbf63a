"""A build as one HTML page: where the bytes are, and what the parity gate found."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit.pages.drawing import BLUE, RED, draw_bars, name_ticks, new_figure, svg_text
from edgekit.pages.rendering import render_page

_TEMPLATE = Path(__file__).with_name("page.html.j2")
# What is drawn of the gate, in nats: the figure's name to its words and colour.
_DRAWN = {
    "shipping_mean_kl": ("as it ships, against PyTorch", BLUE),
    "effect_kl": ("the adapter's effect", RED),
}


def build_page(told: Mapping[str, Any]) -> str:
    """Write a build as a page.

    Args:
        told: What ``edgekit build --json`` writes.
    """
    sizes = {name: n_bytes / 1e6 for name, n_bytes in told["sizes"].items()}
    return render_page(
        _TEMPLATE,
        told=told,
        sizes=draw_bars(dict(sorted(sizes.items(), key=lambda one: -one[1])), "MB"),
        times=draw_bars({name: one["seconds"] for name, one in told["targets"].items()}, "s"),
        parity={name: (figures, _draw_kl(figures)) for name, figures in told["parity"].items()},
        costs=told.get("quantization", {}),
    )


def _draw_kl(by_adapter: Mapping[str, Mapping[str, Any]]) -> str:
    """How far apart the forms of each adapter are; nothing where every distance is zero."""
    found = {
        key: [(place, one[key]) for place, one in enumerate(by_adapter.values()) if one[key]]
        for key in _DRAWN
    }
    if not any(found.values()):
        return ""
    figure, axes = new_figure(7, 1.0 + 0.4 * len(by_adapter))
    for key, points in found.items():
        words, colour = _DRAWN[key]
        if points:
            places, values = zip(*points, strict=True)
            axes.plot(values, places, "o", color=colour, label=words)
    name_ticks(axes.yaxis, list(by_adapter))
    axes.set_ylim(len(by_adapter) - 0.5, -0.5)
    axes.set_xscale("log")
    axes.set_xlabel("KL divergence, nats a token")
    axes.grid(axis="x", alpha=0.25)
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return svg_text(figure)
