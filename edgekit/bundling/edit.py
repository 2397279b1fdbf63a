"""Add an adapter to a bundle, or remove one; the base is never rebuilt.

The new adapter's files are written first and the manifest last, in one rename: a reader, or a
kill, finds the old bundle or the new one.
"""

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from edgekit.adapters.peft_dir import PeftAdapter, read_peft_adapter
from edgekit.bases import ONNX_SOURCE, Base, resolve_base
from edgekit.building.device_weights import weights_of_target
from edgekit.building.health import record_health
from edgekit.building.parity import check_parity
from edgekit.building.parity_figures import ParityFigures
from edgekit.building.prebuilt import linear_shapes
from edgekit.building.prebuilt_parity import check_prebuilt_parity
from edgekit.building.same_quantization import refuse_other_quantization
from edgekit.bundling.adapters import AdapterSource, file_stems, write_adapter, write_card
from edgekit.bundling.names import check_names
from edgekit.bundling.write import PARITY_REPORT, bundle_lock, describe_file
from edgekit.errors import BaseModelError, BuildError
from edgekit.targets import ParityBounds
from edgekit_runtime.bundle import Bundle
from edgekit_runtime.contract import SocketContract
from edgekit_runtime.disk import flush, remove, replace_file
from edgekit_runtime.errors import nearest
from edgekit_runtime.manifest import (
    MANIFEST_NAME,
    SCHEMA_VERSION,
    AdapterRecord,
    Manifest,
    TargetRecord,
)
from edgekit_runtime.verification import SIGNATURE_NAME


def add_adapter(
    bundle: Path,
    name: str,
    source: AdapterSource,
    *,
    base: str | None = None,
    assume_base: bool = False,
    allow_other_quantization: bool = False,
    parity: bool = True,
    on_message: Callable[[str], None] = lambda _: None,
) -> dict[str, ParityFigures]:
    """Convert an adapter, prove it against the bundle's own graphs, and add it.

    Args:
        bundle: Directory of the bundle.
        name: The new adapter's name.
        source: Where it comes from.
        base: Where the float base is, if the manifest's name no longer finds it; for a bundle of a
            prebuilt ONNX model, what that was made from.
        assume_base: Take an adapter whose recorded base name contradicts.
        allow_other_quantization: Take an adapter that was trained on other quantized weights than
            a target's.
        parity: Run the parity gate for it.
        on_message: Called with a line of progress.

    Returns:
        Parity figures by target; empty without the gate.

    Raises:
        EdgekitError: A child of it; the bundle is as it was.
    """
    with _editing(bundle, verify="full") as manifest:
        check_names(None, [*manifest.adapters, name] if name not in manifest.adapters else [name])
        if name in manifest.adapters:
            raise BuildError(
                f"bundle '{bundle}' has an adapter '{name}' already",
                hint=f"Remove it first: edgekit bundle remove {bundle} {name}",
            )
        resolved = _bundle_base(bundle, manifest, base)
        origin = resolve_base(base) if base and resolved.is_prebuilt else None
        read: dict[str, PeftAdapter] = {}
        figures: dict[str, ParityFigures] = {}
        health: dict[str, dict[str, Any]] = {}
        contracts = {
            target: _contract(bundle / record.sockets)
            for target, record in manifest.targets.items()
        }
        stems = file_stems(contracts)
        for target, record in manifest.targets.items():
            contract = contracts[target]
            on_message(f"converting '{name}' for target '{target}'")
            adapter = read_peft_adapter(
                source.for_target(target),
                origin or resolved,
                name=name,
                max_rank=contract.max_rank,
                target=target,
                assume_base=assume_base,
                shapes=linear_shapes(resolved),
            )
            read[target] = replace(adapter, binding="assumed") if origin else adapter
            if not allow_other_quantization:
                _check_quantization(bundle / record.path, name, resolved, contract, record, adapter)
            files = write_adapter(
                bundle, name, source, read[target], contract, target, stems[target]
            )
            told = record_health(bundle / record.path, {name: (files.onnx, files.prompts)})
            health |= {target: told[name]} if name in told else {}
            if parity:
                check = check_prebuilt_parity if resolved.is_prebuilt else check_parity
                checked = check(
                    bundle / record.path,
                    resolved,
                    contract,
                    {name: files},
                    _bounds(bundle, target),
                    check_base=False,
                    on_message=on_message,
                )
                figures[target] = checked[name]
        entry = write_card(bundle, name, source, read, stems, resolved.fingerprint, figures, health)
        _switch(bundle, _marked(manifest, parity), {**manifest.adapters, name: entry})
    return figures


def _check_quantization(
    directory: Path,
    name: str,
    base: Base,
    contract: SocketContract,
    record: TargetRecord,
    adapter: PeftAdapter,
) -> None:
    target = directory.name
    refuse_other_quantization(
        {target: {name: adapter}},
        {target: record.quantization},
        lambda _: weights_of_target(directory, base, contract),
    )


def remove_adapter(bundle: Path, name: str) -> None:
    """Take an adapter out of a bundle.

    Raises:
        BuildError: If there is none of that name.
    """
    with _editing(bundle, verify="sizes") as manifest:
        if name not in manifest.adapters:
            raise BuildError(
                f"bundle '{bundle}' has no adapter '{name}'; {nearest(name, manifest.adapters)}"
            )
        kept = {key: value for key, value in manifest.adapters.items() if key != name}
        _switch(bundle, manifest, kept)


@contextmanager
def _editing(bundle: Path, *, verify: Literal["sizes", "full"]) -> Iterator[Manifest]:
    """Hold a bundle for a change; what the manifest does not list in the end is removed."""
    with bundle_lock(bundle):
        manifest = Bundle.open(bundle, verify=verify).manifest
        if _minor(manifest.schema_version) > _minor(SCHEMA_VERSION):
            raise BuildError(
                f"the manifest of bundle '{bundle}' has version {manifest.schema_version}, "
                f"this edgekit writes {SCHEMA_VERSION} and would lose what it does not know",
                hint="Update edgekit (pip install -U edgekit), or build the bundle again.",
            )
        try:
            _sweep(bundle)
            yield manifest
        except OSError as err:
            raise BuildError(f"bundle '{bundle}' cannot be changed: {err}") from err
        finally:
            _sweep(bundle)


def _minor(version: str) -> int:
    """The minor version; another major one is refused when the manifest is read."""
    minor = version.partition(".")[2]
    return int(minor) if minor.isdecimal() else sys.maxsize


def _sweep(bundle: Path) -> None:
    """Remove adapters that the manifest does not list: of a failed edit, a killed one, or removed.

    The manifest is read anew: an interrupt may have come just before or just after its switch.
    """
    (bundle / f".{MANIFEST_NAME}.tmp").unlink(missing_ok=True)
    manifest = Manifest.from_bytes((bundle / MANIFEST_NAME).read_bytes())
    directory = bundle / "adapters"
    for path in sorted(directory.iterdir()) if directory.is_dir() else ():
        if path.name not in manifest.adapters and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)


def _marked(manifest: Manifest, parity: bool) -> Manifest:
    """Targets count as verified as long as everything in them is."""
    if parity:
        return manifest
    unchecked = {
        target: replace(record, verified_on=None) for target, record in manifest.targets.items()
    }
    return replace(manifest, targets=unchecked)


def _bundle_base(bundle: Path, manifest: Manifest, reference: str | None) -> Base:
    """The base that the bundle was built from; another one is refused.

    A bundle of a prebuilt ONNX model has all that there is of its base in its own graphs.
    """
    if manifest.base.source.startswith(ONNX_SOURCE):
        target = next(iter(manifest.targets.values()))
        return Base(
            name=manifest.base.name,
            source=manifest.base.source,
            path=bundle / target.path,
            fingerprint=manifest.base.fingerprint,
            architecture=manifest.base.architecture,
            license=manifest.base.license,
        )
    try:
        base = resolve_base(reference or manifest.base.name)
    except BaseModelError as err:
        raise BaseModelError(
            f"the bundle's base '{manifest.base.name}' ({manifest.base.source}) was not found",
            problems=[err.what],
            hint="Say where it is with --base.",
        ) from err
    if base.fingerprint != manifest.base.fingerprint:
        raise BaseModelError(
            f"'{base.name}' is not the base of this bundle",
            problems=[
                f"fingerprint: expected {manifest.base.fingerprint} "
                f"('{manifest.base.name}'), got {base.fingerprint}"
            ],
            hint="Say where the right base is with --base.",
        )
    return base


def _contract(path: Path) -> SocketContract:
    problems: list[str] = []
    contract = SocketContract.from_dict(json.loads(path.read_text(encoding="utf-8")), problems)
    if problems:
        raise BuildError(f"'{path}' is malformed", problems=problems)
    return contract


def _bounds(bundle: Path, target: str) -> ParityBounds:
    """The bounds that the bundle was built with; its profile may be another one by now."""
    report = json.loads((bundle / PARITY_REPORT).read_text(encoding="utf-8"))
    try:
        return ParityBounds.model_validate(report[target]["bounds"])
    except (KeyError, TypeError, ValidationError) as err:
        raise BuildError(
            f"'{bundle / PARITY_REPORT}' does not say what the parity gate demands: {err}",
            hint="Build the bundle again with this edgekit.",
        ) from err


def _switch(bundle: Path, manifest: Manifest, adapters: Mapping[str, AdapterRecord]) -> None:
    """Make these the bundle's adapters, in one rename of the manifest file."""
    used = {path for entry in adapters.values() for path in (entry.card, *entry.files.values())}
    kept = [
        file
        for file in manifest.files
        if not file.path.startswith("adapters/") or file.path in used
    ]
    added = [bundle / path for path in sorted(used - {file.path for file in kept})]
    for path in added:
        flush(path)
    for directory in {path.parent for path in added}:
        flush(directory)
        flush(directory.parent)
    files = sorted(
        (*kept, *(describe_file(bundle, path) for path in added)), key=lambda file: file.path
    )
    switched = replace(manifest, adapters=adapters, files=tuple(files))
    remove(bundle / SIGNATURE_NAME)  # it vouches for what the bundle was
    replace_file(bundle / MANIFEST_NAME, switched.to_bytes())
