"""Files that are replaced whole, and described as they are."""

from pathlib import Path

import pytest

from edgekit.bundling.names import check_names
from edgekit.bundling.write import describe_file, write_json
from edgekit.errors import BuildError
from edgekit_runtime.bundle import Bundle
from edgekit_runtime.disk import replace_file
from edgekit_runtime.manifest import Manifest


def test_a_replaced_file_is_never_half(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    replace_file(path, b"old")
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_readable_and_the_same_on_every_system(tmp_path: Path) -> None:
    write_json(tmp_path / "deep" / "card.json", {"b": 1, "a": "ü"})
    assert (
        tmp_path / "deep" / "card.json"
    ).read_bytes() == '{\n  "b": 1,\n  "a": "ü"\n}\n'.encode()


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("model.onnx", "application/vnd.cncf.model.weight.v1.raw"),
        ("model.onnx.data", "application/vnd.cncf.model.weight.v1.raw"),
        ("card.json", "application/json"),
        ("strange.xyz", "application/octet-stream"),
    ],
)
def test_a_file_is_described(name: str, media_type: str, tmp_path: Path) -> None:
    path = tmp_path / "targets" / name
    path.parent.mkdir()
    path.write_bytes(b"abc")
    record = describe_file(tmp_path, path)
    assert (record.path, record.size_bytes, record.media_type) == (f"targets/{name}", 3, media_type)
    assert record.digest == (
        "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_the_manifest_is_read_back_as_it_was_written(built_tiny_bundle: Path) -> None:
    data = (built_tiny_bundle / "manifest.json").read_bytes()
    manifest = Manifest.from_bytes(data)
    assert manifest.to_bytes() == data
    assert {"edgekit", "onnxruntime", "onnxruntime-genai", "torch"} <= set(manifest.tool_versions)
    assert Bundle.open(built_tiny_bundle).manifest == manifest


@pytest.mark.parametrize("name", ["a", "smart-home", "v1.2_x", "A" * 64])
def test_good_names(name: str) -> None:
    check_names(name, [name])


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "-x", "x.", "é", "A" * 65, "a\n"])
def test_bad_names(name: str) -> None:
    with pytest.raises(BuildError, match="bad bundle or adapter name"):
        check_names(None, [name])


def test_a_bundle_may_be_called_base_but_no_adapter_may() -> None:
    check_names("base", [])
    with pytest.raises(BuildError, match="'con': is a device's name on Windows"):
        check_names(None, ["con"])
    with pytest.raises(BuildError, match="means the base without an adapter"):
        check_names("bundle", ["none"])
