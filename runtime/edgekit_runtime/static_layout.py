"""What the host must know to drive graphs of fixed shape: ``static.json`` of a target."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from edgekit_runtime.errors import TargetError
from edgekit_runtime.manifest import Fields
from edgekit_runtime.strict_json import loads

LAYOUT_FILE: Final = "static.json"
# Far below every score, and a number that float16 holds.
MASKED: Final = -1e4


@dataclass(frozen=True, kw_only=True, slots=True)
class Rope:
    """A rotary position embedding (Su et al. 2021, https://arxiv.org/abs/2104.09864).

    Attributes:
        inverse_frequencies: Radians a position, one for each rotated pair.
        scaling: Factor on cosine and sine (YaRN's attention factor).
    """

    inverse_frequencies: tuple[float, ...]
    scaling: float

    def tables(self, start: int, n: int) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
        """Cosines and sines of ``n`` positions from ``start``: (1, 1, n, rotated) each."""
        frequencies = np.asarray(self.inverse_frequencies, np.float32)
        angles = np.arange(start, start + n, dtype=np.float32)[:, None] * frequencies
        both = np.concatenate([angles, angles], axis=-1)[None, None]
        scaling = np.float32(self.scaling)
        cos, sin = np.cos(both) * scaling, np.sin(both) * scaling
        return cos.astype(np.float16), sin.astype(np.float16)


@dataclass(frozen=True, kw_only=True, slots=True)
class StaticLayout:
    """Shapes and host-side tables of a target's static graphs.

    Attributes:
        chunk_tokens: Tokens that the prefill graph takes at once.
        context_tokens: Keys that a token sees at most, itself included.
        windows: Attention window of each mask input, in tokens; None sees everything before.
        ropes: The rotary table of each pair of cosine and sine inputs.
        provider_options: For the execution provider, e.g. ``{"htp_arch": "73"}``.
    """

    chunk_tokens: int
    context_tokens: int
    hidden_size: int
    layers: int
    kv_heads: int
    head_dim: int
    windows: tuple[int | None, ...]
    ropes: tuple[Rope, ...]
    provider_options: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read ``static.json``.

        Raises:
            TargetError: With every problem.
        """
        try:
            value = loads(path.read_bytes())
        except (OSError, ValueError) as err:
            raise TargetError(f"{path.name} cannot be read: {err}") from err
        problems: list[str] = []
        layout = cls._from_dict(Fields(value, "", problems))
        if problems:
            raise TargetError(
                f"{path.name} is malformed",
                problems=problems,
                hint="Build or fetch the bundle again.",
            )
        return layout

    @classmethod
    def _from_dict(cls, fields: Fields) -> Self:
        return cls(
            chunk_tokens=fields.number("chunk_tokens"),
            context_tokens=fields.number("context_tokens"),
            hidden_size=fields.number("hidden_size"),
            layers=fields.number("layers"),
            kv_heads=fields.number("kv_heads"),
            head_dim=fields.number("head_dim"),
            # 0 stands for no window.
            windows=fields.objects("masks", lambda inner: inner.number("window", 0) or None),
            ropes=fields.objects("ropes", _read_rope),
            provider_options=fields.texts("provider_options"),
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "chunk_tokens": self.chunk_tokens,
            "context_tokens": self.context_tokens,
            "hidden_size": self.hidden_size,
            "layers": self.layers,
            "kv_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "masks": [{"window": window or 0} for window in self.windows],
            "ropes": [
                {"inverse_frequencies": list(rope.inverse_frequencies), "scaling": rope.scaling}
                for rope in self.ropes
            ],
            "provider_options": dict(self.provider_options),
        }

    def past_shapes(self, n: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of past keys (…, head, past) and values (…, past, head) of an ``n``-token graph.

        A slot holds one position; keys lie along the last axis, ready for the matmul.
        """
        past = self.context_tokens - n
        return (1, self.kv_heads, self.head_dim, past), (1, self.kv_heads, past, self.head_dim)

    def mask(self, index: int, n_past: int, n: int) -> NDArray[np.float32]:
        """Additive mask (1, 1, n, context): ``n_past`` slots, then the graph's own tokens.

        Args:
            index: Which mask.
            n_past: Positions in the cache, which lie in its first slots.
            n: Tokens of the graph.
        """
        window = self.windows[index]
        own = np.arange(n_past, n_past + n)
        slots = np.full(self.context_tokens, -1)
        slots[:n_past] = np.arange(n_past)
        slots[self.context_tokens - n :] = own
        seen = (slots >= 0) & (slots <= own[:, None])
        if window is not None:
            seen &= slots > own[:, None] - window
        return np.where(seen, np.float32(0), np.float32(MASKED))[None, None]


def _read_rope(fields: Fields) -> Rope:
    values: list[float] = []
    for value in fields.data.get("inverse_frequencies") or ():
        if isinstance(value, float):
            values.append(value)
    if not values or len(values) != len(fields.data["inverse_frequencies"]):
        fields.problems.append(f"{fields.at('inverse_frequencies')}: expected a list of numbers")
    scaling = fields.data.get("scaling")
    if not isinstance(scaling, float):
        fields.problems.append(f"{fields.at('scaling')}: expected a number, got {scaling!r}")
        scaling = 1.0
    return Rope(inverse_frequencies=tuple(values), scaling=scaling)
