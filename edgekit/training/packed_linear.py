"""Frozen linears and embeddings whose weights stay in the few bits of a device's graph.

A weight is dequantized when it is multiplied with, forward and again backward, some rows at a
time, and dropped. Nothing is kept for the backward pass but the packed weight itself, which is
there anyway. The numbers are those of the dequantized float model, up to float rounding.

Source: ONNX Runtime contrib operators MatMulNBits and GatherBlockQuantized.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch.nn import functional

from edgekit.building.dequantize import PackedWeight
from edgekit.training.memory import CHUNK_VALUES


class Rows(Protocol):
    """Some output features of a weight, wherever their numbers are."""

    n_rows: int
    columns: int

    def floats(self, start: int, stop: int) -> torch.Tensor:
        """The weight of rows from start to stop, float32 (rows, in)."""


class PackedRows(torch.nn.Module):
    """Rows of a quantized weight in buffers, which follow the model to its device.

    Args:
        weight: As the graph stores it; copied.
    """

    def __init__(self, weight: PackedWeight) -> None:
        super().__init__()
        self.codes: torch.Tensor
        self.scales: torch.Tensor
        self.zero_points: torch.Tensor | None
        self.n_rows, self.columns, self.bits = weight.n_rows, weight.columns, weight.bits
        zeros = weight.zero_points
        tensors = {"codes": weight.codes, "scales": weight.scales, "zero_points": zeros}
        for name, array in tensors.items():
            tensor = None if array is None else torch.from_numpy(array.copy())
            self.register_buffer(name, tensor, persistent=False)

    def floats(self, start: int, stop: int) -> torch.Tensor:
        """The weight of rows from start to stop, float32 (rows, in)."""
        zeros = self.zero_points
        own = slice(start, stop)
        return self._floats(
            self.codes[own], self.scales[own], None if zeros is None else zeros[own]
        )

    def floats_at(self, rows: torch.Tensor) -> torch.Tensor:
        """The weight of the rows of these numbers, float32 (numbers, in)."""
        zeros = self.zero_points
        return self._floats(
            self.codes[rows], self.scales[rows], None if zeros is None else zeros[rows]
        )

    def _floats(
        self, codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor | None
    ) -> torch.Tensor:
        values = _unpacked(codes, self.bits)
        if zeros is None:
            values -= 1 << (self.bits - 1)
        elif zeros.dtype == torch.uint8:
            values -= _unpacked(zeros, self.bits)[:, : scales.shape[1], None]
        else:
            values -= zeros[..., None]
        values *= scales.float()[..., None]
        return values.flatten(1)[:, : self.columns]


def _unpacked(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """(…, bytes) to float32 (…, values); the low nibble comes first."""
    if bits == 8:
        return packed.float()
    values = torch.empty(*packed.shape, 2, dtype=torch.float32, device=packed.device)
    values[..., 0] = packed & 0x0F
    values[..., 1] = packed >> 4
    return values.flatten(-2)


def chunks(parts: Sequence[Rows]) -> Iterator[tuple[slice, torch.Tensor]]:
    """A weight in floats, some rows at a time, with where these rows are in the whole."""
    offset = 0
    for part in parts:
        step = max(1, CHUNK_VALUES // part.columns)
        for start in range(0, part.n_rows, step):
            stop = min(start + step, part.n_rows)
            yield slice(offset + start, offset + stop), part.floats(start, stop)
        offset += part.n_rows


class _FrozenLinear(torch.autograd.Function):
    """``x W^T + b`` with a gradient for x alone; W is dequantized in both passes."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, parts: Sequence[Rows], bias: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.parts = parts
        outputs = [
            functional.linear(x, weight.to(x.dtype), None if bias is None else bias[rows].to(x))
            for rows, weight in chunks(parts)
        ]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        total: torch.Tensor | None = None
        for rows, weight in chunks(ctx.parts):
            own = gradient[..., rows] @ weight.to(gradient.dtype)
            total = own if total is None else total.add_(own)
        assert total is not None
        return total, None, None


class PackedLinear(torch.nn.Linear):
    """A frozen linear over packed rows.

    PEFT and ``isinstance`` take it for the linear that it computes; ``weight`` is made anew each
    time it is asked for, so that changing it changes nothing.

    Args:
        parts: Rows of the weight, one below the other.
        bias: Of the linear that this one stands for; frozen.
        dtype: Of the values that ``weight`` gives.
        input_scale: What the packed rows' input is multiplied with first.
    """

    def __init__(
        self,
        parts: Sequence[PackedRows],
        bias: torch.nn.Parameter | None,
        dtype: torch.dtype = torch.float32,
        *,
        input_scale: float = 1.0,
    ) -> None:
        torch.nn.Module.__init__(self)
        self.packed = torch.nn.ModuleList(parts)
        self.packed_input_scale = input_scale
        self.in_features = parts[0].columns
        self.out_features = sum(part.n_rows for part in parts)
        self.dtype = dtype
        self.bias = bias  # type: ignore[assignment]  # torch has None there, too
        self.instead: Sequence[Rows] | None = None

    @property
    def parts(self) -> Sequence[Any]:
        """Whose rows are multiplied with: the packed ones, or others for the time being."""
        return list(self.packed) if self.instead is None else self.instead

    @property
    def input_scale(self) -> float:
        """What the input is multiplied with before these rows."""
        return self.packed_input_scale if self.instead is None else 1.0

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """The whole weight in floats (out, in), the input's scale in it."""
        values = torch.cat([values for _, values in chunks(self.parts)])
        return (values * self.input_scale).to(self.dtype)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Multiply as ``torch.nn.Linear`` does, in autocast's type where that is on."""
        kind = input.device.type
        if torch.is_autocast_enabled(kind):
            input = input.to(torch.get_autocast_dtype(kind))
        with torch.autocast(kind, enabled=False):
            out: torch.Tensor = _FrozenLinear.apply(  # type: ignore[no-untyped-call]
                input if self.input_scale == 1 else input * self.input_scale, self.parts, self.bias
            )
        return out


class PackedEmbedding(torch.nn.Embedding):
    """A frozen embedding table over packed rows: only the rows that are looked up are dequantized.

    Args:
        part: The table.
        original: The embedding that this one stands for; Gemma's scales what it looks up.
    """

    def __init__(self, part: PackedRows, original: torch.nn.Embedding) -> None:
        torch.nn.Module.__init__(self)
        self.packed = part
        self.dtype = original.weight.dtype
        for name in (
            "num_embeddings", "embedding_dim", "padding_idx", "max_norm", "norm_type",
            "scale_grad_by_freq", "sparse",
        ):  # fmt: skip
            setattr(self, name, getattr(original, name))
        self.embed_scale: torch.Tensor | None
        scale = getattr(original, "embed_scale", None)
        self.register_buffer("embed_scale", scale, persistent=False)
        self.instead: Rows | None = None

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """The whole table in floats (rows, width)."""
        part = self.packed if self.instead is None else self.instead
        return part.floats(0, self.num_embeddings).to(self.dtype)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Look rows up."""
        flat = input.flatten()
        if self.instead is None:
            rows = self.packed.floats_at(flat)
        else:
            numbers, where = flat.unique(  # type: ignore[no-untyped-call]
                return_inverse=True
            )
            whole = [self.instead.floats(number, number + 1) for number in numbers.tolist()]
            rows = torch.cat(whole)[where]
        found = rows.to(self.dtype).view(*input.shape, -1)
        return found if self.embed_scale is None else found * self.embed_scale.to(self.dtype)


def packed_bytes(model: torch.nn.Module) -> int:
    """Bytes of a model's parameters and buffers, shared ones once."""
    tensors = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    return sum(tensor.nbytes for tensor in tensors.values())
