"""An adapter inside a bundle: its converted file, and the card that says what it is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.adapters.convert import to_sockets, write_onnx_adapter
from edgekit.adapters.peft_checks import data_set_problems
from edgekit.adapters.peft_dir import PeftAdapter
from edgekit.building.parity_figures import AdapterFiles, ParityFigures
from edgekit.bundling.write import write_json
from edgekit.method_recipes import target_of
from edgekit_runtime import Bundle, BundleError
from edgekit_runtime.contract import SocketContract
from edgekit_runtime.manifest import AdapterRecord
from edgekit_runtime.strict_json import loads

_RECIPE_KEYS = (
    "task", "prompt", "completion", "messages", "text_template", "system", "metrics", "labels",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterSource:
    """Where an adapter of a bundle comes from.

    Attributes:
        path: PEFT directory.
        by_target: Target name, or path of its profile, to another PEFT directory, for adapters
            made for one target.
        is_for_every_target: Whether ``path`` stands in for targets that are not named.
        prompt: Prompt template; replaces the one in the adapter's own record.
        defaults: Generation defaults, e.g. ``{"temperature": 0}``.
        license: SPDX identifier.
    """

    path: Path
    by_target: Mapping[str, Path] = field(default_factory=dict)
    is_for_every_target: bool = True
    prompt: str | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    license: str | None = None

    def for_target(self, target: str) -> Path:
        """The PEFT directory to use on a target."""
        return self.by_target.get(target, self.path)


def write_adapter(
    root: Path,
    name: str,
    source: AdapterSource,
    adapter: PeftAdapter,
    contract: SocketContract,
    target: str,
    stem: str,
) -> AdapterFiles:
    """Convert one adapter for a target; returns both forms, for the parity gate.

    Args:
        root: The bundle's directory.
        name: The adapter's name.
        source: Where it comes from.
        adapter: The adapter as read for this target.
        contract: The target's sockets.
        target: The target's name.
        stem: What :func:`file_stems` calls the file.
    """
    path = root / _file_path(name, source, stem, target)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_onnx_adapter(to_sockets(adapter.modules, contract), contract, path)
    prompts = tuple(str(prompt) for prompt in adapter.record.get("examples") or ())
    return AdapterFiles(
        peft=adapter.path,
        onnx=path,
        prompts=prompts,
        on_device_weights=target_of(adapter.record.get("weights")) is not None,
    )


def write_card(
    root: Path,
    name: str,
    source: AdapterSource,
    adapters: Mapping[str, PeftAdapter],
    stems: Mapping[str, str],
    base_fingerprint: str,
    parity: Mapping[str, ParityFigures],
    health: Mapping[str, Mapping[str, Any]],
) -> AdapterRecord:
    """Write ``adapter.json`` and return the manifest's entry.

    Args:
        root: The bundle's directory.
        name: The adapter's name.
        source: Where it came from.
        adapters: Target name to the adapter as read for it.
        stems: Target name to what :func:`file_stems` calls its file.
        base_fingerprint: The base that it is bound to from here on.
        parity: Target name to what the gate measured; empty if it did not run.
        health: Target name to what it answers, for the health check of a device.
    """
    first = next(iter(adapters.values()))
    record = first.record
    recipe = {key: record.get(key) for key in _RECIPE_KEYS}
    if source.prompt is not None:
        recipe["prompt"] = source.prompt
    defaults: dict[str, Any] = {}
    if record.get("max_new_tokens"):
        defaults["max_new_tokens"] = record["max_new_tokens"]
    validation = record.get("validation") or {}
    card = {
        "schema_version": "1.0",
        "name": name,
        "r": first.max_r,
        "lora_alpha": first.config.get("lora_alpha"),
        "target_modules": list(first.target_modules),
        "base_fingerprint": base_fingerprint,
        "binding": first.binding,
        "source_digest": {target: adapter.digest for target, adapter in adapters.items()},
        "trained_on": {
            target: adapter.record.get("quantization") for target, adapter in adapters.items()
        },
        "license": source.license or record.get("license"),
        "data_sets": record.get("data_sets") or [],
        "defaults": defaults | dict(source.defaults),
        "recipe": recipe,
        "examples": record.get("examples") or [],
        "metrics": validation.get("metrics") or {},
        "parity": {target: figures.to_dict() for target, figures in parity.items()},
        "health": dict(health),
    }
    path = f"adapters/{name}/adapter.json"
    write_json(root / path, card)
    files = {target: _file_path(name, source, stems[target], target) for target in adapters}
    return AdapterRecord(card=path, files=files)


def read_cards(bundle: Bundle) -> dict[str, dict[str, Any]]:
    """Every adapter's card as it was written, with the fields that the runtime does not read.

    Raises:
        BundleError: With every problem of the first card that has any.
    """
    cards = {}
    for name, record in bundle.manifest.adapters.items():
        bundle.adapter_card(name)  # the fields that it does read
        card: dict[str, Any] = loads(bundle.read(record.card))
        problems = data_set_problems(card.get("data_sets"), record.card)
        for key, kind in (("source_digest", str), ("trained_on", dict | None)):
            told = card.setdefault(key, {})
            if not isinstance(told, dict) or not all(isinstance(v, kind) for v in told.values()):
                problems.append(
                    f"{record.card}.{key}: expected an object by target, got {told!r:.60}"
                )
        if problems:
            raise BundleError(
                f"{record.card} is malformed", problems=problems, hint="Build it again."
            )
        cards[name] = card
    return cards


def file_stems(contracts: Mapping[str, SocketContract]) -> dict[str, str]:
    """Name the adapter file of each target; targets with the same sockets share one.

    The first layout of a dtype has the dtype's name; another one (DirectML does not pack q/k/v)
    is named after the first of its targets too. The order of the targets does not matter.
    """
    stems: dict[str, str] = {}
    known: list[tuple[SocketContract, str]] = []
    for target in sorted(contracts):
        contract = contracts[target]
        stem = next((name for same, name in known if same == contract), None)
        if stem is None:
            is_first = all(other.dtype != contract.dtype for other, _ in known)
            stem = contract.dtype if is_first else f"{contract.dtype}-{target}"
            known.append((contract, stem))
        stems[target] = stem
    return stems


def _file_path(name: str, source: AdapterSource, stem: str, target: str) -> str:
    """Targets of one layout share a file, unless the adapter has its own for a target."""
    own = f"{target}." if target in source.by_target else ""
    return f"adapters/{name}/{own}{stem}.onnx_adapter"
