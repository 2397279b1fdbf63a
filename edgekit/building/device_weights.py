"""The base as a device computes it: the int4 weights of a target, in PyTorch, to train on.

An adapter that is trained on them learns to repair what rounding did to its task, as QLoRA does
(Dettmers et al. 2023, https://arxiv.org/abs/2305.14314), here with the very blocks that ship.
"""

from collections.abc import Callable
from typing import Any

import onnx_ir as ir

from edgekit.bases import Base
from edgekit.building.dequantize import QuantizedWeight, quantized_weights
from edgekit.building.export import export_base
from edgekit.building.reference import replace_weights
from edgekit.building.sockets import find_sockets
from edgekit.targets import TargetProfile


def use_device_weights(
    model: Any,
    base: Base,
    profile: TargetProfile,
    on_message: Callable[[str], None] = lambda _: None,
) -> None:
    """Replace a base's float weights by a target's dequantized ones, in place.

    Args:
        model: A transformers model of the base.
        base: What it was loaded from.
        profile: The target; its quantized graphs are built, or found in the cache.
        on_message: Called with a line of progress.

    Raises:
        BuildError: If the base cannot be built for the target.
    """
    if profile.builder == "static":
        weights = _of_static_graphs(base, profile, on_message)
    else:
        weights = _of_an_export(base, profile, on_message)
    replace_weights(model, {name: weight.values for name, weight in weights.items()})


def _of_static_graphs(
    base: Base, profile: TargetProfile, on_message: Callable[[str], None]
) -> dict[str, QuantizedWeight]:
    from edgekit.building.qnn.export import export_static
    from edgekit.building.qnn.read_back import static_contract, static_weights

    export = export_static(base, profile, on_message=on_message)
    return static_weights(export, static_contract(export))


def _of_an_export(
    base: Base, profile: TargetProfile, on_message: Callable[[str], None]
) -> dict[str, QuantizedWeight]:
    graph = ir.load(export_base(base, profile, on_message=on_message) / "model.onnx")
    contract = find_sockets(
        graph,
        max_rank=profile.adapters.max_rank,
        dtype=profile.io_dtype,
        prefused=base.is_prefused,
    )
    return quantized_weights(graph, contract)
