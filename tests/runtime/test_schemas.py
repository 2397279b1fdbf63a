"""The JSON Schemas that ship with the runtime take what it writes, and refuse what it refuses."""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from edgekit_runtime.card import AdapterCard
from edgekit_runtime.contract import SocketContract
from edgekit_runtime.digests import path_problem
from edgekit_runtime.errors import BundleError
from edgekit_runtime.manifest import Manifest
from edgekit_runtime.schemas import NAMES, schema_of

jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")

FILES = {
    "manifest": "manifest.json",
    "adapter": "adapters/alpha/adapter.json",
    "sockets": "targets/cpu/sockets.json",
}
READERS: dict[str, Callable[[Any], object]] = {
    "manifest": Manifest.from_dict,
    "adapter": lambda value: AdapterCard.from_bytes(json.dumps(value).encode(), where="card"),
    "sockets": lambda value: SocketContract.from_bytes(json.dumps(value).encode(), where="sockets"),
}


def validator(name: str) -> Any:
    schema = schema_of(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def document(bundle: Path, name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((bundle / FILES[name]).read_bytes())
    return value


@pytest.mark.parametrize("name", NAMES)
def test_what_is_built_validates(name: str, tiny_bundle: Path) -> None:
    validator(name).validate(document(tiny_bundle, name))
    assert not validator(name).is_valid({})


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [
        ("manifest", "schema_version", "2.0"),
        ("manifest", "name", 3),
        ("manifest", "tokenizer", "../x"),
        ("manifest", "tokenizer", ""),
        ("manifest", "tool_versions", {"a": 1}),
        ("manifest", "base.fingerprint", None),
        ("manifest", "files", {}),
        ("manifest", "files.0.digest", "md5:0"),
        ("manifest", "files.0.digest", ""),
        ("manifest", "files.0.size_bytes", -1),
        ("manifest", "files.0.size_bytes", True),
        ("manifest", "files.0.media_type", 1),
        ("manifest", "targets.cpu.context_length", "512"),
        ("manifest", "targets.cpu.weights", ["/x"]),
        ("manifest", "targets.cpu.graphs.base", "a\\b"),
        ("manifest", "targets.cpu.requires", {"a": 1}),
        ("manifest", "targets.cpu.verified_on", 1),
        ("manifest", "adapters.alpha.card", 1),
        ("manifest", "adapters.alpha.files.cpu", "nul"),
        ("adapter", "r", "8"),
        ("adapter", "lora_alpha", None),
        ("adapter", "target_modules", "q_proj"),
        ("adapter", "examples", [1]),
        ("adapter", "recipe", []),
        ("adapter", "schema_version", "2.0"),
        ("sockets", "max_rank", -1),
        ("sockets", "sockets.0.k", None),
        ("sockets", "sockets.0.parts.0.module", 1),
    ],
)
def test_what_the_reader_refuses_the_schema_refuses(
    name: str, place: str, value: object, tiny_bundle: Path
) -> None:
    broken = deepcopy(document(tiny_bundle, name))
    *parents, key = [int(part) if part.isdigit() else part for part in place.split(".")]
    found: Any = broken
    for part in parents:
        found = found[part]
    found[key] = value
    with pytest.raises(BundleError):
        READERS[name](broken)
    assert not validator(name).is_valid(broken)


@pytest.mark.parametrize("name", NAMES)
def test_a_field_that_the_reader_misses_the_schema_misses(name: str, tiny_bundle: Path) -> None:
    whole = document(tiny_bundle, name)
    for key in set(whole) - {"digest"}:
        broken = {k: v for k, v in whole.items() if k != key}
        try:
            READERS[name](broken)
        except BundleError:
            assert not validator(name).is_valid(broken), key
        else:
            assert validator(name).is_valid(broken), key


@pytest.mark.parametrize(
    "path",
    [
        *("a", "a/b.c", "targets/cpu/model.onnx", "é/console", "a..b", ".hidden"),
        *("", " a", "a ", "/a", "a//b", "a/", "./a", "a/../b", "C:x", "http:x", "a\\b", "a\tb"),
        *("CON", "a/nul.txt", "Lpt1", "com¹.x", "a.", "b /c", "a?b", "a:b", "x" * 256),
        *("a/" * 600 + "b",),
    ],
)
def test_the_pattern_of_paths_is_the_readers_rule(path: str) -> None:
    schema = schema_of("manifest")
    pattern = jsonschema.Draft202012Validator(schema["$defs"]["path"])
    assert pattern.is_valid(path) == (path_problem(path) is None)
