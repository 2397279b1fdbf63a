"""A base's licence and what it limits, as its model card or GGUF file declares it.

The limits are reminders in a line each, with the text to read; they are no legal advice.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

GGUF_LICENSE_FILE = "gguf_license.json"

_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*(\n|\Z)", re.DOTALL)
_NON_COMMERCIAL = re.compile(r"(^|[-_ ])(nc|non-?commercial|research)([-_ ]|$)")
_LLAMA = (
    "more than 700 million monthly users need a licence of Meta's own",
    "uses of Meta's Acceptable Use Policy list are forbidden",
)
_BUILT_WITH_LLAMA = (
    *_LLAMA,
    "say 'Built with Llama', and begin the name of a model made from it with 'Llama'",
)
_RAIL = (
    "the uses that its attachment lists are forbidden, and whoever gets the model is bound too",
)
# By identifier of the Hub, or the beginning of it.
_LIMITS: Mapping[str, tuple[str, ...]] = {
    "gemma": (
        "uses of Google's Gemma Prohibited Use Policy are forbidden "
        "(https://ai.google.dev/gemma/terms)",
        "pass the Gemma terms on with the model, and say that it was changed",
    ),
    "llama2": _LLAMA,
    "llama3": _BUILT_WITH_LLAMA,
    "llama4": _BUILT_WITH_LLAMA,
    "openrail": _RAIL,
    "bigscience-openrail": _RAIL,
    "bigcode-openrail": _RAIL,
    "creativeml-openrail": _RAIL,
    "bigscience-bloom-rail": _RAIL,
    "gpl": ("what you ship with it may have to be under the same licence",),
    "agpl": ("what you ship or serve with it may have to be under the same licence",),
    "cc-by-sa": ("what you make from it has to be under the same licence",),
    "cc-by-nd": ("nothing made from it may be passed on, adapters and bundles included",),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class License:
    """A base's licence.

    Attributes:
        id: The Hub's identifier, such as ``apache-2.0`` or ``gemma``; None if none is declared.
        name: Its own name, where ``id`` says ``other``.
        link: Where its text is.
        limits: What it forbids or asks for, a line each; empty for apache-2.0, mit and their like.
        files: Names of the licence texts that lie beside the weights.
    """

    id: str | None
    name: str | None
    link: str | None
    limits: tuple[str, ...]
    files: tuple[str, ...]

    @property
    def title(self) -> str:
        """One line to show."""
        if self.id is None:
            return "not declared"
        words = [self.id, self.name if self.name != self.id else None, self.link]
        return ", ".join(word for word in words if word)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "id": self.id,
            "name": self.name,
            "link": self.link,
            "limits": list(self.limits),
            "files": list(self.files),
        }


def read_license(path: Path, *, known_id: str | None = None) -> License:
    """Read what a base's directory declares.

    Args:
        path: Hugging Face directory, or a dequantized GGUF's.
        known_id: The identifier, where it is known from elsewhere.
    """
    declared = _model_card(path) or _gguf(path)
    identifier = known_id or _text(declared.get("license"))
    name = _text(declared.get("license_name"))
    return License(
        id=identifier,
        name=name,
        link=_text(declared.get("license_link")),
        limits=tuple(_limits(identifier, name, declared)),
        files=tuple(sorted(file.name for file in _texts(path))),
    )


def write_gguf_license(gguf: Path, directory: Path) -> None:
    """Keep what a GGUF file's metadata declare beside its dequantized weights."""
    from gguf import GGUFReader

    fields = GGUFReader(gguf).fields
    keys = {
        "license": "general.license",
        "license_name": "general.license.name",
        "license_link": "general.license.link",
    }
    values = {key: fields[name].contents() for key, name in keys.items() if name in fields}
    partial = directory / f".{os.getpid()}-{GGUF_LICENSE_FILE}"
    partial.write_text(json.dumps(values), encoding="utf-8")
    partial.replace(directory / GGUF_LICENSE_FILE)


def _model_card(path: Path) -> dict[str, Any]:
    """The front matter of README.md; nothing where there is none that can be read."""
    card = path / "README.md"
    if not card.is_file():
        return {}
    match = _FRONT_MATTER.match(card.read_text(encoding="utf-8", errors="replace"))
    try:
        values = yaml.safe_load(match[1]) if match else None
    except yaml.YAMLError:
        return {}
    return values if isinstance(values, dict) else {}


def _gguf(path: Path) -> dict[str, Any]:
    stored = path / GGUF_LICENSE_FILE
    values = json.loads(stored.read_text(encoding="utf-8")) if stored.is_file() else {}
    return values if isinstance(values, dict) else {}


def _text(value: object) -> str | None:
    """A declared word; several licences are joined."""
    if isinstance(value, list):
        value = ", ".join(str(item) for item in value)
    return value.strip() or None if isinstance(value, str) else None


def _limits(identifier: str | None, name: str | None, declared: Mapping[str, Any]) -> Iterator[str]:
    if identifier is None:
        yield "it declares no licence, so nothing says that you may use it"
        return
    words = f"{identifier} {name or ''}".lower()
    if _NON_COMMERCIAL.search(words):
        yield "no commercial use"
    beginning = max(
        (key for key in _LIMITS if identifier.lower().startswith(key)), key=len, default=None
    )
    if beginning is not None:
        yield from _LIMITS[beginning]
    elif identifier.lower() in {"other", "unknown"}:
        yield "a licence of its own: read it before you ship"
    if declared.get("extra_gated_prompt") or declared.get("extra_gated_heading"):
        yield "its page on the Hub asks for agreement before it is downloaded"


def _texts(path: Path) -> Iterator[Path]:
    for pattern in ("LICEN[SC]E*", "USE_POLICY*", "NOTICE*"):
        yield from path.glob(pattern)
