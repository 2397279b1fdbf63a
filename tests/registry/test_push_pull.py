"""A bundle goes to a real registry and comes back; nothing that is not as it was gets a place."""

import hashlib
import json
import shutil
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from edgekit.bundling.edit import remove_adapter
from edgekit.bundling.push import push
from edgekit.cli import main as edgekit
from edgekit.errors import BuildError
from edgekit_runtime.cli import main as edgekit_run
from edgekit_runtime.digests import sha256_of_file
from edgekit_runtime.errors import BundleError, RegistryError
from edgekit_runtime.pulling import PullReport, pull
from edgekit_runtime.registry.reference import Reference
from edgekit_runtime.registry.source import RegistrySource
from edgekit_runtime.verification import verify_bundle
from tests.registry.servers import Front, Wire

Captured = pytest.CaptureFixture[str]


def reference(host: str, name: str = "tests/tiny:1") -> Reference:
    return Reference.parse(f"{host}/{name}")


def fetch(of: Reference, output: Path, **options: Any) -> PullReport:
    return pull(RegistrySource(of, plain_http=True), output, **options)


def files_of(bundle: Path) -> dict[str, str]:
    return {
        path.relative_to(bundle).as_posix(): sha256_of_file(path)
        for path in bundle.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def pushed(registry: str, tiny_bundle: Path) -> Reference:
    """The tiny bundle, in the registry."""
    push(tiny_bundle, reference(registry), plain_http=True)
    return reference(registry)


def test_push_pull_verify_run(
    registry: str, tiny_bundle: Path, tmp_path: Path, capsys: Captured
) -> None:
    name, output = f"{registry}/tests/whole:1.0", str(tmp_path / "pulled")
    assert edgekit(["bundle", "push", str(tiny_bundle), name, "--plain-http"]) == 0
    assert f"pushed {registry}/tests/whole@sha256:" in capsys.readouterr().out
    assert edgekit_run(["pull", name, "-o", output, "--plain-http"]) == 0
    assert "pulled tiny 0.1.0 to " in capsys.readouterr().out
    assert edgekit_run(["verify", output]) == 0
    assert edgekit_run(["run", output, "-a", "alpha", "-p", "the card", "-n", "2"]) == 0
    assert files_of(tmp_path / "pulled") == files_of(tiny_bundle)


def test_the_second_push_sends_nothing(pushed: Reference, tiny_bundle: Path) -> None:
    first = push(tiny_bundle, pushed, plain_http=True)
    assert first.pushed_bytes == 0 < first.skipped_bytes
    again = push(tiny_bundle, reference(pushed.host, "tests/tiny:other"), plain_http=True)
    assert again.pinned == first.pinned


def test_equal_files_travel_once(registry: str, wire: Wire, tiny_bundle: Path) -> None:
    """Every target has the tokenizer's files beside its configuration."""
    manifest = json.loads((tiny_bundle / "manifest.json").read_bytes())
    by_digest = {file["digest"]: file["size_bytes"] for file in manifest["files"]}
    listed = sum(file["size_bytes"] for file in manifest["files"])
    report = push(tiny_bundle, reference(wire.host, "tests/once:1"), plain_http=True)
    assert sum(by_digest.values()) < report.pushed_bytes < listed


def test_a_file_of_the_old_bundle_is_not_fetched(
    pushed: Reference, wire: Wire, own_bundle: Path, tmp_path: Path
) -> None:
    remove_adapter(own_bundle, "beta")
    report = fetch(reference(wire.host), tmp_path / "new", old=own_bundle)
    added = sum(path.stat().st_size for path in (tmp_path / "new/adapters/beta").iterdir())
    assert report.fetched_bytes == added
    assert verify_bundle(tmp_path / "new") == []


def test_a_damaged_file_of_the_old_bundle_is_fetched(
    pushed: Reference, own_bundle: Path, tmp_path: Path
) -> None:
    weights = own_bundle / "weights/cpu.data"
    content = bytearray(weights.read_bytes())
    content[1000] ^= 1
    weights.write_bytes(content)
    report = fetch(pushed, tmp_path / "new", old=own_bundle)
    assert report.fetched_bytes == len(content)
    assert verify_bundle(tmp_path / "new") == []


def test_the_old_bundle_and_the_new_one_share_no_file(
    pushed: Reference, own_bundle: Path, tmp_path: Path
) -> None:
    """Whoever changes one of them in place would change both."""
    fetch(pushed, tmp_path / "new", old=own_bundle)
    old = {path.stat().st_ino for path in own_bundle.rglob("*") if path.is_file()}
    assert old.isdisjoint(path.stat().st_ino for path in (tmp_path / "new").rglob("*"))


def test_a_digest_pins_what_a_tag_does_not(
    registry: str, tiny_bundle: Path, own_bundle: Path, tmp_path: Path
) -> None:
    tag = reference(registry, "tests/pinned:1")
    before = push(tiny_bundle, tag, plain_http=True)
    remove_adapter(own_bundle, "beta")
    after = push(own_bundle, tag, plain_http=True)
    assert before.pinned != after.pinned
    assert fetch(tag, tmp_path / "moved").digest == after.digest
    pinned = fetch(Reference.parse(before.pinned), tmp_path / "pinned")
    assert (pinned.digest, pinned.source) == (before.digest, before.pinned)


def test_a_modelpack_reader_finds_every_file(pushed: Reference, tiny_bundle: Path) -> None:
    """Read as that specification says, with nothing of edgekit."""
    path = f"http://{pushed.host}/v2/{pushed.repository}"
    accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
    with urllib.request.urlopen(
        urllib.request.Request(f"{path}/manifests/{pushed.tag}", headers=accept)
    ) as response:
        manifest = json.load(response)
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    with urllib.request.urlopen(f"{path}/blobs/{manifest['config']['digest']}") as response:
        config = json.load(response)
    assert manifest["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    assert set(config) == {"descriptor", "config", "modelfs"}
    assert config["descriptor"]["name"] == "tiny" and config["config"]["format"] == "onnx"
    assert config["modelfs"]["diffIds"] == [layer["digest"] for layer in manifest["layers"]]
    found = {}
    for layer in manifest["layers"]:
        assert layer["mediaType"].startswith("application/vnd.cncf.model.")
        assert layer["mediaType"].endswith(".v1.raw")
        found[layer["annotations"]["org.cncf.model.filepath"]] = layer["digest"]
    assert found == files_of(tiny_bundle)


def test_a_changed_bundle_is_not_pushed(registry: str, own_bundle: Path) -> None:
    (own_bundle / "licenses/LICENSES.txt").write_text("mine\n")
    with pytest.raises(BuildError, match=r"LICENSES\.txt: expected 30 bytes, got 5"):
        push(own_bundle, reference(registry, "tests/changed:1"), plain_http=True)
    with pytest.raises(RegistryError, match="has no "):
        RegistrySource(reference(registry, "tests/changed:1"), plain_http=True)


def test_a_digest_cannot_be_pushed_to(registry: str, tiny_bundle: Path) -> None:
    pinned = Reference.parse(f"{registry}/tests/tiny@sha256:{'0' * 64}")
    with pytest.raises(RegistryError, match="a digest is found, not chosen"):
        push(tiny_bundle, pinned, plain_http=True)


def test_an_output_that_exists_is_left_alone(pushed: Reference, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(BundleError, match="exists"):
        fetch(pushed, tmp_path / "mine")
    assert list((tmp_path / "mine").iterdir()) == []


def test_an_artifact_that_is_no_bundle_is_refused(registry: str, tmp_path: Path) -> None:
    from edgekit.bundling.upload import upload_blob
    from edgekit_runtime.registry.artifact import IMAGE_MANIFEST_TYPE, image_manifest, layer_of
    from edgekit_runtime.registry.repository import Repository

    other = reference(registry, "tests/other:1")
    repository = Repository(other, access="pull,push", plain_http=True)
    blob = layer_of(b"{}", "application/vnd.oci.empty.v1+json", "readme.txt")
    upload_blob(repository, blob, b"{}")
    data = image_manifest(blob, [blob], artifact_type="application/x-other")
    repository.put_manifest("1", data, IMAGE_MANIFEST_TYPE)
    with pytest.raises(RegistryError, match=r"is no bundle: no layer holds manifest\.json"):
        fetch(other, tmp_path / "other")


class Liar(Front):
    """Sends other bytes than were asked for."""

    def __init__(self, host: str, digest: str) -> None:
        self.digest = digest
        super().__init__(host)

    def answer(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, Mapping[str, str], bytes]:
        status, told, data = self.ask(method, path, headers, body)
        if path.endswith(self.digest) and method == "GET" and data:
            data = data[:-1] + bytes([data[-1] ^ 1])
        return status, told, data


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("weights/cpu.data", "weights/cpu.data: expected sha256:"),
        ("manifest.json", "the content has another digest"),
    ],
)
def test_one_wrong_byte_is_noticed_and_nothing_is_put_in_place(
    pushed: Reference, tiny_bundle: Path, tmp_path: Path, path: str, message: str
) -> None:
    digest = sha256_of_file(tiny_bundle / path)
    wrong = pytest.raises((BundleError, RegistryError), match=message)
    with Liar(pushed.host, digest) as liar, wrong:
        fetch(reference(liar.host), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_wrong_manifest_under_a_pinned_digest_is_noticed(
    pushed: Reference, tiny_bundle: Path, tmp_path: Path
) -> None:
    digest = RegistrySource(pushed, plain_http=True).artifact.digest
    with Liar(pushed.host, digest) as liar:
        pinned = Reference.parse(f"{liar.host}/tests/tiny@{digest}")
        with pytest.raises(RegistryError, match="sent another manifest than was asked for"):
            RegistrySource(pinned, plain_http=True)


def test_a_check_may_refuse_before_a_file_is_fetched(
    pushed: Reference, wire: Wire, tmp_path: Path
) -> None:
    def refuse(staging: Path) -> None:
        assert [path.name for path in staging.iterdir()] == ["manifest.json"]
        raise BundleError("not ours")

    with pytest.raises(BundleError, match="not ours"):
        fetch(reference(wire.host), tmp_path / "out", check=refuse)
    assert wire.down < 20_000
    assert not (tmp_path / "out").exists()


def test_json_says_what_a_script_needs(
    registry: str, tiny_bundle: Path, tmp_path: Path, capsys: Captured
) -> None:
    name, output = f"{registry}/tests/json:1", str(tmp_path / "pulled")
    assert edgekit(["bundle", "push", str(tiny_bundle), name, "--plain-http", "--json"]) == 0
    sent = json.loads(capsys.readouterr().out)
    assert edgekit(["bundle", "pull", sent["pinned"], "-o", output, "--plain-http", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["source"] == sent["pinned"]
    assert told["digest"] == sent["digest"]
    assert told["fetched_bytes"] + told["reused_bytes"] == sum(
        {
            hashlib.sha256(path.read_bytes()).digest(): path.stat().st_size
            for path in tiny_bundle.rglob("*")
            if path.is_file() and path.name != "manifest.json"
        }.values()
    )


def test_a_pull_from_itself_needs_the_registry_for_the_manifest_only(
    pushed: Reference, wire: Wire, tiny_bundle: Path, tmp_path: Path
) -> None:
    report = fetch(reference(wire.host), tmp_path / "new", old=tiny_bundle)
    assert report.fetched_bytes == 0
    assert wire.down < 20_000
    shutil.rmtree(tmp_path / "new")
