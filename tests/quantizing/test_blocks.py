"""Blocks of few bits: what is stored is what was rounded."""

import numpy as np
import pytest

from edgekit.quantizing.blocks import Blocks, round_to_nearest


def some_weight(rows: int = 6, columns: int = 96) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(rows, columns)).astype(np.float32)


def values(blocks: Blocks) -> np.ndarray:
    return (blocks.codes * blocks.scales[..., None]).reshape(len(blocks.codes), -1)


@pytest.mark.parametrize("bits", [4, 8])
def test_no_weight_moves_by_more_than_rounding(bits: int) -> None:
    weight = some_weight()
    blocks = round_to_nearest(weight, bits=bits, block_size=32)
    steps = np.abs(values(blocks) - weight) / np.abs(np.repeat(blocks.scales, 32, axis=1))
    assert steps.max() <= 1.0001  # a whole step only where the short end of the range cuts off
    assert np.median(steps) < 0.5


def test_the_farthest_weight_of_a_block_is_exact() -> None:
    weight = some_weight()
    blocks = round_to_nearest(weight, bits=4, block_size=32)
    farthest = np.abs(weight.reshape(6, 3, 32)).argmax(-1)[..., None]
    stored = values(blocks).reshape(6, 3, 32)
    for array in (stored, weight.reshape(6, 3, 32)):
        assert np.take_along_axis(array, farthest, -1) == pytest.approx(
            np.take_along_axis(weight.reshape(6, 3, 32), farthest, -1), rel=1e-6
        )


def test_a_block_of_zeros_stays_zero() -> None:
    blocks = round_to_nearest(np.zeros((2, 64), np.float32), bits=4, block_size=32)
    assert not values(blocks).any()
    assert np.isfinite(blocks.scales).all()


def test_four_bits_are_packed_low_nibble_first() -> None:
    codes = np.array([[[-8, 7, 0, -1]]], np.int8)
    blocks = Blocks(codes=codes, scales=np.ones((1, 1), np.float32), bits=4)
    assert blocks.packed().tolist() == [[[0xF0, 0x78]]]
    assert blocks.packed().dtype == np.uint8


def test_eight_bits_are_stored_around_128() -> None:
    codes = np.array([[[-128, 127, 0, -1]]], np.int8)
    blocks = Blocks(codes=codes, scales=np.ones((1, 1), np.float32), bits=8)
    assert blocks.packed().tolist() == [[[0, 255, 128, 127]]]


def test_inputs_that_fill_no_whole_block_are_refused() -> None:
    with pytest.raises(ValueError, match="40 inputs are no whole number of blocks of 32"):
        round_to_nearest(some_weight(columns=40), bits=4, block_size=32)
