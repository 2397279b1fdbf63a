"""Two versions of a bundle, compared: what changed, and what of it would travel."""

from dataclasses import replace
from pathlib import Path

import pytest

from edgekit_runtime import Bundle
from edgekit_runtime.difference import compare, missing
from edgekit_runtime.manifest import FileRecord, Manifest


def record(path: str, content: str, size_bytes: int = 100) -> FileRecord:
    digest = f"sha256:{content * 64}"
    return FileRecord(path=path, digest=digest, size_bytes=size_bytes, media_type="text/plain")


@pytest.fixture(scope="module")
def manifest(tiny_bundle: Path) -> Manifest:
    """Three files, two of them of the same content."""
    opened = Bundle.open(tiny_bundle, verify="sizes").manifest
    files = (record("one", "1"), record("twin/one", "1"), record("two", "2", 200))
    return replace(opened, files=files)


def test_a_bundle_does_not_differ_from_itself(manifest: Manifest) -> None:
    found = compare(manifest, manifest)
    assert (found.changes, found.travel_bytes, found.unchanged) == ((), 0, 3)
    assert found.total_bytes == 300 + len(manifest.to_bytes())


def test_only_what_is_new_travels(manifest: Manifest) -> None:
    files = (record("one", "1"), record("three", "3", 7), record("two", "a", 201))
    new = replace(manifest, files=files)
    found = compare(manifest, new)
    told = {change.path: (change.kind, change.travel_bytes) for change in found.changes}
    assert told == {
        "manifest.json": ("changed", len(new.to_bytes())),
        "three": ("added", 7),
        "twin/one": ("removed", 0),
        "two": ("changed", 201),
    }
    assert found.unchanged == 1
    assert found.travel_bytes == 7 + 201 + len(new.to_bytes())
    assert (found.old_digest, found.new_digest) == (manifest.digest, new.digest)


def test_a_file_that_moved_does_not_travel(manifest: Manifest) -> None:
    moved = (record("one", "1"), record("elsewhere/two", "2", 200))
    found = compare(manifest, replace(manifest, files=moved))
    added = next(change for change in found.changes if change.kind == "added")
    assert (added.path, added.travel_bytes) == ("elsewhere/two", 0)


def test_equal_new_files_travel_once(manifest: Manifest) -> None:
    twins = (*manifest.files, record("a", "9", 50), record("b", "9", 50))
    new = replace(manifest, files=twins)
    costs = {change.path: change.travel_bytes for change in compare(manifest, new).changes}
    assert (costs["a"], costs["b"]) == (50, 0)
    assert [found.path for found in missing(manifest, new)] == ["a"]


def test_everything_is_missing_where_nothing_is_there(manifest: Manifest) -> None:
    assert [found.path for found in missing(None, manifest)] == ["one", "two"]


def test_what_travels_in_part_counts_in_part(manifest: Manifest) -> None:
    new = replace(manifest, files=(record("one", "1"), record("two", "a", 500)))
    found = compare(manifest, new, {f"sha256:{'a' * 64}": 30})
    change = next(change for change in found.changes if change.path == "two")
    assert (change.old_bytes, change.new_bytes, change.travel_bytes) == (200, 500, 30)
