"""Counters of the server, in Prometheus' text format.

Source: "Text-based format", prometheus.io/docs/instrumenting/exposition_formats.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

_BUCKETS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

Labels = tuple[tuple[str, str], ...]


class Histogram:
    """Durations in seconds, counted by their size."""

    def __init__(self) -> None:
        self._counts = [0] * len(_BUCKETS_S)
        self._n = 0
        self._sum_s = 0.0

    def add(self, seconds: float) -> None:
        """Count a duration."""
        self._n += 1
        self._sum_s += seconds
        for index, bound in enumerate(_BUCKETS_S):
            self._counts[index] += seconds <= bound

    def lines(self, name: str) -> list[str]:
        """Its samples."""
        buckets = [
            f'{name}_bucket{{le="{bound:g}"}} {count}'
            for bound, count in zip(_BUCKETS_S, self._counts, strict=True)
        ]
        last = [f'{name}_bucket{{le="+Inf"}} {self._n}', f"{name}_sum {self._sum_s:.6f}"]
        return [*buckets, *last, f"{name}_count {self._n}"]


@dataclass(kw_only=True, slots=True)
class Metrics:
    """What the server has done; nothing in it tells what was said.

    Attributes:
        requests: By endpoint, model and status.
        tokens: By model and kind: prompt, cached, completion.
        n_cancelled: Requests whose client went away.
        ttft: From a request's arrival to its first text, waiting included.
        durations: From a request's arrival to its end.
    """

    requests: Counter[Labels] = field(default_factory=Counter)
    tokens: Counter[Labels] = field(default_factory=Counter)
    n_cancelled: int = 0
    ttft: Histogram = field(default_factory=Histogram)
    durations: Histogram = field(default_factory=Histogram)

    def count_request(self, endpoint: str, model: str, status: int) -> None:
        """Count a request that was answered; the model is one that is served, or empty."""
        self.requests[("endpoint", endpoint), ("model", model), ("status", str(status))] += 1

    def count_tokens(self, model: str, usage: Mapping[str, Any]) -> None:
        """Count the tokens of an answer."""
        for kind in ("prompt", "cached", "completion"):
            self.tokens[("model", model), ("kind", kind)] += usage[f"{kind}_tokens"]

    def text(self, gauges: Mapping[str, tuple[str, float]]) -> str:
        """Everything, with some values of this moment: name to help and value."""
        lines = [
            *_family("edgekit_requests_total", "counter", "Requests answered."),
            *_samples("edgekit_requests_total", self.requests),
            *_family("edgekit_tokens_total", "counter", "Tokens of answered requests."),
            *_samples("edgekit_tokens_total", self.tokens),
            *_family("edgekit_cancelled_total", "counter", "Requests whose client went away."),
            f"edgekit_cancelled_total {self.n_cancelled}",
            *_family("edgekit_ttft_seconds", "histogram", "Arrival to first text."),
            *self.ttft.lines("edgekit_ttft_seconds"),
            *_family("edgekit_request_seconds", "histogram", "Arrival to end."),
            *self.durations.lines("edgekit_request_seconds"),
        ]
        for name, (said, value) in gauges.items():
            kind = "counter" if name.endswith("_total") else "gauge"
            lines += [*_family(name, kind, said), f"{name} {value:g}"]
        return "\n".join(lines) + "\n"


def _family(name: str, kind: str, said: str) -> list[str]:
    return [f"# HELP {name} {said}", f"# TYPE {name} {kind}"]


def _samples(name: str, counter: Counter[Labels]) -> Iterable[str]:
    for labels, value in sorted(counter.items()):
        inner = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels)
        yield f"{name}{{{inner}}} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
