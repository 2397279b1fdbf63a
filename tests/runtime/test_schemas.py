"""The JSON Schemas that ship with the runtime refuse what the strict reader refuses."""

import json
from importlib import resources
from typing import Any

import pytest

from edgekit_runtime.digests import sha256_of_bytes
from edgekit_runtime.errors import BundleError
from edgekit_runtime.manifest import BaseRecord, FileRecord, Manifest

jsonschema = pytest.importorskip("jsonschema")


def _validator(name: str) -> Any:
    text = (resources.files("edgekit_runtime") / "schemas" / f"{name}.schema.json").read_text()
    schema = json.loads(text)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def _manifest() -> dict[str, Any]:
    base = BaseRecord(name="b", source="s", fingerprint="f", architecture="a", license=None)
    file = FileRecord(path="a/b.bin", digest=sha256_of_bytes(b""), size_bytes=0, media_type="x")
    manifest = Manifest(
        name="n", version="1", base=base, tokenizer="tok", targets={}, adapters={}, files=(file,)
    )
    return dict(json.loads(manifest.to_bytes()))


@pytest.mark.parametrize("name", ["manifest", "adapter", "sockets"])
def test_each_schema_is_itself_valid_and_refuses_an_empty_object(name: str) -> None:
    assert not _validator(name).is_valid({})


def test_a_written_manifest_validates() -> None:
    _validator("manifest").validate(_manifest())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", 3),
        ("base", []),
        ("tokenizer", "../x"),
        ("tokenizer", "/x"),
        ("tokenizer", "a\\b"),
        ("files", {}),
        ("files", [{"path": "a", "digest": "md5:0", "size_bytes": 1, "media_type": "x"}]),
        ("tool_versions", {"a": 1}),
        ("schema_version", "2.0"),
    ],
)
def test_what_the_reader_refuses_the_schema_refuses(key: str, value: object) -> None:
    broken = _manifest() | {key: value}
    with pytest.raises(BundleError):
        Manifest.from_dict(broken)
    assert not _validator("manifest").is_valid(broken)
