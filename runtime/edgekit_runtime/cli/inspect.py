"""``inspect``: what a bundle holds."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgekit_runtime.cli.console import (
    add_row,
    console,
    new_table,
    printable,
    show_size,
    write_json,
)
from edgekit_runtime.cli.options import BundleArgument, JsonOption

if TYPE_CHECKING:
    from edgekit_runtime import Bundle
    from edgekit_runtime.manifest import Manifest


def inspect_command(bundle: BundleArgument, as_json: JsonOption = False) -> None:
    """Show what a bundle holds: base, targets, adapters, files.

    Reads the manifest and checks the files' sizes; `verify` checks their content.

    Examples:
        {command} my-bundle
        {command} my-bundle --json
    """
    from edgekit_runtime import Bundle

    with Bundle.open(bundle, verify="sizes") as opened:
        described = describe(opened)
    if as_json:
        write_json(described)
    else:
        _show(described)


def describe(bundle: "Bundle") -> dict[str, Any]:
    """A bundle's content as JSON: the manifest, the adapters' cards, and sizes."""
    manifest = bundle.manifest
    return {
        "name": manifest.name,
        "version": manifest.version,
        "schema_version": manifest.schema_version,
        "digest": manifest.digest,
        "base": manifest.base.to_dict(),
        "targets": {
            name: target.to_dict()
            | {
                "size_bytes": _size(manifest, target.path + "/")
                + sum(_size(manifest, path) for path in target.weights)
            }
            for name, target in manifest.targets.items()
        },
        "adapters": {
            name: bundle.adapter_card(name).to_dict()
            | {
                "files": dict(record.files),
                "size_bytes": sum(_size(manifest, path) for path in set(record.files.values())),
            }
            for name, record in manifest.adapters.items()
        },
        "files": [file.to_dict() for file in manifest.files],
        "total_bytes": sum(file.size_bytes for file in manifest.files),
        "tool_versions": dict(manifest.tool_versions),
    }


def _size(manifest: "Manifest", prefix: str) -> int:
    """Bytes of the file of that path, or of all files under a directory given as ``path/``."""
    return sum(
        file.size_bytes
        for file in manifest.files
        if file.path == prefix or (prefix.endswith("/") and file.path.startswith(prefix))
    )


def _show(described: Mapping[str, Any]) -> None:
    out = console()
    base = described["base"]
    head = {
        "bundle": f"{described['name']} {described['version']}",
        "digest": described["digest"],
        "base": f"{base['name']} ({base['architecture']}, {base['source']})",
        "fingerprint": base["fingerprint"],
        "licence": base["license"] or "not declared",
        "size": f"{show_size(described['total_bytes'])} in {len(described['files'])} files",
    }
    # Not a table: a digest is to be copied whole, however narrow the terminal is.
    for label, value in head.items():
        out.print(f"{label:<11}  {printable(value)}", markup=False, soft_wrap=True)
    out.print()
    out.print(_targets_table(described["targets"]))
    if described["adapters"]:
        out.print(_adapters_table(described["adapters"]))
    out.print(_files_table(described["files"]))


def _targets_table(targets: Mapping[str, Any]) -> Any:
    columns = ["target", "provider", "weights", "context", "size", "verified on"]
    table = new_table("Targets", columns, right=["context", "size"], text="verified on")
    for name, target in targets.items():
        add_row(
            table,
            name,
            target["execution_provider"].removesuffix("ExecutionProvider"),
            _quantization(target["quantization"]),
            f"{target['context_length']:,}",
            show_size(target["size_bytes"]),
            (target["verified_on"] or "unchecked").replace("ExecutionProvider", ""),
        )
    return table


def _quantization(settings: Mapping[str, str]) -> str:
    """The settings that matter at a glance; `--json` has all."""
    if "bits" not in settings:
        return "float"
    parts = [f"int{settings['bits']}"]
    if algorithm := settings.get("algorithm"):
        parts.append("rtn" if algorithm == "default" else algorithm)
    if tier := settings.get("tier"):
        parts.append(f"({tier})")
    block = settings.get("block_size")
    return " ".join(parts) + (f", block {block}" if block else "")


def _adapters_table(adapters: Mapping[str, Any]) -> Any:
    columns = ["adapter", "r", "task", "binding", "size", "metrics"]
    table = new_table("Adapters", columns, right=["r", "size"], text="metrics")
    for name, adapter in adapters.items():
        recipe = adapter.get("recipe") or {}
        add_row(
            table,
            name,
            str(adapter["r"]),
            recipe.get("task") or "–",
            adapter["binding"],
            show_size(adapter["size_bytes"]),
            _metrics(adapter.get("metrics") or {}),
        )
    return table


def _metrics(metrics: Mapping[str, Any]) -> str:
    """The plain numbers among an adapter's metrics."""
    numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
    return ", ".join(f"{name} {value:.3g}" for name, value in numbers.items()) or "–"


def _files_table(files: list[Mapping[str, Any]]) -> Any:
    table = new_table("Files", ["size", "file"], right=["size"], text="file")
    for file in files:
        add_row(table, show_size(file["size_bytes"]), file["path"])
    return table
