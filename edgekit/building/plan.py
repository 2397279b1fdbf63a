"""What a build would do: steps, sizes, memory, time, what is verified where; nothing is built."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.bases import Base
from edgekit.building.base_shape import shape_of
from edgekit.building.device_weights import DeviceWeights, device_weights
from edgekit.building.export import export_path, is_intact
from edgekit.building.fit import build_memory_bytes, disk_needed_bytes
from edgekit.building.inputs import check_inputs, quantization_in_words
from edgekit.building.planned_target import START_SECONDS, PlannedTarget, Planner
from edgekit.building.same_quantization import refuse_other_quantization
from edgekit.bundling.adapters import AdapterSource
from edgekit.targets import TargetProfile

TIMED_ON = (
    "by what SmolLM2-135M took on one core of an AMD Zen 5 (AVX512-VNNI); longer on a busy or "
    "older machine, shorter with more cores"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildPlan:
    """What a build would do.

    Attributes:
        name: Name and version of the bundle.
        bundle_bytes: Size of the bundle, at most.
        disk_bytes: Free space that it asks for here, cache included.
        build_memory_bytes: Memory that it asks for here.
    """

    name: str
    base: str
    output: Path
    targets: tuple[PlannedTarget, ...]
    bundle_bytes: int
    disk_bytes: int
    build_memory_bytes: int

    @property
    def seconds(self) -> float:
        """About what the build takes here."""
        return START_SECONDS + sum(target.seconds for target in self.targets)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "name": self.name,
            "base": self.base,
            "output": str(self.output),
            "bundle_bytes": self.bundle_bytes,
            "disk_bytes": self.disk_bytes,
            "build_memory_bytes": self.build_memory_bytes,
            "seconds": round(self.seconds),
            "timed_on": TIMED_ON,
            "targets": {target.name: target.to_dict() for target in self.targets},
        }


def plan_build(
    *,
    name: str,
    output: Path,
    base: str | None = None,
    base_onnx: Path | None = None,
    targets: tuple[str, ...] = ("cpu",),
    adapters: Mapping[str, AdapterSource] | None = None,
    release: str = "0.1.0",
    quantization: str | None = None,
    max_nll_increase: float | None = None,
    parity: bool = True,
    assume_base: bool = False,
    allow_other_quantization: bool = False,
    overwrite: bool = False,
    on_message: Callable[[str], None] = lambda _: None,
) -> BuildPlan:
    """Check a build's inputs and say what it would do; the arguments are those of ``build``.

    No bundle is written and nothing exported. A base that is not in the cache yet is fetched or
    dequantized into it, since its sizes are read from there.

    Raises:
        EdgekitError: As ``build`` would, before its work.
    """
    adapters = adapters or {}
    inputs = check_inputs(
        name=name,
        base=base,
        base_onnx=base_onnx,
        output=output,
        targets=targets,
        adapters=adapters,
        quantization=quantization,
        max_nll_increase=max_nll_increase,
        parity=parity,
        assume_base=assume_base,
        overwrite=overwrite,
        on_message=on_message,
    )
    if not allow_other_quantization:
        refuse_other_quantization(
            inputs.adapters,
            quantization_in_words(inputs.base, inputs.profiles),
            lambda target: _exported_weights(inputs.base, inputs.profiles[target]),
        )
    on_message("looking at this machine")
    shape = shape_of(inputs.base)
    planner = Planner(inputs, inputs.sources, shape, parity)
    planned = tuple(planner.plan(profile) for profile in inputs.profiles.values())
    return BuildPlan(
        name=f"{name} {release}",
        base=inputs.base.name,
        output=output,
        targets=planned,
        bundle_bytes=shape.tokenizer_bytes + sum(target.added_bytes for target in planned),
        disk_bytes=disk_needed_bytes(shape, inputs.profiles),
        build_memory_bytes=build_memory_bytes(shape, inputs.profiles, parity=parity),
    )


def _exported_weights(base: Base, profile: TargetProfile) -> DeviceWeights | None:
    """A target's weights where they are in the cache; a plan exports nothing."""
    if base.is_prebuilt or (profile.builder != "static" and is_intact(export_path(base, profile))):
        return device_weights(base, profile)
    return None
