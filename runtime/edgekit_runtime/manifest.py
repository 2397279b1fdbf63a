"""The bundle's manifest: frozen dataclasses, strict reading, canonical writing.

The format is specified in docs/bundle-format.md. Reading collects every problem and raises once.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar
from unicodedata import normalize

from edgekit_runtime.digests import canonical_json, is_digest, path_problem, sha256_of_bytes
from edgekit_runtime.errors import BundleError
from edgekit_runtime.strict_json import loads

SCHEMA_VERSION = "1.1"
MANIFEST_NAME = "manifest.json"

_T = TypeVar("_T")


class Fields:
    """Typed access to a JSON object that notes every problem under its path.

    Example:
        ``Fields({"name": 3}, "base", problems).text("name")`` notes
        ``base.name: expected str, got int`` and returns an empty string.
    """

    def __init__(self, value: object, where: str, problems: list[str]) -> None:
        self.where = where
        self.problems = problems
        self.data: Mapping[str, Any] = {}
        if isinstance(value, dict):
            self.data = value
        else:
            problems.append(f"{where or 'document'}: expected object, got {type(value).__name__}")

    def at(self, key: str) -> str:
        """The path of a key, for messages."""
        return f"{self.where}.{key}" if self.where else key

    def _get(self, key: str, kind: type[_T], default: _T | None) -> _T:
        missing = kind() if default is None else default
        if key not in self.data:
            if default is None:
                self.problems.append(f"{self.at(key)}: missing")
            return missing
        value = self.data[key]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            got = type(value).__name__
            self.problems.append(f"{self.at(key)}: expected {kind.__name__}, got {got}")
            return missing
        return value

    def _is_given(self, key: str) -> bool:
        """Whether there is a text, so that nothing was said of it yet."""
        return isinstance(self.data.get(key), str)

    def text(self, key: str, default: str | None = None) -> str:
        """A string that can be written as UTF-8."""
        value = self._get(key, str, default)
        if not _is_text(value):
            self.problems.append(f"{self.at(key)}: holds half a character, got {value!r}")
        return value

    def number(self, key: str, default: int | None = None) -> int:
        """A non-negative integer."""
        value = self._get(key, int, default)
        if value < 0:
            self.problems.append(f"{self.at(key)}: expected a count, got {value}")
        return value

    def optional_text(self, key: str) -> str | None:
        """A string, or None where the key is absent or null."""
        return None if self.data.get(key) is None else self.text(key)

    def digest(self, key: str) -> str:
        """A digest of some content."""
        value = self.text(key)
        if self._is_given(key) and not is_digest(value):
            self.problems.append(f"{self.at(key)}: expected sha256:<64 hex>, got {value!r}")
        return value

    def path(self, key: str) -> str:
        """A safe path inside the bundle."""
        value = self.text(key)
        if self._is_given(key) and (problem := path_problem(value)):
            self.problems.append(f"{self.at(key)}: path {value!r} {problem}")
        return value

    def paths(self, key: str) -> tuple[str, ...]:
        """A list of safe paths inside the bundle; none where the key is absent."""
        if key not in self.data:
            return ()
        items = self._get(key, list, None)
        inner = Fields({str(i): item for i, item in enumerate(items)}, self.at(key), self.problems)
        return tuple(inner.path(name) for name in inner.data)

    def texts(self, key: str) -> dict[str, str]:
        """An object of strings."""
        return self.mapping(key, lambda fields, name: fields.text(name), flat=True)

    def objects(self, key: str, read: "Callable[[Fields], _T]") -> tuple[_T, ...]:
        """A list of objects, each read by ``read``."""
        items = self._get(key, list, None)
        return tuple(
            read(Fields(item, f"{self.at(key)}[{i}]", self.problems))
            for i, item in enumerate(items)
        )

    def mapping(
        self, key: str, read: "Callable[[Fields, str], _T]", *, flat: bool = False
    ) -> dict[str, _T]:
        """An object of values; ``flat`` reads each value from the object itself."""
        inner = Fields(self._get(key, dict, None), self.at(key), self.problems)
        return {
            name: read(
                inner if flat else Fields(inner.data[name], inner.at(name), self.problems), name
            )
            for name in inner.data
        }

    def object(self, key: str) -> "Fields":
        """A nested object."""
        return Fields(self._get(key, dict, None), self.at(key), self.problems)


@dataclass(frozen=True, kw_only=True, slots=True)
class FileRecord:
    """One file of the bundle."""

    path: str
    digest: str
    size_bytes: int
    media_type: str

    @classmethod
    def read(cls, fields: Fields) -> Self:
        """Read from a manifest's ``files`` entry."""
        return cls(
            path=fields.path("path"),
            digest=fields.digest("digest"),
            size_bytes=fields.number("size_bytes"),
            media_type=fields.text("media_type"),
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "path": self.path,
            "digest": self.digest,
            "size_bytes": self.size_bytes,
            "media_type": self.media_type,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseRecord:
    """The base model that a bundle was built from.

    Attributes:
        fingerprint: sha256 over the base's config and weights (see docs/bundle-format.md).
        license: SPDX identifier as the base declares it, or None.
    """

    name: str
    source: str
    fingerprint: str
    architecture: str
    license: str | None

    @classmethod
    def read(cls, fields: Fields) -> Self:
        """Read from the manifest's ``base``."""
        return cls(
            name=fields.text("name"),
            source=fields.text("source"),
            fingerprint=fields.text("fingerprint"),
            architecture=fields.text("architecture"),
            license=fields.optional_text("license"),
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetRecord:
    """One target of a bundle: a directory of graphs over one weight file.

    Attributes:
        path: The target's directory, a genai model folder.
        graphs: ``base`` (no sockets), ``model`` (sockets), ``score`` (sockets, logits of every
            position); file names inside ``path``.
        weights: Paths of the weight files that the graphs read; several targets may share one.
        sockets: Path of the socket contract.
        requires: Package name to a version prefix that this target was verified with.
        packages: Operating system and processor to what a device installs.
        context_length: Longest prompt plus answer, in tokens.
        verified_on: Execution provider on which the parity gate ran, None if unchecked.
    """

    execution_provider: str
    path: str
    graphs: Mapping[str, str]
    sockets: str
    dtype: str
    adapter_mechanism: str
    context_length: int
    quantization: Mapping[str, str]
    requires: Mapping[str, str]
    verified_on: str | None
    weights: tuple[str, ...] = ()
    packages: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, fields: Fields) -> Self:
        """Read from an entry of the manifest's ``targets``."""
        return cls(
            execution_provider=fields.text("execution_provider"),
            path=fields.path("path"),
            graphs=fields.mapping("graphs", lambda inner, name: inner.path(name), flat=True),
            sockets=fields.path("sockets"),
            dtype=fields.text("dtype"),
            adapter_mechanism=fields.text("adapter_mechanism"),
            context_length=fields.number("context_length"),
            quantization=fields.texts("quantization"),
            requires=fields.texts("requires"),
            verified_on=fields.optional_text("verified_on"),
            weights=fields.paths("weights"),
            packages=fields.texts("packages") if "packages" in fields.data else {},
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        mappings = ("graphs", "quantization", "requires", "packages")
        return plain | {key: dict(plain[key]) for key in mappings} | {"weights": list(self.weights)}


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterRecord:
    """One adapter of a bundle.

    Attributes:
        card: Path of its ``adapter.json``.
        files: Target name to the path of the ``.onnx_adapter`` that fits it.
    """

    card: str
    files: Mapping[str, str]

    @classmethod
    def read(cls, fields: Fields) -> Self:
        """Read from an entry of the manifest's ``adapters``."""
        return cls(
            card=fields.path("card"),
            files=fields.mapping("files", lambda inner, name: inner.path(name), flat=True),
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {"card": self.card, "files": dict(self.files)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What a bundle holds, and the digest of every file in it."""

    name: str
    version: str
    base: BaseRecord
    tokenizer: str
    targets: Mapping[str, TargetRecord]
    adapters: Mapping[str, AdapterRecord]
    files: tuple[FileRecord, ...]
    tool_versions: Mapping[str, str] = field(default_factory=dict)
    schema_version: str = SCHEMA_VERSION

    @classmethod
    def from_dict(cls, value: object) -> Self:
        """Read and check a manifest.

        Raises:
            BundleError: With every problem; also for a newer major version.
        """
        problems: list[str] = []
        fields = Fields(value, "", problems)
        _check_version(fields.data.get("schema_version"))
        manifest = cls(
            schema_version=fields.text("schema_version"),
            name=fields.text("name"),
            version=fields.text("version"),
            base=BaseRecord.read(fields.object("base")),
            tokenizer=fields.path("tokenizer"),
            targets=fields.mapping("targets", lambda inner, _: TargetRecord.read(inner)),
            adapters=fields.mapping("adapters", lambda inner, _: AdapterRecord.read(inner)),
            files=fields.objects("files", FileRecord.read),
            tool_versions=fields.texts("tool_versions"),
        )
        problems += manifest._inconsistencies()
        if problems:
            raise BundleError(
                f"{MANIFEST_NAME} is malformed",
                problems=problems,
                hint="The bundle was damaged or not made by edgekit; build or fetch it again.",
            )
        return manifest

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read a manifest file and check the digest that it carries of itself.

        Raises:
            BundleError: If the bytes are no JSON, fail the digest, or the content is malformed.
        """
        try:
            value = loads(data, unique_names=True)
        except ValueError as err:
            raise BundleError(
                f"{MANIFEST_NAME} is no JSON: {err}", hint="Build or fetch the bundle again."
            ) from err
        if not isinstance(value, dict):
            return cls.from_dict(value)
        _check_version(value.get("schema_version"))
        claimed = value.pop("digest", None)
        try:
            actual = sha256_of_bytes(canonical_json(value))
        except (TypeError, ValueError, RecursionError) as err:
            raise BundleError(f"{MANIFEST_NAME} is malformed", problems=[str(err)]) from err
        if claimed != actual:
            raise BundleError(
                f"{MANIFEST_NAME} was changed after it was written",
                problems=[f"digest: expected {claimed}, got {actual}"],
                hint="Build or fetch the bundle again.",
            )
        return cls.from_dict(value)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, without the digest of itself."""
        return {
            "schema_version": self.schema_version,
            "name": self.name,
            "version": self.version,
            "base": self.base.to_dict(),
            "tokenizer": self.tokenizer,
            "targets": {name: target.to_dict() for name, target in self.targets.items()},
            "adapters": {name: adapter.to_dict() for name, adapter in self.adapters.items()},
            "files": [file.to_dict() for file in sorted(self.files, key=lambda file: file.path)],
            "tool_versions": dict(self.tool_versions),
        }

    @property
    def digest(self) -> str:
        """The manifest's digest: of its canonical JSON without this field."""
        return sha256_of_bytes(canonical_json(self.to_dict()))

    def to_bytes(self) -> bytes:
        """The file's content: canonical JSON with the digest of itself."""
        return canonical_json(self.to_dict() | {"digest": self.digest})

    def _inconsistencies(self) -> list[str]:
        """What the fields say against one another."""
        problems: list[str] = []
        paths = [file.path for file in self.files]
        folded = [_folded(path) for path in paths]
        counts = Counter(folded)
        problems += [
            f"files: {path!r} is listed more than once (or differs in case only)"
            for path in sorted({p for p, f in zip(paths, folded, strict=True) if counts[f] > 1})
        ]
        listed = set(paths)
        for name, target in self.targets.items():
            used = [f"{target.path}/{graph}" for graph in target.graphs.values()]
            for path in [*used, target.sockets, *target.weights]:
                if path not in listed:
                    problems.append(f"targets.{name}: {path!r} is not in files")
        for name, adapter in self.adapters.items():
            for path in [adapter.card, *adapter.files.values()]:
                if path not in listed:
                    problems.append(f"adapters.{name}: {path!r} is not in files")
            for target_name in adapter.files:
                if target_name not in self.targets:
                    problems.append(f"adapters.{name}.files: no target {target_name!r}")
        return problems


def _folded(path: str) -> str:
    """What a file system that minds neither case nor composition takes a path for."""
    return normalize("NFC", normalize("NFC", path).casefold())


def _is_text(value: str) -> bool:
    """Whether it has no lone surrogate, which JSON can express and UTF-8 cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_version(version: object) -> None:
    """Refuse a manifest of another major version; a newer minor one only adds fields."""
    major = str(version).partition(".")[0]
    ours = SCHEMA_VERSION.partition(".")[0]
    if isinstance(version, str) and major != ours:
        raise BundleError(
            f"the bundle's schema_version is {version}, this runtime reads {ours}.x",
            hint="Update edgekit-runtime (pip install -U edgekit-runtime), or rebuild the bundle.",
        )
