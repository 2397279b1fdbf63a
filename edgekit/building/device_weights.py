"""The base as a device computes it: the int4 weights of a target, in PyTorch, to train on.

An adapter that is trained on them learns to repair what rounding did to its task, as QLoRA does
(Dettmers et al. 2023, https://arxiv.org/abs/2305.14314), here with the very blocks that ship.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from edgekit.bases import Base
from edgekit.building.dequantize import PackedWeight, dequantized, packed_weights
from edgekit.building.export import export_base
from edgekit.building.prebuilt import decoder_graph
from edgekit.building.reference import replace_weights
from edgekit.building.sockets import find_sockets
from edgekit.building.target_dir import GRAPHS
from edgekit.building.weights import load_graph
from edgekit.targets import TargetProfile
from edgekit_runtime.contract import SocketContract
from edgekit_runtime.static_layout import LAYOUT_FILE

DeviceWeights = Mapping[str, Sequence[PackedWeight]]


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
    weights = dequantized(device_weights(base, profile, on_message))
    replace_weights(model, {name: weight.values for name, weight in weights.items()})


def device_weights(
    base: Base,
    profile: TargetProfile,
    on_message: Callable[[str], None] = lambda _: None,
) -> DeviceWeights:
    """A target's quantized weights as its graph stores them, mapped from the file.

    Args:
        base: The base; or an ONNX model that somebody else built, whose own weights are read.
        profile: The target; its quantized graphs are built, or found in the cache.
        on_message: Called with a line of progress.

    Raises:
        BuildError: If the base cannot be built for the target.
    """
    if profile.builder == "static":
        from edgekit.building.qnn.export import export_static
        from edgekit.building.qnn.read_back import packed_static_weights, static_contract

        export = export_static(base, profile, on_message=on_message)
        return packed_static_weights(export, static_contract(export))
    if base.is_prebuilt:
        path = decoder_graph(base.path)
    else:
        path = export_base(base, profile, on_message=on_message) / "model.onnx"
    graph = ir.load(path)
    contract = find_sockets(
        graph,
        max_rank=profile.adapters.max_rank,
        dtype=profile.io_dtype,
        prefused=base.is_prefused,
    )
    return packed_weights(graph, contract)


def weights_of_target(directory: Path, base: Base, contract: SocketContract) -> DeviceWeights:
    """The same of a target directory in a finished bundle.

    Args:
        directory: The target's.
        base: What it was built from; compiled graphs are read in the form before compiling.
        contract: The target's sockets.
    """
    if (directory / LAYOUT_FILE).is_file():
        from edgekit.building.qnn.target_dir import stored_profile

        return device_weights(base, stored_profile(directory))
    return packed_weights(load_graph(directory / GRAPHS["model"]), contract)
