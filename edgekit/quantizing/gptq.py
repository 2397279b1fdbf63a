"""GPTQ: round column by column, and let the columns to come make up for each error.

Source: Frantar et al. 2023, https://arxiv.org/abs/2210.17323, with one Hessian per input taken from
the float model, and each block's scale chosen by the error weighted with the inverse Hessian.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from edgekit.quantizing.blocks import Blocks
from edgekit.quantizing.weights import HEAD

# Shrinking a block's range cuts its largest weight off and makes every other step finer.
_RANGES = (1.0, 0.95, 0.9, 0.85, 1.05)
_DAMPING = 0.01
_MAX_HESSIAN_BYTES = 1 << 30


def round_with_gptq(
    model: Any,
    widths: Mapping[str, int],
    rows: torch.Tensor,
    *,
    block_size: int,
    with_zero_points: Collection[str] = (),
) -> Iterator[tuple[str, Blocks]]:
    """Round linear layers of a model, its head too.

    Args:
        model: The float base in transformers; it stays as it is.
        widths: Bits by weight name, ``model.layers.0.mlp.up_proj.weight``.
        rows: int64 (rows, tokens) of calibration text.
        block_size: Weights that share a scale.
        with_zero_points: Names of weights whose blocks are not symmetric.

    Yields:
        Name and blocks of one weight after the other.
    """
    modules = dict(model.named_modules())
    for names in _groups({name: modules[name.removesuffix(".weight")] for name in widths}):
        products = _input_products(
            {name: modules[name.removesuffix(".weight")] for name in names}, model, rows
        )
        for name in names:
            weight = modules[name.removesuffix(".weight")].weight.detach()
            factor = _inverse_factor(products[name])
            yield (
                name,
                _round(
                    weight,
                    factor,
                    bits=widths[name],
                    block_size=block_size,
                    find_range=_range if name in with_zero_points else _symmetric_range,
                ),
            )


def _groups(linears: Mapping[str, Any]) -> Iterator[list[str]]:
    """Names in order, as many at a time as Hessians fit the memory set aside for them."""
    group: list[str] = []
    size = 0
    for name, linear in linears.items():
        needed = 4 * linear.in_features**2
        if group and size + needed > _MAX_HESSIAN_BYTES:
            yield group
            group, size = [], 0
        group.append(name)
        size += needed
    if group:
        yield group


def _input_products(
    linears: Mapping[str, Any], model: Any, rows: torch.Tensor
) -> dict[str, torch.Tensor]:
    """X^T X (in, in) of each linear's inputs X, over all rows; shared where the input is."""
    products: dict[str, torch.Tensor] = {}
    last: dict[str, Any] = {"input": None, "product": None}

    def hook_for(name: str) -> Any:
        def hook(_module: Any, inputs: Sequence[torch.Tensor]) -> None:
            if last["input"] is not inputs[0]:
                flat = inputs[0].reshape(-1, inputs[0].shape[-1]).float()
                last["input"], last["product"] = inputs[0], flat.T @ flat
            products[name] = products.get(name, 0) + last["product"]

        return hook

    handles = [linear.register_forward_pre_hook(hook_for(name)) for name, linear in linears.items()]
    try:
        with torch.inference_mode():
            for row in rows:
                # Only a head that is being rounded has to see every position.
                model(row[None], use_cache=False, logits_to_keep=0 if HEAD in linears else 1)
    finally:
        for handle in handles:
            handle.remove()
    return products


def _inverse_factor(product: torch.Tensor) -> torch.Tensor:
    """Upper Cholesky factor of the damped inverse Hessian, float32 (in, in)."""
    hessian = product.double()
    diagonal = hessian.diagonal()
    damping = _DAMPING * diagonal.mean().clamp(min=1e-12)
    diagonal += damping
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    factor: torch.Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor.float()


def _round(
    weight: torch.Tensor,
    factor: torch.Tensor,
    *,
    bits: int,
    block_size: int,
    find_range: Callable[[torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]],
) -> Blocks:
    left = weight.float().clone()
    limit = 1 << (bits - 1)
    codes, scales, zeros = [], [], []
    for first in range(0, left.shape[1], block_size):
        end = first + block_size
        importance = factor.diagonal()[first:end] ** -2
        widest, zero = find_range(left[:, first:end], limit)
        low, high = -limit - zero, limit - 1 - zero
        scale = _best_scale(left[:, first:end], importance, widest, (low, high))
        block = left[:, first:end].T.contiguous()  # a column at a time: let it lie in one piece
        errors = torch.empty_like(block)
        rounded = torch.empty_like(block)
        for column in range(block_size):
            index = first + column
            rounded[column] = (block[column] / scale).round().clamp(low, high)
            errors[column] = (block[column] - rounded[column] * scale) / factor[index, index]
            block[column:] -= factor[index, index:end, None] * errors[column]
        left[:, end:] -= errors.T @ factor[first:end, end:]
        codes.append((rounded + zero).T)
        scales.append(scale)
        zeros.append(zero)
    return Blocks(
        codes=torch.stack(codes, 1).to(torch.int8).numpy(),
        scales=np.ascontiguousarray(torch.stack(scales, 1).numpy()),
        bits=bits,
        zero_points=torch.stack(zeros, 1).to(torch.int8).numpy() if zeros[0].ndim else None,
    )


def _symmetric_range(block: torch.Tensor, limit: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales (out,) with which a block (out, in) fills its range; 0 is the zero point of all."""
    farthest = block.gather(1, block.abs().argmax(1, keepdim=True))[:, 0]
    farthest = torch.where(farthest == 0, torch.full_like(farthest, -limit), farthest)
    return farthest / -limit, torch.zeros(())


def _range(block: torch.Tensor, limit: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The same from smallest to largest value, and zero points (out,): zero always has a code."""
    smallest, largest = block.amin(1).clamp(max=0), block.amax(1).clamp(min=0)
    scale = (largest - smallest) / (2 * limit - 1)
    is_zero = scale == 0
    scale = torch.where(is_zero, torch.ones_like(scale), scale)
    zero = (-smallest / scale).round() - limit
    return scale, torch.where(is_zero, torch.zeros_like(zero), zero)


def _best_scale(
    block: torch.Tensor,
    importance: torch.Tensor,
    widest: torch.Tensor,
    ends: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """Scales (out,), near the given ones, that round a block (out, in) with the least error.

    Zero points stay: where they lie between the ends is the same whatever share of it is kept.
    """
    low, high = (end[..., None] for end in ends)
    best = least = None
    for share in _RANGES:
        scale = widest[:, None] * share
        rounded = (block / scale).round().clamp(low, high) * scale
        error = ((rounded - block) ** 2 * importance).sum(1, keepdim=True)
        if best is None or least is None:
            best, least = scale, error
        else:
            best = torch.where(error < least, scale, best)
            least = torch.minimum(error, least)
    assert best is not None
    return best[:, 0]
