"""A benchmark as one HTML page: its figures, and how the times behind them are spread."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final

from edgekit_runtime.bench_report import percentile

_WIDTH, _HEIGHT, _FOOT = 640, 160, 28
_BINS: Final = 48
_FEWEST: Final = 10  # of fewer times the table says all
# The slowest few of hundreds would squeeze all others into one bar.
_SHOWN_PERCENT: Final = 99.0
_STYLE: Final = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { padding: .2rem .8rem; text-align: left; border-bottom: 1px solid #8886 }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
td.worse { color: #c22 } td.better { color: #180 }
svg { max-width: 100%; height: auto } svg text { font-size: 12px; fill: currentColor }
rect { fill: #47a } line { stroke: currentColor } line.median { stroke: #c60; stroke-width: 2 }
.dim { opacity: .7 }
"""
_COMPARED: Final = ("then", "now", "ratio", "low", "high")
_NUMBERS: Final = {"median", "p95", "p99", *_COMPARED}
_VERDICTS: Final = {"better", "worse"}  # those with a colour
_PICTURES: Final = {
    "itl": "Between two tokens",
    "ttft": "Until the first token",
    "swap_resident": "Swap of a loaded adapter, until a prompt can go in",
    "swap_cold": "Swap of an adapter from disk, until a prompt can go in",
}


def bench_page(report: Mapping[str, Any]) -> str:
    """Write a benchmark as a page that loads nothing.

    Args:
        report: What ``bench --json`` writes, with ``comparison`` where there is one.
    """
    bundle = report["bundle"]
    title = f"{bundle['name']} {bundle['version']}, {report['target']}"
    title += f", adapter {report['adapter']}" if report["adapter"] else ""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        *(f'<p class="dim">{escape(line)}</p>' for line in _conditions(report)),
        _table(("figure", "median", "p95", "p99", "unit"), _figures(report), "Figures"),
    ]
    for key, heading in _PICTURES.items():
        values = report["latencies_ms"].get(key, ())
        if len(values) >= _FEWEST:
            parts += [f"<h2>{heading}</h2>", histogram(values, heading)]
    if comparison := report.get("comparison"):
        parts.append(_compared(comparison))
    return "\n".join([*parts, "</body></html>\n"])


def _conditions(report: Mapping[str, Any]) -> Iterator[str]:
    machine = report["machine"]
    flags = ", ".join(machine["flags"] or ["instruction sets unknown"])
    yield (
        f"{report['prompt_tokens']} prompt and {report['new_tokens']} new tokens, "
        f"{report['repeats']} answers after {report['warmup']}, {report['threads']} threads, "
        f"processes: {report['rounds']}"
    )
    yield f"{machine['cpu']}, {machine['cores']} cores ({flags}), {machine['os']} {machine['arch']}"
    yield ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    yield report["bundle"]["digest"]


def _figures(report: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    yield "load", f"{report['load_ms']:.0f}", "", "", "ms"
    yield "first token", *_percentiles(report["ttft_ms"]), "ms"
    yield "prefill", f"{report['prefill_tokens_per_s']:.0f}", "", "", "tokens/s"
    for one in report["prefill"]:
        name = f"prefill, {one['prompt_tokens']} tokens"
        yield name, f"{one['tokens_per_s']:.0f}", "", "", "tokens/s"
    yield "decode", f"{report['decode_tokens_per_s']:.1f}", "", "", "tokens/s"
    yield "between tokens", *_percentiles(report["itl_ms"]), "ms"
    if report["swap_ms"] is not None:
        for kind, words in (("resident", "loaded"), ("cold", "from disk")):
            yield f"swap, {words}", *_percentiles(report["swap_ms"][kind]), "ms"
            first = report["swap_first_token_ms"][kind]
            yield f"swap to first token, {words}", *_percentiles(first), "ms"
        ratio = f"{report['adapter_ratio']:.2f}"
        yield "adapter on / off", ratio, "", "", f"decode, {report['ratio_adapter']}"
    for key, name in (
        ("rss_bytes", "peak memory"),
        ("rss_private_bytes", "its own memory"),
        ("rss_mapped_bytes", "mapped files"),
    ):
        if report[key] is not None:
            yield name, f"{report[key] / 1e6:.0f}", "", "", "MB"
    if report["joules_per_token"] is not None:
        yield "energy", f"{report['joules_per_token']:.3f}", "", "", "J a token"


def _percentiles(told: Mapping[str, float]) -> tuple[str, str, str]:
    tail = f"{told['p99']:.2f}" if "p99" in told else ""
    return f"{told['p50']:.2f}", f"{told['p95']:.2f}", tail


def _table(heads: Sequence[str], rows: Iterator[tuple[str, ...]], caption: str) -> str:
    def cell(tag: str, head: str, text: str) -> str:
        kind = "n" if head in _NUMBERS else text if text in _VERDICTS else ""
        return f"<{tag}{f' class={kind}' if kind else ''}>{escape(text)}</{tag}>"

    lines = [f"<tr>{''.join(cell('th', head, head) for head in heads)}</tr>"]
    for row in rows:
        cells = zip(heads, row, strict=True)
        lines.append(f"<tr>{''.join(cell('td', head, text) for head, text in cells)}</tr>")
    return f"<h2>{caption}</h2>\n<table>\n" + "\n".join(lines) + "\n</table>"


def _compared(comparison: Mapping[str, Any]) -> str:
    rows = (
        (row["figure"], *(f"{row[key]:.4g}" for key in _COMPARED), row["verdict"])
        for row in comparison["figures"]
    )
    return _table(("figure", *_COMPARED, "verdict"), rows, "Compared")


def histogram(values: Sequence[float], what: str) -> str:
    """How often which time was measured, as SVG; the slowest percent is told, not drawn.

    Args:
        values: In milliseconds, at least one.
        what: Said to those who cannot see it.
    """
    low, high = min(values), percentile(values, _SHOWN_PERCENT)
    drawn = [value for value in values if value <= high]
    width = (high - low) / _BINS or 1.0
    counts = [0] * _BINS
    for value in drawn:
        counts[min(int((value - low) / width), _BINS - 1)] += 1
    tallest, middle = max(counts), percentile(values, 50)
    step, floor = _WIDTH / _BINS, _HEIGHT - _FOOT
    bars = [
        f'<rect x="{index * step:.1f}" y="{floor - height:.1f}" width="{step - 1:.1f}" '
        f'height="{height:.1f}"/>'
        for index, count in enumerate(counts)
        if (height := count / tallest * (floor - 16))
    ]
    at = min((middle - low) / (width * _BINS), 1) * _WIDTH
    side = "end" if at > _WIDTH / 2 else "start"
    n_left_out = len(values) - len(drawn)
    left_out = f", and {n_left_out} more up to {max(values):.1f} ms" if n_left_out else ""
    label = f"{what}: {len(values)} times, median {middle:.2f} ms{left_out}"
    return "\n".join(
        [
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">',
            *bars,
            f'<line x1="0" y1="{floor}" x2="{_WIDTH}" y2="{floor}"/>',
            f'<line class="median" x1="{at:.1f}" y1="0" x2="{at:.1f}" y2="{floor}"/>',
            f'<text x="{at + (6 if side == "start" else -6):.1f}" y="12" text-anchor="{side}">'
            f"median {middle:.2f} ms</text>",
            f'<text x="0" y="{_HEIGHT - 8}">{low:.2f} ms</text>',
            f'<text x="{_WIDTH}" y="{_HEIGHT - 8}" text-anchor="end">{high:.2f} ms</text>',
            "</svg>",
            f'<p class="dim">{escape(label)}</p>',
        ]
    )
