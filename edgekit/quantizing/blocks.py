"""Weights in blocks: whole numbers of few bits, one float scale a block, and perhaps a zero point.

Source: ONNX Runtime contrib operators MatMulNBits and GatherBlockQuantized: a stored value ``q``
stands for ``(q - zero_point) * scale``, without zero points for ``(q - 2**(bits - 1)) * scale``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Blocks:
    """A weight (out, in) in blocks along its inputs; a code stands for (code - zero point) * scale.

    Attributes:
        codes: int8 (out, blocks, block_size), from ``-2**(bits - 1)`` to ``2**(bits - 1) - 1``.
        scales: float32 (out, blocks), what one step is worth.
        bits: 4 or 8.
        zero_points: int8 (out, blocks), codes that stand for zero; None where that is 0 everywhere
            (symmetric blocks).
        input_scale: What the matmul's input is multiplied with first: a head that shares its bytes
            with the embedding has no other place for a factor of its own.
    """

    codes: npt.NDArray[np.int8]
    scales: Floats
    bits: int
    zero_points: npt.NDArray[np.int8] | None = None
    input_scale: float = 1.0

    @property
    def block_size(self) -> int:
        """Weights that share a scale."""
        return int(self.codes.shape[2])

    def packed(self) -> npt.NDArray[np.uint8]:
        """The stored form: uint8 (out, blocks, block_size * bits / 8), the low nibble first."""
        return _packed(self.codes, self.bits)

    def packed_zero_points(self) -> npt.NDArray[np.uint8] | None:
        """Their stored form: uint8 (out, blocks * bits / 8), rows padded to whole bytes."""
        if self.zero_points is None:
            return None
        padding = self.zero_points.shape[1] % (8 // self.bits)
        return _packed(np.pad(self.zero_points, ((0, 0), (0, padding))), self.bits)

    def values(self) -> Floats:
        """The weight that the blocks stand for, with the input's scale: float32 (out, in)."""
        steps = self.codes.astype(np.float32)
        if self.zero_points is not None:
            steps -= self.zero_points[..., None]
        values = steps * (self.scales * np.float32(self.input_scale))[..., None]
        return np.asarray(values.reshape(len(self.codes), -1), np.float32)

    def rows(self, start: int, n: int) -> "Blocks":
        """The weight of some output features."""
        own = slice(start, start + n)
        return Blocks(
            codes=self.codes[own],
            scales=self.scales[own],
            bits=self.bits,
            zero_points=None if self.zero_points is None else self.zero_points[own],
        )


def stack_blocks(parts: Sequence[Blocks]) -> Blocks:
    """Weights of equal inputs, one below the other, as a packed matmul holds them.

    Raises:
        ValueError: If their bits or block sizes differ, or only some have zero points.
    """
    if len(parts) == 1:
        return parts[0]
    kinds = {(part.bits, part.block_size, part.zero_points is not None) for part in parts}
    if len(kinds) != 1:
        raise ValueError(
            f"parts of one matmul differ in (bits, block size, zero points): {sorted(kinds)}"
        )
    zero_points = [part.zero_points for part in parts if part.zero_points is not None]
    return Blocks(
        codes=np.concatenate([part.codes for part in parts]),
        scales=np.concatenate([part.scales for part in parts]),
        bits=parts[0].bits,
        zero_points=np.concatenate(zero_points) if zero_points else None,
    )


def round_to_nearest(weight: Floats, *, bits: int, block_size: int) -> Blocks:
    """Round a weight (out, in); the largest of a block lies exactly on the end of the range.

    At 4 bits these are the model builder's numbers to the last bit: halves go up, and where the
    two ends of a block are equally far, the lower one decides (ONNX Runtime's MLAS). So a float16
    graph that gets them shares its bytes with the float32 graph that the builder wrote.

    Raises:
        ValueError: If the inputs do not fill whole blocks.
    """
    blocks = _in_blocks(weight, block_size)
    high, low = blocks.max(-1, keepdims=True), blocks.min(-1, keepdims=True)
    farthest = np.where(np.abs(high) > np.abs(low), high, low)
    # The range is one longer on the negative side, so the farthest value goes there.
    limit = 1 << (bits - 1)
    scales = farthest / -np.float32(limit)
    scales = np.where(scales == 0, np.float32(1), scales)
    # MLAS's own order of operations: another one differs in a few codes of a million.
    codes = np.floor(blocks * (np.float32(1) / scales) + np.float32(limit + 0.5)) - limit
    return _rounded(scales, codes, bits)


def round_with_zero_points(weight: Floats, *, bits: int, block_size: int) -> Blocks:
    """Round a weight (out, in) to steps that reach from a block's smallest to its largest value.

    The range always takes in zero, which is a code of its own: no weight lies farther than half a
    step from what it is rounded to.

    Raises:
        ValueError: If the inputs do not fill whole blocks.
    """
    blocks = _in_blocks(weight, block_size)
    lowest = 1 << (bits - 1)
    high = np.maximum(blocks.max(-1, keepdims=True), 0)
    low = np.minimum(blocks.min(-1, keepdims=True), 0)
    scales = (high - low) / np.float32((1 << bits) - 1)
    is_zero = scales == 0
    scales = np.where(is_zero, np.float32(1), scales)
    zero_points = np.where(is_zero, np.float32(0), np.rint(-low / scales) - lowest)
    rounded = _rounded(scales, np.rint(blocks / scales) + zero_points, bits)
    return replace(rounded, zero_points=zero_points[..., 0].astype(np.int8))


def round_to_positive_scales(weight: Floats, *, bits: int, block_size: int) -> Blocks:
    """Round a weight (out, in) for NPUs, whose scales are positive float16.

    Scales are rounded to float16 first, and the weights to the scales that are left. The
    largest of a block lies half a step beyond the end of the range, where it loses as much as
    any other weight may.

    Raises:
        ValueError: If the inputs do not fill whole blocks, or float16 is too small for a scale.
    """
    blocks = _in_blocks(weight, block_size)
    farthest = np.abs(blocks).max(-1, keepdims=True)
    scales = (farthest / np.float32((1 << (bits - 1)) - 0.5)).astype(np.float16)
    if not np.isfinite(scales).all():
        raise ValueError("a block's scale is too large for float16")
    scales = np.where(scales == 0, np.float16(1), scales).astype(np.float32)
    return _rounded(scales, np.rint(blocks / scales), bits)


def _in_blocks(weight: Floats, block_size: int) -> Floats:
    rows, columns = weight.shape
    if columns % block_size:
        raise ValueError(f"{columns} inputs are no whole number of blocks of {block_size}")
    return weight.reshape(rows, -1, block_size).astype(np.float32)


def _packed(codes: npt.NDArray[np.int8], bits: int) -> npt.NDArray[np.uint8]:
    """Codes as they are stored, from zero up: the last axis becomes bytes, low nibble first."""
    values = (codes.astype(np.int16) + (1 << (bits - 1))).astype(np.uint8)
    if bits == 8:
        return values
    low, high = values[..., 0::2], values[..., 1::2]
    return np.bitwise_or(low, np.left_shift(high, 4), dtype=np.uint8)


def _rounded(scales: Floats, codes: Floats, bits: int) -> Blocks:
    limit = 1 << (bits - 1)
    kept = np.clip(codes, -limit, limit - 1).astype(np.int8)
    return Blocks(codes=kept, scales=scales[..., 0], bits=bits)
