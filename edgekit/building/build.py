"""Build a bundle: one base, N adapters, one directory per target, proven before it ships."""

import filecmp
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.bases import Base
from edgekit.building.device_weights import device_weights
from edgekit.building.health import record_health
from edgekit.building.inputs import check_inputs, quantization_in_words
from edgekit.building.parity import check_parity
from edgekit.building.parity_figures import AdapterFiles, ParityFigures
from edgekit.building.prebuilt_parity import check_prebuilt_parity
from edgekit.building.same_quantization import refuse_other_quantization
from edgekit.building.sessions import gate_provider
from edgekit.building.target_dir import graphs_of, target_record, verified_on, write_target
from edgekit.building.weights import WeightStore
from edgekit.bundling.adapters import AdapterSource, file_stems, write_adapter, write_card
from edgekit.bundling.write import (
    PARITY_REPORT,
    staged_bundle,
    write_json,
    write_manifest,
)
from edgekit.quantizing.quantize import quantize_base
from edgekit.targets import TargetProfile
from edgekit_runtime.contract import SocketContract
from edgekit_runtime.health import HEALTH_FILE
from edgekit_runtime.manifest import BaseRecord, Manifest


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildReport:
    """What was built.

    Attributes:
        parity: Target to adapter name (``""`` for the base) to figures; empty if unchecked.
        seconds: Target to the time that its graphs, adapters and gate took.
    """

    output: Path
    manifest: Manifest
    parity: Mapping[str, Mapping[str, ParityFigures]]
    seconds: Mapping[str, float]

    @property
    def size_bytes(self) -> int:
        """Total size of the bundle's files."""
        return sum(file.size_bytes for file in self.manifest.files)

    def sizes(self) -> dict[str, int]:
        """Bytes by what they are for: weights, graphs, tokenizer, each adapter, the rest."""
        kinds = {"weights": "weights", "targets": "graphs", "tokenizer": "tokenizer"}
        found: dict[str, int] = {}
        for file in self.manifest.files:
            folder, _, rest = file.path.partition("/")
            kind = kinds.get(folder, "the rest")
            if folder == "adapters":
                kind = f"adapter {rest.partition('/')[0]}"
            found[kind] = found.get(kind, 0) + file.size_bytes
        return found

    def read_bytes(self, target: str) -> int:
        """Size of what a device of this target reads: graphs, weights, adapters, tokenizer."""
        record = self.manifest.targets[target]
        adapters = {entry.files.get(target) for entry in self.manifest.adapters.values()}
        return sum(
            file.size_bytes
            for file in self.manifest.files
            if file.path.startswith(f"{record.path}/")
            or file.path in record.weights
            or file.path in adapters
        )


def build(
    *,
    name: str,
    base: str | None = None,
    base_onnx: Path | None = None,
    output: Path,
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
) -> BuildReport:
    """Build a bundle.

    Args:
        name: The bundle's name.
        base: Alias, Hub id, directory or ``.gguf`` file; beside ``base_onnx``, what that was made
            from, where adapters record it.
        base_onnx: An int4 ONNX model that somebody else built, as onnxruntime-genai loads it: used
            instead of an export, without PyTorch.
        output: The bundle's directory; written atomically.
        targets: Names or paths of target profiles.
        adapters: Adapter name to its source.
        release: The bundle's version.
        quantization: Options other than the targets' own, such as ``tier=quality``.
        max_nll_increase: Bound on what quantization may cost, in nats a token.
        parity: Run the parity gate; without it the targets are marked as unchecked.
        assume_base: Take adapters whose recorded base name contradicts.
        allow_other_quantization: Take adapters that were trained on other quantized weights than
            a target's.
        overwrite: Replace an existing bundle.
        on_message: Called with a line of progress.

    Raises:
        EdgekitError: A child of it, with every problem of the artifact at fault.
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
    resolved, profiles, read = inputs.base, inputs.profiles, inputs.adapters
    adapters = inputs.sources
    if not allow_other_quantization:
        refuse_other_quantization(
            read,
            quantization_in_words(resolved, profiles),
            lambda target: device_weights(resolved, profiles[target], on_message),
        )
    with staged_bundle(output, overwrite=overwrite) as root:
        store = WeightStore(root)
        contracts = {}
        clock = _Clock()
        for target, profile in profiles.items():
            on_message(f"target '{target}'")
            directory = root / "targets" / target
            with clock.time(target):
                contracts[target] = write_target(directory, resolved, profile, store, on_message)
        stems = file_stems(contracts)
        files = {
            target: {
                adapter: write_adapter(
                    root, adapter, adapters[adapter], peft, contract, target, stems[target]
                )
                for adapter, peft in read[target].items()
            }
            for target, contract in contracts.items()
        }
        health = {target: _record_health(root, target, files[target]) for target in profiles}
        figures = {}
        if parity:
            figures = _check_targets(root, resolved, profiles, contracts, files, clock, on_message)
        records = {
            target: target_record(
                resolved,
                profile,
                store,
                verified_on=verified_on(figures[target][""]) if parity else None,
            )
            for target, profile in profiles.items()
        }
        _write_tokenizer(root, profiles)
        _write_licenses(root, resolved)
        write_json(root / PARITY_REPORT, _base_report(profiles, figures))
        adapter_records = {
            adapter: write_card(
                root,
                adapter,
                source,
                {target: read[target][adapter] for target in profiles},
                stems,
                resolved.fingerprint,
                {target: by_adapter[adapter] for target, by_adapter in figures.items()},
                {target: told[adapter] for target, told in health.items() if adapter in told},
            )
            for adapter, source in adapters.items()
        }
        on_message("writing the manifest")
        manifest = write_manifest(
            root,
            name=name,
            release=release,
            base=_base_record(resolved),
            targets=records,
            adapters=adapter_records,
        )
    return BuildReport(output=output, manifest=manifest, parity=figures, seconds=clock.seconds)


def parity_report(
    figures: Mapping[str, Mapping[str, ParityFigures]],
) -> dict[str, dict[str, dict[str, object]]]:
    """The JSON form: target to adapter (``base`` for none) to figures."""
    return {
        target: {name or "base": figure.to_dict() for name, figure in by_adapter.items()}
        for target, by_adapter in figures.items()
    }


def _record_health(
    root: Path, target: str, files: Mapping[str, AdapterFiles]
) -> dict[str, dict[str, Any]]:
    """What a target answers; the base's answer goes into the target's directory."""
    directory = root / "targets" / target
    told = record_health(
        directory, {name: (file.onnx, file.prompts) for name, file in files.items()}
    )
    if "" in told:
        write_json(directory / HEALTH_FILE, told[""])
    return told


class _Clock:
    """Adds up the time that was spent on each target."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def time(self, target: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[target] = self.seconds.get(target, 0) + time.perf_counter() - started


def _check_targets(
    root: Path,
    base: Base,
    profiles: Mapping[str, TargetProfile],
    contracts: Mapping[str, SocketContract],
    files: Mapping[str, Mapping[str, AdapterFiles]],
    clock: "_Clock",
    on_message: Callable[[str], None],
) -> dict[str, dict[str, ParityFigures]]:
    """Run the gate on every target; targets of the same graphs and adapters are checked once."""
    figures: dict[str, dict[str, ParityFigures]] = {}
    done: list[tuple[object, str]] = []
    for target, profile in profiles.items():
        directory = root / "targets" / target
        on_message(f"target '{target}': the parity gate")
        provider = gate_provider(profile)
        graphs = [(directory / graph).read_bytes() for graph in graphs_of(profile).values()]
        what = (graphs, profile.quantization, files[target], profile.parity, provider)
        if same := next((name for done_what, name in done if done_what == what), None):
            on_message(f"target '{target}': its graphs are those of '{same}', checked already")
            figures[target] = figures[same]
            continue
        with clock.time(target):
            if base.is_prebuilt:
                figures[target] = check_prebuilt_parity(
                    directory,
                    base,
                    contracts[target],
                    files[target],
                    profile.parity,
                    provider=provider,
                    on_message=on_message,
                )
            else:
                figures[target] = check_parity(
                    directory,
                    base,
                    contracts[target],
                    files[target],
                    profile.parity,
                    quantized=quantize_base(base, profile.quantization, on_message=on_message),
                    provider=provider,
                    on_message=on_message,
                )
        done.append((what, target))
    return figures


def _base_report(
    profiles: Mapping[str, TargetProfile], figures: Mapping[str, Mapping[str, ParityFigures]]
) -> dict[str, object]:
    """``reports/parity.json``: each target's bounds and the base's figures.

    An adapter's figures are in its own card, so that adding one changes no file of the base.
    """
    return {
        target: {
            "bounds": profile.parity.model_dump(),
            "base": figures[target][""].to_dict() if target in figures else None,
        }
        for target, profile in profiles.items()
    }


def _base_record(base: Base) -> BaseRecord:
    return BaseRecord(
        name=base.name,
        source=base.source,
        fingerprint=base.fingerprint,
        architecture=base.architecture,
        license=base.license,
    )


def _write_tokenizer(root: Path, targets: Iterable[str]) -> None:
    """The tokenizer at the top, for readers other than genai; each target's is a hard link to it.

    genai reads it from the target's own directory.
    """
    (root / "tokenizer").mkdir()
    for target in targets:
        for file in sorted((root / "targets" / target).iterdir()):
            if file.name.startswith(("tokenizer", "chat_template", "special_tokens")):
                shared = root / "tokenizer" / file.name
                if not shared.exists():
                    shutil.copyfile(file, shared)
                if filecmp.cmp(file, shared, shallow=False):
                    _link(shared, file)


def _link(existing: Path, path: Path) -> None:
    """Put a hard link in the place of an equal file, where the file system has them."""
    temporary = path.with_name(f".{path.name}.link")
    try:
        temporary.hardlink_to(existing)
    except OSError:
        return
    temporary.replace(path)
    temporary.unlink(missing_ok=True)  # renaming onto a link to the same file does nothing


def _write_licenses(root: Path, base: Base) -> None:
    """What the base declares, and its own licence files; an adapter's licence is in its card."""
    directory = root / "licenses"
    directory.mkdir()
    text = f"base {base.name}: {base.license or 'not declared'}\n"
    (directory / "LICENSES.txt").write_text(text, encoding="utf-8", newline="\n")
    for file in sorted(base.path.glob("LICEN[SC]E*")):
        shutil.copyfile(file, directory / f"base-{file.name}")
