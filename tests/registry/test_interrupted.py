"""Connections break, processes are killed: what came is kept, and the rest follows."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from edgekit.bundling.push import push
from edgekit.bundling.upload import has_blob, upload_blob
from edgekit_runtime.errors import BundleError, RegistryError
from edgekit_runtime.pulling import pull
from edgekit_runtime.registry.artifact import layer_of
from edgekit_runtime.registry.reference import Reference
from edgekit_runtime.registry.repository import Repository
from edgekit_runtime.registry.source import RegistrySource
from edgekit_runtime.verification import verify_bundle
from tests.registry.servers import Front, Wire

BLOB = os.urandom(3_000_000)
LAYER = layer_of(BLOB, "application/octet-stream")


def reference(host: str, name: str = "tests/broken:1") -> Reference:
    return Reference.parse(f"{host}/{name}")


def repository_of(host: str) -> Repository:
    return Repository(reference(host), plain_http=True)


@pytest.fixture(scope="module")
def pushed(registry: str, tiny_bundle: Path) -> Reference:
    push(tiny_bundle, reference(registry), plain_http=True)
    return reference(registry)


def test_a_download_goes_on_where_the_connection_broke(
    pushed: Reference, wire: Wire, tiny_bundle: Path, tmp_path: Path
) -> None:
    size = sum(path.stat().st_size for path in tiny_bundle.rglob("*") if path.is_file())
    wire.cut_down_after = 60_000  # the weights have 140,000
    report = pull(RegistrySource(reference(wire.host), plain_http=True), tmp_path / "out")
    assert verify_bundle(tmp_path / "out") == []
    assert wire.down < 1.5 * size + 40_000
    assert report.fetched_bytes <= size


class Keeping(Front):
    """Breaks off the first upload in its middle, and keeps what it had of it.

    Docker's own registry drops an upload that breaks; the specification lets a registry keep it.
    """

    kept = b""

    def answer(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, Mapping[str, str], bytes]:
        if method == "PATCH" and not self.kept:
            self.kept = body[:1_000_000]
            return 502, {}, b""
        if method == "GET" and "/uploads/" in path:
            return 204, {"Range": f"0-{len(self.kept) - 1}", "Location": path}, b""
        if method == "PATCH":
            assert headers["Content-Range"] == f"{len(self.kept)}-{len(BLOB) - 1}"
            body = self.kept + body
            headers = {"Content-Type": "application/octet-stream"}
        return self.ask(method, path, headers, body)


def test_an_upload_goes_on_where_the_registry_lets_it(registry: str) -> None:
    told: list[int] = []
    with Keeping(registry) as front:
        repository = Repository(reference(front.host), access="pull,push", plain_http=True)
        upload_blob(repository, LAYER, BLOB, told.append)
        sent = [h["Content-Length"] for method, _, h in front.log if method == "PATCH"]
    assert has_blob(repository_of(registry), LAYER.digest)
    assert sent == ["3000000", "2000000"]
    assert sum(told) == len(BLOB)


def test_an_upload_that_breaks_begins_again(registry: str, wire: Wire) -> None:
    blob = os.urandom(2_000_000)
    layer = layer_of(blob, "application/octet-stream")
    wire.cut_up_after = 1_000_000
    told: list[int] = []

    def on_bytes(n_bytes: int) -> None:
        told.append(n_bytes)
        if n_bytes < 0:
            wire.cut_up_after = None  # the line is better from here on

    repository = Repository(reference(wire.host), access="pull,push", plain_http=True)
    upload_blob(repository, layer, blob, on_bytes)
    assert has_blob(repository, layer.digest)
    assert min(told) < 0 and sum(told) == len(blob)


def test_a_connection_that_gives_nothing_is_given_up(
    pushed: Reference, wire: Wire, tmp_path: Path
) -> None:
    source = RegistrySource(reference(wire.host), plain_http=True)
    wire.cut_down_after = 0
    with pytest.raises(RegistryError, match="cannot be reached"):
        pull(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


PULL = """
import sys, time
from pathlib import Path
from edgekit_runtime.pulling import pull
from edgekit_runtime.registry.reference import Reference
from edgekit_runtime.registry.source import RegistrySource

def slow(progress):
    if progress.moved_bytes > 150_000:
        print("now", flush=True)
        time.sleep(600)

source = RegistrySource(Reference.parse(sys.argv[1]), plain_http=True)
pull(source, Path(sys.argv[2]), jobs=1, on_progress=slow)
"""


def test_a_killed_pull_is_not_begun_again(pushed: Reference, wire: Wire, tmp_path: Path) -> None:
    output = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", PULL, str(pushed), str(output)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline() == b"now\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not output.exists()
    report = pull(RegistrySource(reference(wire.host), plain_http=True), output)
    assert report.reused_bytes >= 139_000  # the weights were there
    assert verify_bundle(output) == []
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_what_a_stopped_pull_of_another_version_left_does_no_harm(
    pushed: Reference, tmp_path: Path
) -> None:
    staging = tmp_path / ".out.pulling"
    (staging / "weights" / "cpu.data" / "deep").mkdir(parents=True)
    (staging / "stranger.txt").write_text("of another version")
    (staging / ".parts").mkdir()
    (staging / ".parts" / ("0" * 64)).write_text("of another content")
    (staging / "adapters").write_text("a file where a directory belongs")
    pull(RegistrySource(pushed, plain_http=True), tmp_path / "out")
    assert verify_bundle(tmp_path / "out") == []


def test_a_part_that_is_wrong_is_fetched_anew(
    pushed: Reference, tiny_bundle: Path, tmp_path: Path
) -> None:
    """After a power loss, a part may have holes."""
    source = RegistrySource(pushed, plain_http=True)
    layer = source.artifact.file("weights/cpu.data")
    assert layer is not None
    parts = tmp_path / ".out.pulling" / ".parts"
    parts.mkdir(parents=True)
    (parts / layer.digest.partition(":")[2]).write_bytes(bytes(100_000))
    pull(source, tmp_path / "out")
    assert verify_bundle(tmp_path / "out") == []


class Busy(Front):
    """Answers the first requests with 503, and knows no ranges."""

    left = 3

    def answer(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, Mapping[str, str], bytes]:
        if self.left:
            self.left -= 1
            return 503, {"Retry-After": "0"}, b""
        kept = {name: value for name, value in headers.items() if name != "Range"}
        return self.ask(method, path, kept, body)


def test_a_busy_registry_is_asked_again_and_ranges_are_not_needed(
    pushed: Reference, tiny_bundle: Path, tmp_path: Path
) -> None:
    with Busy(pushed.host) as front:
        source = RegistrySource(reference(front.host), plain_http=True)
        layer = source.artifact.file("weights/cpu.data")
        assert layer is not None
        parts = tmp_path / ".out.pulling" / ".parts"
        parts.mkdir(parents=True)
        begun = (tiny_bundle / "weights/cpu.data").read_bytes()[:50_000]
        (parts / layer.digest.partition(":")[2]).write_bytes(begun)
        pull(source, tmp_path / "out")
    assert verify_bundle(tmp_path / "out") == []


class Elsewhere(Front):
    """Sends clients to another host for blobs, as most registries do."""

    def __init__(self, host: str) -> None:
        self.store = Front(host)
        super().__init__(host)

    def answer(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, Mapping[str, str], bytes]:
        if "/blobs/" in path and method == "GET":
            return 307, {"Location": f"http://{self.store.host}{path}"}, b""
        return self.ask(method, path, headers, body)


def test_a_redirect_is_followed_and_the_login_stays_behind(
    pushed: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Elsewhere(pushed.host) as front, front.store:
        source = RegistrySource(reference(front.host), plain_http=True)
        monkeypatch.setattr(source.repository.connection._login, "header", lambda _: "Basic secret")
        pull(source, tmp_path / "out")
        blobs = [headers for _, path, headers in front.log if "/blobs/" in path]
        assert blobs and all(headers["Authorization"] == "Basic secret" for headers in blobs)
        moved = [headers for _, _, headers in front.store.log]
        assert moved and not any("Authorization" in headers for headers in moved)


def test_two_pulls_into_one_place_are_refused(pushed: Reference, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PULL, str(pushed), str(tmp_path / "out")], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == b"now\n"
        with pytest.raises(BundleError, match="another process is changing"):
            pull(RegistrySource(pushed, plain_http=True), tmp_path / "out")
    finally:
        process.kill()
        process.communicate()
