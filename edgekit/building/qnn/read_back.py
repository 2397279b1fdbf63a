"""Read back from static graphs what they compute with."""

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgekit.bases import Base
from edgekit.building.dequantize import (
    Array,
    PackedWeight,
    QuantizedWeight,
    dequantized,
    packed_weights,
)
from edgekit.building.qnn.architecture import norm_offset
from edgekit.building.qnn.export import BARE
from edgekit.building.target_dir import SOCKETS_FILE, STATIC_GRAPHS
from edgekit.errors import BuildError
from edgekit_runtime.contract import SocketContract


def static_weights(export: Path, contract: SocketContract) -> dict[str, QuantizedWeight]:
    """What an export's graphs compute with, by Hugging Face name."""
    return dequantized(packed_static_weights(export, contract))


def packed_static_weights(
    export: Path, contract: SocketContract
) -> dict[str, tuple[PackedWeight, ...]]:
    """The same as the graphs store it, see :func:`edgekit.building.dequantize.packed_weights`."""
    weights: dict[str, tuple[PackedWeight, ...]] = {}
    for name in (BARE["decode"], STATIC_GRAPHS["embed"], STATIC_GRAPHS["head"]):
        weights |= packed_weights(ir.load(export / name), contract)
    return weights


def static_floats(export: Path, base: Base) -> dict[str, Array]:
    """The norms and biases that an export's graphs hold in float16, by Hugging Face name."""
    offset = np.float32(norm_offset(base.architecture))
    floats: dict[str, Array] = {}
    for name, value in ir.load(export / BARE["decode"]).graph.initializers.items():
        if name.endswith((".weight", ".bias")) and value.const_value is not None:
            stored = value.const_value.numpy().astype(np.float32)
            floats[name] = stored - offset if name.endswith("norm.weight") else stored
    return floats


def static_contract(directory: Path) -> SocketContract:
    """The sockets of an export or a target.

    Raises:
        BuildError: If its ``sockets.json`` is malformed.
    """
    path = directory / SOCKETS_FILE
    problems: list[str] = []
    contract = SocketContract.from_dict(json.loads(path.read_text(encoding="utf-8")), problems)
    if problems:
        raise BuildError(f"'{path}' is malformed", problems=problems)
    return contract
