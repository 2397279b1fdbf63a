"""One target of a planned build, and what it shares with the targets before it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekit.building.base_shape import BaseShape
from edgekit.building.export import export_path, is_intact
from edgekit.building.inputs import BuildInputs
from edgekit.building.memory import (
    MemoryNeed,
    adapter_bytes,
    adapter_layout,
    disk_bytes,
    memory_need,
)
from edgekit.bundling.adapters import AdapterSource
from edgekit.quantizing.quantize import quantized_path
from edgekit.target_checks import TargetCheck, check_target, short_name
from edgekit.targets import TargetProfile
from edgekit_runtime.static_graph import QNN

# Processor seconds of `edgekit build` with OMP_NUM_THREADS=1 on that machine: exports of 2, 135 and
# 200 million weights took 8, 14 and 17; of 135 million, graphs and digests took 3, the gate of the
# base 55 and of an adapter 27.
START_SECONDS = 6.0
_EXPORT_SECONDS = 8.0
_EXPORT_SECONDS_PER_WEIGHT = 45e-9
_WRITE_SECONDS_PER_WEIGHT = 25e-9
# Compiling both graphs for QNN took 105; 256 positions on its simulator about 330.
_COMPILE_SECONDS_PER_WEIGHT = 1.0e-6
_SIMULATOR_SECONDS_PER_WEIGHT = 12e-9  # and position
_BASE_GATE_SECONDS_PER_WEIGHT = 0.41e-6
_ADAPTER_GATE_SECONDS_PER_WEIGHT = 0.2e-6
# Calibration took 4 minutes on two cores, with 72 rows of 256 tokens.
_CALIBRATION_SECONDS_PER_WEIGHT = 190e-12  # and token
# Three graphs of a target, for each decoder layer: 7 + 11 + 11 kB for SmolLM2.
_GRAPH_BYTES_PER_LAYER = 29_000


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedTarget:
    """What a build would do for one target.

    Attributes:
        steps: In words, in order.
        weights_bytes: Weight files that its graphs read, estimated.
        added_bytes: What the target adds to the bundle, at most; weights and adapter files that it
            shares with an earlier target are counted there.
        memory: What it needs on the device.
        memory_budget_bytes: What the profile allows.
        check: What this machine can do with it.
        seconds: About what it takes here.
    """

    name: str
    steps: tuple[str, ...]
    weights_bytes: int
    added_bytes: int
    memory: MemoryNeed
    memory_budget_bytes: int
    check: TargetCheck
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "steps": list(self.steps),
            "weights_bytes": self.weights_bytes,
            "added_bytes": self.added_bytes,
            "memory": self.memory.to_dict(),
            "memory_budget_bytes": self.memory_budget_bytes,
            "seconds": round(self.seconds),
            **self.check.to_dict(),
        }


class Planner:
    """Goes through the targets in order and remembers what a later one shares with an earlier.

    Args:
        inputs: What the build is made of.
        sources: Adapter name to its source.
        shape: The base's sizes.
        parity: Whether the gate would run.
    """

    def __init__(
        self,
        inputs: BuildInputs,
        sources: Mapping[str, AdapterSource],
        shape: BaseShape,
        parity: bool,
    ) -> None:
        self._inputs = inputs
        self._sources = sources
        self._shape = shape
        self._parity = parity
        self._first: dict[object, str] = {}

    def plan(self, profile: TargetProfile) -> PlannedTarget:
        """Plan the next target."""
        check = check_target(profile)
        modules = [adapter.modules for adapter in self._inputs.adapters[profile.name].values()]
        weights = disk_bytes(self._shape, profile)
        export_step, export_seconds = self._export(profile)
        calibration_steps, calibration_seconds = self._calibration(profile)
        store_step, new_weights = self._store(profile, weights)
        adapter_steps, new_adapters = self._adapters(profile)
        gate_step, gate_seconds = self._gate(profile, check, len(modules))
        return PlannedTarget(
            name=profile.name,
            steps=(
                export_step,
                *calibration_steps,
                f"sockets and {'two' if profile.builder == 'static' else 'three'} graphs; "
                f"{store_step}",
                *adapter_steps,
                gate_step,
            ),
            weights_bytes=weights,
            added_bytes=new_weights
            + new_adapters
            + _GRAPH_BYTES_PER_LAYER * self._shape.n_layers
            + self._shape.tokenizer_bytes,
            memory=memory_need(self._shape, profile, modules),
            memory_budget_bytes=profile.memory_budget_bytes,
            check=check,
            seconds=export_seconds
            + calibration_seconds
            + _WRITE_SECONDS_PER_WEIGHT * self._shape.n_weights
            + gate_seconds,
        )

    def _earlier(self, what: object, profile: TargetProfile) -> str | None:
        """The target that made the same thing before; None if this one is the first."""
        first = self._first.setdefault(what, profile.name)
        return None if first == profile.name else first

    def _export(self, profile: TargetProfile) -> tuple[str, float]:
        if profile.builder == "static":
            provider = short_name(profile.execution_provider)
            seconds = self._export_seconds()
            if profile.execution_provider != QNN:
                return f"static graphs for {provider}", seconds
            seconds += _COMPILE_SECONDS_PER_WEIGHT * self._shape.n_weights
            return f"static graphs, compiled for {provider}", seconds
        if self._inputs.base.is_prebuilt:
            return "int4 graph: as it came", 0.0
        path = export_path(self._inputs.base, profile)
        if earlier := self._earlier(("export", path.name), profile):
            return f"int4 graph: the export of '{earlier}'", 0.0
        if is_intact(path):
            return "int4 graph: from the cache", 0.0
        return "int4 graph: exported by the model builder", self._export_seconds()

    def _calibration(self, profile: TargetProfile) -> tuple[list[str], float]:
        """The step of weights that need calibration text, none for others."""
        base, options = self._inputs.base, profile.quantization
        if base.is_prebuilt or not options.needs_text:
            return [], 0.0
        if is_intact(export_path(base, profile)) and not self._parity:
            return [], 0.0  # they are in the export; only the gate compares with them
        path = quantized_path(base, options)
        if earlier := self._earlier(("calibrated", path.name), profile):
            return [f"calibrate: the weights of '{earlier}'"], 0.0
        if path.is_file():
            return ["calibrate: weights from the cache"], 0.0
        rows, tokens = options.calibration.rows, options.calibration.row_tokens
        seconds = _CALIBRATION_SECONDS_PER_WEIGHT * self._shape.n_weights * rows * tokens
        how = options.algorithm if options.is_calibrated else "8 bits where they help most"
        step = f"calibrate: {how}, {rows} rows of {tokens} tokens, {about(seconds)} on one core"
        return [step], seconds

    def _store(self, profile: TargetProfile, weights: int) -> tuple[str, int]:
        """What becomes of a target's weights, and how many bytes of them are new."""
        rounded = ("weights", _rounding(profile))
        same_dtype = (*rounded, profile.io_dtype)
        earlier = None if profile.builder == "static" else self._earlier(same_dtype, profile)
        if earlier is None:
            earlier = None if profile.builder == "static" else self._earlier(rounded, profile)
            if earlier is None:
                return f"weights of their own, {weights / 1e6:.1f} MB", weights
            scales = self._shape.n_weights // profile.quantization.block_size
            new_bytes = scales * (4 if profile.io_dtype == "float32" else 2)
            step = f"the weights of '{earlier}', its own scales, {new_bytes / 1e6:.1f} MB"
            return step, new_bytes
        return f"the weights of '{earlier}'", 0  # rows of a packed matrix are found, too

    def _export_seconds(self) -> float:
        return _EXPORT_SECONDS + _EXPORT_SECONDS_PER_WEIGHT * self._shape.n_weights

    def _adapters(self, profile: TargetProfile) -> tuple[list[str], int]:
        """A step for each adapter, and the bytes of the files that no earlier target has."""
        steps, new_bytes = [], 0
        for name, adapter in self._inputs.adapters[profile.name].items():
            source = self._sources[name].for_target(profile.name)
            own = profile.name if profile.name in self._sources[name].by_target else ""
            what = ("adapter", name, source, own, adapter_layout(profile))
            if earlier := self._earlier(what, profile):
                steps.append(f"adapter '{name}': the file of '{earlier}'")
                continue
            size = adapter_bytes(adapter.modules, self._shape, profile)
            new_bytes += size
            steps.append(f"adapter '{name}': converted to {profile.io_dtype}, {size / 1e6:.1f} MB")
        return steps, new_bytes

    def _gate(
        self, profile: TargetProfile, check: TargetCheck, n_adapters: int
    ) -> tuple[str, float]:
        if not self._parity:
            return "no parity gate: the target is marked as unchecked", 0.0
        graphs = (profile.builder, profile.quantization, profile.io_dtype, profile.adapters)
        adapters = [source.for_target(profile.name) for source in self._sources.values()]
        what = ("gate", repr((graphs, adapters, profile.parity, check.verified_on)))
        if earlier := self._earlier(what, profile):
            return f"parity gate: its graphs are those of '{earlier}', checked there", 0.0
        provider = short_name(check.verified_on)
        per_weight = _BASE_GATE_SECONDS_PER_WEIGHT + n_adapters * _ADAPTER_GATE_SECONDS_PER_WEIGHT
        what_is_checked = "the base" + (f", {n_adapters} adapters" if n_adapters else "")
        if profile.execution_provider == QNN:
            positions = profile.parity.compiled_positions * (1 + n_adapters)
            per_weight += _SIMULATOR_SECONDS_PER_WEIGHT * positions
        seconds = per_weight * self._shape.n_weights
        return f"parity gate on {provider}: {what_is_checked}", seconds


def about(seconds: float) -> str:
    """A time in words, never more exact than an estimate is: tens of seconds, then minutes."""
    if seconds < 90:
        return f"about {max(10, round(seconds, -1)):.0f} s"
    return f"about {seconds / 60:.0f} min"


def _rounding(profile: TargetProfile) -> str:
    """What decides the stored numbers of a target's weights."""
    return profile.quantization.model_dump_json(exclude={"accuracy_level"})
