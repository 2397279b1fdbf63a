"""What a build is made of, read and checked before any work is done."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edgekit.adapters.peft_dir import PeftAdapter, read_peft_adapter
from edgekit.bases import Base, resolve_base
from edgekit.building.base_shape import shape_of
from edgekit.building.export import refuse_unsupported, rounds_here
from edgekit.building.fit import check_fit
from edgekit.building.prebuilt import (
    linear_shapes,
    profile_of,
    quantization_of,
    resolve_prebuilt,
)
from edgekit.bundling.adapters import AdapterSource
from edgekit.bundling.names import check_names
from edgekit.bundling.write import refuse_existing
from edgekit.errors import BuildError, PeftAdapterError
from edgekit.quantizing.options import as_texts, change, check_sources
from edgekit.targets import TargetProfile, load_target

# k_quant cuts off an end of a block where the rest gains by it; the farthest weight seen lies 1.34
# steps from its float original (SmolLM2-135M).
_K_QUANT_STEPS = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildInputs:
    """A build's inputs, which fit together, the targets and this machine.

    Attributes:
        profiles: Target name to its profile.
        sources: Adapter name to where it comes from, by the targets' names.
        adapters: Target name to adapter name to the adapter as read for it.
    """

    base: Base
    profiles: Mapping[str, TargetProfile]
    sources: Mapping[str, AdapterSource]
    adapters: Mapping[str, Mapping[str, PeftAdapter]]


def check_inputs(
    *,
    name: str,
    base: str | None,
    output: Path,
    targets: tuple[str, ...],
    adapters: Mapping[str, AdapterSource],
    base_onnx: Path | None = None,
    quantization: str | None = None,
    max_nll_increase: float | None,
    parity: bool,
    assume_base: bool,
    overwrite: bool,
    on_message: Callable[[str], None] = lambda _: None,
) -> BuildInputs:
    """Read and check everything that a build needs; the arguments are those of ``build``.

    Raises:
        EdgekitError: A child of it, with every problem of the artifact at fault.
    """
    refuse_existing(output, overwrite=overwrite)
    check_names(name, adapters)
    profiles = load_profiles(targets, quantization, max_nll_increase)
    if base_onnx is None:
        check_sources({f"target '{one.name}'": one.quantization for one in profiles.values()})
    on_message(f"resolving the base '{base_onnx or base}'")
    origin = None
    if base_onnx is not None:
        if quantization is not None:
            raise BuildError(f"'{base_onnx}' is quantized already: '{quantization}' cannot be had")
        resolved = resolve_prebuilt(base_onnx)
        profiles = {name: profile_of(resolved, profile) for name, profile in profiles.items()}
        origin = resolve_base(base) if base is not None else None
    else:
        resolved = resolve_base(base or "")
        refuse_unsupported(resolved)
    _check_blocks(resolved, profiles)
    adapters = _by_name(adapters, dict(zip(targets, profiles, strict=True)))
    read = {
        target: read_adapters(adapters, resolved, profile, assume_base=assume_base, origin=origin)
        for target, profile in profiles.items()
    }
    check_fit(resolved, profiles, read, output, parity=parity)
    return BuildInputs(base=resolved, profiles=profiles, sources=adapters, adapters=read)


def _by_name(
    adapters: Mapping[str, AdapterSource], names: Mapping[str, str]
) -> dict[str, AdapterSource]:
    """Adapters whose own paths are found by a target's name, however the target was said.

    Args:
        adapters: Adapter name to its source.
        names: What was said for a target, its name or a profile's path, to its name.

    Raises:
        BuildError: If an adapter has nothing for a target.
    """
    named = {}
    problems = []
    for adapter, source in adapters.items():
        own = {names.get(target, target): path for target, path in source.by_target.items()}
        if not source.is_for_every_target:
            problems += [
                f"adapter '{adapter}': no path for target '{target}', and no default"
                for target in names.values()
                if target not in own
            ]
        named[adapter] = replace(source, by_target=own)
    if problems:
        raise BuildError(
            "adapters are missing for some targets",
            problems=problems,
            hint="Name a path for the target, or a `default:` for all that are not named.",
        )
    return named


def _check_blocks(base: Base, profiles: Mapping[str, TargetProfile]) -> None:
    """Raise if weights that are rounded here do not fill whole blocks; the builder would pad.

    And if a GPU would look up other zero points than k_quant's, see ``has_zero_points``.
    """
    problems: list[str] = []
    for target, profile in profiles.items():
        size = profile.quantization.block_size
        if base.is_prebuilt:
            continue
        problems += _misread_zero_points(base, profile)
        if not rounds_here(profile):
            continue
        into = {shape[1] for shape in linear_shapes(base).values()}
        problems += [
            f"target '{target}': {columns} inputs are no whole number of blocks of {size}"
            for columns in sorted(into)
            if columns % size
        ]
    if problems:
        raise BuildError(
            f"base '{base.name}' cannot be quantized so",
            problems=problems,
            hint="Choose a quantization.block_size that divides them, such as 32 or 16.",
        )


def _misread_zero_points(base: Base, profile: TargetProfile) -> Iterator[str]:
    options, shape = profile.quantization, shape_of(base)
    n_blocks = -(-shape.hidden_size // options.block_size)
    if (
        profile.builder in {"cuda", "webgpu"}
        and options.algorithm == "k_quant"
        and options.head_bits == 4
        and shape.is_tied
        and n_blocks % 2
    ):
        yield (
            f"target '{profile.name}': {shape.hidden_size} inputs of the embedding are an odd "
            f"number of blocks of {options.block_size}, whose zero points the device misreads"
        )


def read_adapters(
    adapters: Mapping[str, AdapterSource],
    base: Base,
    profile: TargetProfile,
    *,
    assume_base: bool,
    origin: Base | None = None,
) -> dict[str, PeftAdapter]:
    """Read and check every adapter for a target; the problems of all are raised at once.

    Args:
        adapters: Adapter name to its source.
        base: What they are to run on.
        profile: The target.
        assume_base: Take adapters whose recorded base contradicts.
        origin: What a prebuilt ONNX base was made from, as a person says: compared instead of it.
    """
    shapes = linear_shapes(base)
    read: dict[str, PeftAdapter] = {}
    errors: list[PeftAdapterError] = []
    for name, source in adapters.items():
        try:
            adapter = read_peft_adapter(
                source.for_target(profile.name),
                origin or base,
                name=name,
                max_rank=profile.adapters.max_rank,
                target=profile.name,
                assume_base=assume_base,
                shapes=shapes,
            )
            read[name] = replace(adapter, binding="assumed") if base.is_prebuilt else adapter
        except PeftAdapterError as err:
            errors.append(err)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise PeftAdapterError(
            f"{len(errors)} adapters cannot be used",
            problems=[line for err in errors for line in str(err).splitlines()],
        )
    return read


def quantization_in_words(
    base: Base, profiles: Mapping[str, TargetProfile]
) -> dict[str, Mapping[str, str]]:
    """Target name to how its weights are quantized, as its manifest says it."""
    return {
        target: quantization_of(base) if base.is_prebuilt else as_texts(profile.quantization)
        for target, profile in profiles.items()
    }


def load_profiles(
    targets: tuple[str, ...], quantization: str | None, max_nll_increase: float | None
) -> dict[str, TargetProfile]:
    """Profiles by name, with the recipe's own quantization, and bound on it, where it sets them."""
    if not targets:
        raise BuildError("no target was named", hint="Say --target cpu, or list targets.")
    profiles: dict[str, TargetProfile] = {}
    for reference in targets:
        profile = load_target(reference)
        if profile.name in profiles:
            raise BuildError(
                f"target '{profile.name}' is named twice",
                hint="Give your own profile a name of its own.",
            )
        # Static graphs have a rounding of their own, which these options do not know.
        if quantization is not None and profile.builder != "static":
            options = change(profile.quantization, quantization)
            profile = profile.model_copy(update={"quantization": options})
        changes: dict[str, float | None] = {}
        if max_nll_increase is not None:
            changes["max_nll_increase"] = max_nll_increase
        if profile.quantization.is_calibrated:
            # Such weights may move by several steps; the gate compares with what was quantized.
            changes["max_weight_error_steps"] = None
        elif profile.quantization.algorithm == "k_quant":
            bound = profile.parity.max_weight_error_steps
            changes["max_weight_error_steps"] = bound and max(bound, _K_QUANT_STEPS)
        bounds = profile.parity.model_copy(update=changes)
        profile = profile.model_copy(update={"parity": bounds})
        profiles[profile.name] = profile
    return profiles
