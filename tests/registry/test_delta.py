"""A device that has an older version fetches what changed, counted on the wire."""

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from edgekit.bundling.difference import compare_bundles
from edgekit.bundling.edit import remove_adapter
from edgekit.bundling.push import push
from edgekit_runtime import Bundle
from edgekit_runtime.chunks import INDEX_TYPE, ChunkIndex, OldChunks, index_of, segments
from edgekit_runtime.digests import sha256_of_file
from edgekit_runtime.errors import RegistryError
from edgekit_runtime.pulling import PullReport, pull
from edgekit_runtime.registry.delta import read_index
from edgekit_runtime.registry.reference import Reference
from edgekit_runtime.registry.source import RegistrySource
from edgekit_runtime.verification import verify_bundle
from tests.registry.servers import Front, Wire
from tests.runtime.bundle_edits import replace_file

pytest.importorskip("pyfastcdc")

SIZE = 8 << 20


def reference(host: str, tag: str = "new") -> Reference:
    return Reference.parse(f"{host}/tests/delta:{tag}")


@pytest.fixture(scope="module")
def old(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a report of 8 MiB, which stands for weights."""
    path = shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("old") / "old")
    replace_file(path, "reports/parity.json", random.Random(1).randbytes(SIZE))
    return path


def one_block(data: bytearray) -> None:
    data[SIZE // 2 : SIZE // 2 + 16] = bytes(16)


def a_longer_layer(data: bytearray) -> None:
    data[SIZE // 2 : SIZE // 2] = os.urandom(100_000)


def a_layer_gone(data: bytearray) -> None:
    del data[1000:200_000]


@pytest.fixture
def new(old: Path, tmp_path: Path) -> Callable[[Callable[[bytearray], None]], Path]:
    """Makes the next version of the old bundle."""

    def make(change: Callable[[bytearray], None]) -> Path:
        path = shutil.copytree(old, tmp_path / "next")
        data = bytearray((path / "reports/parity.json").read_bytes())
        change(data)
        replace_file(path, "reports/parity.json", bytes(data))
        return path

    return make


def update(host: str, old: Path | None, output: Path) -> PullReport:
    return pull(RegistrySource(reference(host), plain_http=True), output, old=old)


@pytest.mark.parametrize(
    ("change", "at_most"),
    [(one_block, 400_000), (a_longer_layer, 600_000), (a_layer_gone, 600_000)],
)
def test_what_changed_in_a_file_travels_and_no_more(
    wire: Wire,
    old: Path,
    new: Callable[..., Path],
    tmp_path: Path,
    change: Callable[[bytearray], None],
    at_most: int,
) -> None:
    bundle = new(change)
    push(bundle, reference(wire.host), plain_http=True)
    wire.reset()
    report = update(wire.host, old, tmp_path / "pulled")
    assert verify_bundle(tmp_path / "pulled") == []
    assert sha256_of_file(tmp_path / "pulled/reports/parity.json") == sha256_of_file(
        bundle / "reports/parity.json"
    )
    assert wire.down + wire.up < at_most
    assert report.fetched_bytes < at_most
    told = compare_bundles(old, bundle).travel_bytes
    assert report.fetched_bytes < told < at_most


def test_one_more_adapter_moves_that_adapter(
    wire: Wire, tiny_bundle: Path, own_bundle: Path, tmp_path: Path
) -> None:
    """The promise: at most 1.1 times its size, every byte on the wire counted.

    A tiny adapter would drown in the manifests, so this one gets the size of a real one.
    """
    replace_file(own_bundle, "adapters/beta/float32.onnx_adapter", os.urandom(3_000_000))
    push(own_bundle, reference(wire.host), plain_http=True)
    before = shutil.copytree(own_bundle, tmp_path / "before")
    remove_adapter(before, "beta")
    wire.reset()
    update(wire.host, before, tmp_path / "pulled")
    assert verify_bundle(tmp_path / "pulled") == []
    assert 3_000_000 < wire.down + wire.up < 1.1 * 3_000_000


class NoRanges(Front):
    """A registry that sends whole blobs only."""

    def answer(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, Mapping[str, str], bytes]:
        kept = {name: value for name, value in headers.items() if name != "Range"}
        return self.ask(method, path, kept, body)


def test_without_ranges_all_behind_the_change_travels(
    registry: str, old: Path, new: Callable[..., Path], tmp_path: Path
) -> None:
    push(new(one_block), reference(registry), plain_http=True)
    with NoRanges(registry) as front:
        report = update(front.host, old, tmp_path / "pulled")
    assert report.fetched_bytes >= SIZE // 2  # from the changed block on
    assert verify_bundle(tmp_path / "pulled") == []


class Referrers(Front):
    """A registry that keeps the list of referrers itself, as the specification's 1.1 says."""

    def __init__(self, host: str) -> None:
        self.listed: list[bytes] = []
        super().__init__(host)

    def answer(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, Mapping[str, str], bytes]:
        kind = {"Content-Type": "application/vnd.oci.image.index.v1+json"}
        if "/referrers/" in path:
            listed = [
                {"digest": f"sha256:{hashlib.sha256(one).hexdigest()}", "artifactType": INDEX_TYPE}
                for one in self.listed
                if json.loads(one)["subject"]["digest"] == path.rpartition("/")[2]
            ]
            return 200, kind, json.dumps({"manifests": listed}).encode()
        status, told, data = self.ask(method, path, headers, body)
        if method == "PUT" and b'"subject"' in body:
            self.listed.append(body)
            told["OCI-Subject"] = json.loads(body)["subject"]["digest"]
        return status, told, data


def test_a_registry_that_knows_referrers_is_asked_for_them(
    registry: str, old: Path, new: Callable[..., Path], tmp_path: Path
) -> None:
    bundle = new(one_block)
    data = bytearray((bundle / "reports/parity.json").read_bytes())
    data[5] ^= 1  # no other test pushed this one
    replace_file(bundle, "reports/parity.json", bytes(data))
    with Referrers(registry) as front:
        push(bundle, reference(front.host), plain_http=True)
        report = update(front.host, old, tmp_path / "pulled")
        tags = [path for method, path, _ in front.log if "/manifests/sha256-" in path]
    assert tags == []
    assert report.fetched_bytes < 400_000


def test_a_damaged_old_file_does_no_harm(
    registry: str, old: Path, new: Callable[..., Path], tmp_path: Path
) -> None:
    push(new(one_block), reference(registry), plain_http=True)
    damaged = shutil.copytree(old, tmp_path / "damaged")
    report = damaged / "reports/parity.json"
    data = bytearray(report.read_bytes())
    data[::50_000] = bytes(len(data[::50_000]))
    report.write_bytes(data)
    update(registry, damaged, tmp_path / "pulled")
    assert verify_bundle(tmp_path / "pulled") == []


def test_pushing_twice_lists_the_indexes_once(
    registry: str, old: Path, new: Callable[..., Path]
) -> None:
    bundle = new(a_layer_gone)
    push(bundle, reference(registry), plain_http=True)
    assert push(bundle, reference(registry), plain_http=True).pushed_bytes < 2000
    source = RegistrySource(reference(registry), plain_http=True)
    record = Bundle.open(bundle).record("reports/parity.json")
    index = read_index(source.repository, source.artifact, record)
    assert index == index_of(bundle / record.path, record.digest)


def test_an_index_says_where_everything_lies(tmp_path: Path) -> None:
    data = random.Random(2).randbytes(2 << 20)
    (tmp_path / "a").write_bytes(data)
    (tmp_path / "b").write_bytes(data[:1_000_000] + b"something new" + data[1_000_000:])
    digest = sha256_of_file(tmp_path / "b")
    index = index_of(tmp_path / "b", digest)
    assert ChunkIndex.from_bytes(index.to_bytes(), size_bytes=len(data) + 13) == index
    places = OldChunks([tmp_path / "a"]).places()
    rebuilt = b""
    for segment in segments(index, places):
        assert segment.start == len(rebuilt)
        whole = (tmp_path / "b").read_bytes()
        if segment.old is not None:
            whole, start = segment.old.path.read_bytes(), segment.old.start
        else:
            start = segment.start
        rebuilt += whole[start : start + segment.size_bytes]
    assert rebuilt == (tmp_path / "b").read_bytes()
    assert sum(one.old is None for one in segments(index, places)) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (b"{", "malformed"),
        (b'{"file": "x", "sizes": [5], "digests": ""}', "file: expected sha256:<64 hex>"),
        (b'{"file": "x", "sizes": [5], "digests": ""}', "digests: expected 32 bytes for each size"),
        (b'{"file": "x", "sizes": [-1, 6], "digests": ""}', "sizes: expected counts"),
        (b'{"file": "x", "sizes": [4], "digests": ""}', "sizes: expected counts that add up to 5"),
        (b'{"file": "x", "sizes": 4, "digests": "%"}', "malformed"),
        (b"[]", "expected object"),
    ],
)
def test_a_malformed_index_is_refused(change: bytes, message: str) -> None:
    with pytest.raises(RegistryError) as error:
        ChunkIndex.from_bytes(change, size_bytes=5)
    assert message in str(error.value)
