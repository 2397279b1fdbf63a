"""A bundle's bill of materials: a CycloneDX ML-BOM, made of what the bundle says of itself.

Nothing in it is new, so nothing in it can be out of date: the manifest's digest, by which it names
the bundle, covers all that it tells. Source: CycloneDX 1.6, https://cyclonedx.org/docs/1.6/json/.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote
from uuid import UUID, uuid5

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from edgekit.bundling.adapters import read_cards
from edgekit_runtime import Bundle
from edgekit_runtime.manifest import Manifest

SPEC_VERSION: Final = "1.6"
_NAMESPACE: Final = UUID("3c6a4f0e-5d57-5f7e-9d0b-0a8c5f1c2b44")
_HUB: Final = "https://huggingface.co/"
_PROPERTY: Final = "edgekit"

Component = dict[str, Any]


def bill_of_materials(path: Path) -> dict[str, Any]:
    """Describe a bundle for those who have to know what is in it.

    Args:
        path: The bundle; its manifest and sizes are checked, its content is not.

    Returns:
        A document of CycloneDX 1.6: the base, every adapter with its scores, the data sets that
        they were trained on, every file by its digest, and the packages that built it. The same
        bundle gives the same document: it holds no time and no random number.

    Raises:
        BundleError: If the bundle cannot be read.
    """
    with Bundle.open(path, verify="sizes", cache_dir=None) as bundle:
        manifest = bundle.manifest
        cards = read_cards(bundle)
    adapters = [_adapter(manifest, name, card) for name, card in cards.items()]
    files = [
        {
            "type": "file",
            "bom-ref": f"file:{file.path}",
            "name": file.path,
            "mime-type": file.media_type,
            "hashes": _hashes(file.digest),
        }
        for file in manifest.files
    ]
    adapter_refs = [adapter["bom-ref"] for adapter in adapters]
    dependencies = [{"ref": "bundle", "dependsOn": ["base", *adapter_refs]}]
    dependencies += [
        {"ref": adapter["bom-ref"], "dependsOn": ["base", *_references(card)]}
        for adapter, card in zip(adapters, cards.values(), strict=True)
    ]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "serialNumber": f"urn:uuid:{uuid5(_NAMESPACE, manifest.digest)}",
        "version": 1,
        "metadata": {
            "lifecycles": [{"phase": "build"}],
            "tools": {"components": [_tool(*tool) for tool in manifest.tool_versions.items()]},
            "component": _bundle(manifest),
        },
        "components": [_base(manifest), *adapters, *_data_sets(cards.values()), *files],
        "dependencies": dependencies,
    }


def _bundle(manifest: Manifest) -> Component:
    told = {
        f"target:{name}:{key}": value
        for name, target in manifest.targets.items()
        for key, value in _target_facts(target.to_dict())
    }
    return {
        "type": "machine-learning-model",
        "bom-ref": "bundle",
        "name": manifest.name,
        "version": manifest.version,
        "hashes": _hashes(manifest.digest),
        **_licenses(manifest.base.license),
        "properties": _properties(told),
    }


def _target_facts(target: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "execution_provider", target["execution_provider"]
    yield "verified_on", target["verified_on"] or "unchecked"
    for kind in ("quantization", "requires", "packages"):
        for key, value in sorted(target[kind].items()):
            yield f"{kind}:{key}", value


def _base(manifest: Manifest) -> Component:
    base = manifest.base
    return {
        "type": "machine-learning-model",
        "bom-ref": "base",
        "name": base.name,
        **_origin(base.source),
        **_licenses(base.license),
        "modelCard": {"modelParameters": {"modelArchitecture": base.architecture}},
        "properties": _properties({"source": base.source, "fingerprint": base.fingerprint}),
    }


def _origin(source: str) -> Component:
    """Where a base came from, as others know it: a package URL, and the page of it."""
    kind, _, rest = source.partition(":")
    if kind == "hub":
        name, _, commit = rest.partition("@")
        purl = f"pkg:huggingface/{quote(name)}" + (f"@{quote(commit)}" if commit else "")
        page = {"type": "distribution", "url": f"{_HUB}{quote(name)}"}
        return {"version": commit or "unknown", "purl": purl, "externalReferences": [page]}
    if kind == "pypi":
        package, _, file = rest.partition("/")
        name, _, version = package.partition("==")
        purl = f"pkg:pypi/{quote(name.lower().replace('_', '-'))}@{quote(version)}"
        return {"version": version, "purl": f"{purl}#{quote(file)}" if file else purl}
    return {}


def _adapter(manifest: Manifest, name: str, card: Mapping[str, Any]) -> Component:
    digests = {file.path: file.digest for file in manifest.files}
    parameters: dict[str, Any] = {}
    if isinstance(task := card["recipe"].get("task"), str):
        parameters["task"] = task
    if refs := _references(card):
        parameters["datasets"] = [{"ref": ref} for ref in refs]
    model_card: dict[str, Any] = {"modelParameters": parameters}
    if scores := list(_scores(card)):
        model_card["quantitativeAnalysis"] = {"performanceMetrics": scores}
    told = {
        "method": "LoRA",
        "r": str(card["r"]),
        "lora_alpha": str(card["lora_alpha"]),
        "binding": card["binding"],
        "base_fingerprint": card["base_fingerprint"],
    }
    for target, path in manifest.adapters[name].files.items():
        told[f"file:{target}"] = f"{path} {digests[path]}"
    return {
        "type": "machine-learning-model",
        "bom-ref": f"adapter:{name}",
        "name": name,
        "version": manifest.version,
        **_licenses(card.get("license")),
        "pedigree": {"ancestors": [{"type": "machine-learning-model", "name": manifest.base.name}]},
        "modelCard": model_card,
        "properties": _properties(told),
    }


def _scores(card: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """Plain numbers among its scores; both are texts in CycloneDX."""
    for name, value in card["metrics"].items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield {"type": name, "value": str(value), "slice": "validation"}


def _data_sets(cards: Iterable[Mapping[str, Any]]) -> list[Component]:
    """Every data set once, whatever number of adapters learnt from it or were scored on it."""
    found: dict[str, Component] = {}
    for card in cards:
        for told in card.get("data_sets") or ():
            found.setdefault(_reference(told), _data_set(told))
    return [*found.values()]


def _references(card: Mapping[str, Any]) -> list[str]:
    """The data sets that an adapter was trained and scored on."""
    return [*dict.fromkeys(_reference(told) for told in card.get("data_sets") or ())]


def _reference(told: Mapping[str, str]) -> str:
    known_by = told.get("digest") or told.get("version") or "unknown"
    return f"data:{told['name']}@{known_by}"


def _data_set(told: Mapping[str, str]) -> Component:
    content: dict[str, Any] = {"type": "dataset", "name": told["name"]}
    component: Component = {
        "type": "data",
        "bom-ref": _reference(told),
        "name": told["name"],
        **_licenses(told.get("license")),
    }
    if version := told.get("version"):
        component["version"] = version
    if digest := told.get("digest"):
        component["hashes"] = _hashes(digest)
    if told["source"] == "hub":
        content["contents"] = {"url": f"{_HUB}datasets/{quote(told['name'])}"}
    return component | {"data": [content]}


def _tool(name: str, version: str) -> Component:
    return {
        "type": "library",
        "bom-ref": f"tool:{name}",
        "name": name,
        "version": version,
        "purl": f"pkg:pypi/{name}@{quote(version)}",
    }


def _licenses(declared: str | None) -> Component:
    """As SPDX where it is one, else by its name; nothing where none is declared."""
    if not declared:
        return {}
    try:
        spdx = canonicalize_license_expression(declared)
    except InvalidLicenseExpression:
        return {"licenses": [{"license": {"name": declared}}]}
    if " " in spdx:
        return {"licenses": [{"expression": spdx}]}
    return {"licenses": [{"license": {"id": spdx}}]}


def _hashes(digest: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": digest.removeprefix("sha256:")}]


def _properties(told: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": f"{_PROPERTY}:{key}", "value": value} for key, value in told.items()]
