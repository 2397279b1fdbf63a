"""Add an adapter to a bundle, or remove one; the base is never rebuilt.

The new adapter's files are written first and the manifest last, in one rename: a reader, or a
kill, finds the old bundle or the new one.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit.adapters.peft_dir import PeftAdapter, read_peft_adapter
from edgekit.bases import Base, resolve_base
from edgekit.building.build import check_names, parity_report
from edgekit.building.parity import ParityFigures, check_parity
from edgekit.bundling.adapters import AdapterSource, write_adapter, write_card
from edgekit.bundling.write import bundle_lock, describe_file, replace_file, write_json
from edgekit.errors import BaseModelError, BuildError
from edgekit.targets import load_target
from edgekit_runtime.bundle import Bundle
from edgekit_runtime.contract import SocketContract
from edgekit_runtime.errors import nearest
from edgekit_runtime.manifest import MANIFEST_NAME, FileRecord, Manifest

_PARITY_REPORT = "reports/parity.json"


def add_adapter(
    bundle: Path,
    name: str,
    source: AdapterSource,
    *,
    base: str | None = None,
    assume_base: bool = False,
    parity: bool = True,
    on_message: Callable[[str], None] = lambda _: None,
) -> dict[str, ParityFigures]:
    """Convert an adapter, prove it against the bundle's own graphs, and add it.

    Args:
        bundle: Directory of the bundle.
        name: The new adapter's name.
        source: Where it comes from.
        base: Where the float base is, if the manifest's name no longer finds it.
        assume_base: Take an adapter whose recorded base name contradicts.
        parity: Run the parity gate for it.
        on_message: Called with a line of progress.

    Returns:
        Parity figures by target; empty without the gate.

    Raises:
        EdgekitError: A child of it; the bundle is as it was.
    """
    check_names([name])
    manifest = Bundle.open(bundle, verify="full").manifest
    if name in manifest.adapters:
        raise BuildError(
            f"bundle '{bundle}' has an adapter '{name}' already",
            hint=f"Remove it first: edgekit bundle remove {bundle} {name}",
        )
    resolved = _bundle_base(manifest, base)
    with bundle_lock(bundle):
        _sweep(bundle, manifest)
        try:
            return _add(bundle, manifest, name, source, resolved, assume_base, parity, on_message)
        except BaseException:
            shutil.rmtree(bundle / "adapters" / name, ignore_errors=True)
            raise


def remove_adapter(bundle: Path, name: str) -> None:
    """Take an adapter out of a bundle.

    Raises:
        BuildError: If there is none of that name.
    """
    manifest = Bundle.open(bundle, verify="sizes").manifest
    if name not in manifest.adapters:
        raise BuildError(
            f"bundle '{bundle}' has no adapter '{name}'; {nearest(name, manifest.adapters)}"
        )
    with bundle_lock(bundle):
        adapters = {key: value for key, value in manifest.adapters.items() if key != name}
        report = _read_report(bundle)
        for by_adapter in report.values():
            by_adapter.pop(name, None)
        _switch(bundle, replace(manifest, adapters=adapters), report)
        shutil.rmtree(bundle / "adapters" / name)


def _add(
    bundle: Path,
    manifest: Manifest,
    name: str,
    source: AdapterSource,
    base: Base,
    assume_base: bool,
    parity: bool,
    on_message: Callable[[str], None],
) -> dict[str, ParityFigures]:
    read: dict[str, PeftAdapter] = {}
    figures: dict[str, ParityFigures] = {}
    for target, record in manifest.targets.items():
        contract = _contract(bundle / record.sockets)
        on_message(f"converting '{name}' for target '{target}'")
        read[target] = read_peft_adapter(
            source.for_target(target),
            base,
            name=name,
            max_rank=contract.max_rank,
            assume_base=assume_base,
        )
        files = write_adapter(bundle, name, source, read[target], contract, target)
        if parity:
            checked = check_parity(
                bundle / record.path,
                base,
                contract,
                {name: files},
                load_target(target).parity,
                check_base=False,
                on_message=on_message,
            )
            figures[target] = checked[name]
    dtypes = {target: record.dtype for target, record in manifest.targets.items()}
    entry = write_card(bundle, name, source, read, dtypes, base.fingerprint)
    report = _read_report(bundle)
    for target, by_adapter in parity_report({t: {name: f} for t, f in figures.items()}).items():
        report.setdefault(target, {}).update(by_adapter)
    _switch(bundle, replace(manifest, adapters={**manifest.adapters, name: entry}), report)
    return figures


def _bundle_base(manifest: Manifest, reference: str | None) -> Base:
    """The float base that the bundle was built from; another one is refused."""
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


def _read_report(bundle: Path) -> dict[str, dict[str, Any]]:
    value = json.loads((bundle / _PARITY_REPORT).read_text(encoding="utf-8"))
    assert isinstance(value, dict)
    return value


def _switch(bundle: Path, manifest: Manifest, report: Mapping[str, Any]) -> None:
    """Make the bundle what ``manifest`` says, in one rename of the manifest file."""
    used = {
        path for entry in manifest.adapters.values() for path in (entry.card, *entry.files.values())
    }
    kept = [
        file
        for file in manifest.files
        if file.path != _PARITY_REPORT
        and (not file.path.startswith("adapters/") or file.path in used)
    ]
    known = {file.path for file in kept}
    added = [describe_file(bundle, bundle / path) for path in sorted(used - known)]
    write_json(bundle / _PARITY_REPORT, report)
    added.append(describe_file(bundle, bundle / _PARITY_REPORT))
    files: tuple[FileRecord, ...] = tuple(sorted((*kept, *added), key=lambda file: file.path))
    replace_file(bundle / MANIFEST_NAME, replace(manifest, files=files).to_bytes())


def _sweep(bundle: Path, manifest: Manifest) -> None:
    """Remove what a killed edit left behind."""
    directory = bundle / "adapters"
    for path in directory.iterdir() if directory.is_dir() else ():
        if path.name not in manifest.adapters:
            shutil.rmtree(path)
