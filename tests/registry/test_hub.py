"""The Hugging Face Hub, as far as it can be shown without it.

The library is the real one. What answers it is a stand-in on loopback that knows the two addresses
of a download; uploads are not shown here.
"""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from edgekit.cli import main as edgekit
from edgekit_runtime.errors import RegistryError
from edgekit_runtime.hub import HubReference, HubSource
from edgekit_runtime.verification import verify_bundle
from tests.docs.pages import ROOT

COMMIT = "0123456789abcdef0123456789abcdef01234567"
Captured = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("text", "repository", "revision"),
    [
        ("hf://me/support", "me/support", None),
        ("hf://me/support@v1", "me/support", "v1"),
        ("hf://me/support.x@refs/pr/1", "me/support.x", "refs/pr/1"),
    ],
)
def test_references_are_read(text: str, repository: str, revision: str | None) -> None:
    found = HubReference.parse(text)
    assert (found.repository, found.revision) == (repository, revision)
    assert str(found) == text


@pytest.mark.parametrize("text", ["hf://support", "hf://a/b/c", "hf://me/../x", "hf://me/x@"])
def test_what_is_no_reference_is_refused(text: str, tmp_path: Path, capsys: Captured) -> None:
    assert edgekit(["bundle", "pull", text, "-o", str(tmp_path / "out")]) == 1
    assert "Write hf://USER/NAME[@REVISION]." in capsys.readouterr().err


def test_without_a_network_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    # The variable is read when the library is imported, which another test may have done.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(RegistryError, match="the Hub did not do what was asked for") as error:
        HubSource(HubReference.parse("hf://me/support"))
    assert "OfflineModeIsEnabled" in error.value.problems[0]
    assert "HF_TOKEN" in error.value.hint


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RegistryError) as error:
        HubSource(HubReference.parse("hf://me/support"))
    assert "edgekit-runtime[hub]" in error.value.hint


def test_a_changed_bundle_is_not_pushed(own_bundle: Path, capsys: Captured) -> None:
    (own_bundle / "licenses/LICENSES.txt").write_text("mine\n")
    assert edgekit(["bundle", "push", str(own_bundle), "hf://me/support"]) == 1
    assert "LICENSES.txt: expected 30 bytes, got 5" in capsys.readouterr().err


class StandIn(BaseHTTPRequestHandler):
    """Answers as the Hub does for one public repository."""

    bundle: Path
    log: list[str]

    def answer(self) -> None:
        self.log.append(f"{self.command} {self.path}")
        if self.path.startswith("/api/models/me/support"):
            names = [
                path.relative_to(self.bundle).as_posix()
                for path in self.bundle.rglob("*")
                if path.is_file()
            ]
            value = {
                "id": "me/support",
                "sha": COMMIT,
                "siblings": [{"rfilename": n} for n in names],
            }
            self._send(json.dumps(value).encode(), {})
            return
        head = f"/me/support/resolve/{COMMIT}/"
        path = self.bundle / unquote(self.path.removeprefix(head))
        if not self.path.startswith(head) or not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        etag = hashlib.sha256(data).hexdigest()
        self._send(data, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

    def _send(self, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(200)
        for name, value in (headers | {"Content-Length": str(len(data))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_HEAD = answer  # noqa: N815

    def log_message(self, *_: Any) -> None:
        """Stay quiet."""


@pytest.fixture
def hub(tiny_bundle: Path) -> Iterator[tuple[str, list[str]]]:
    """Address of the stand-in, and what it was asked."""
    log: list[str] = []
    handler = type("Handler", (StandIn,), {"bundle": tiny_bundle, "log": log})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", log
        server.shutdown()


def test_a_bundle_is_pulled_by_the_real_library(
    hub: tuple[str, list[str]], own_bundle: Path, tmp_path: Path
) -> None:
    address, log = hub
    output = tmp_path / "pulled"
    command = "import sys; from edgekit_runtime.cli import main; sys.exit(main(sys.argv[1:]))"
    old = own_bundle / "adapters/beta/float32.onnx_adapter"
    old.write_bytes(old.read_bytes()[:-1] + b"\xff")  # of the old bundle, all but this is good
    options = ["-o", str(output), "--from", str(own_bundle), "--json"]
    done = subprocess.run(
        [sys.executable, "-c", command, "pull", "hf://me/support@main", *options],
        cwd=ROOT,
        env=os.environ
        | {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf")}
        | {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["source"] == f"hf://me/support@{COMMIT}"
    assert told["fetched_bytes"] == old.stat().st_size
    assert verify_bundle(output) == []
    fetched = {line.rpartition("/")[2] for line in log if line.startswith("GET /me/")}
    assert fetched == {"manifest.json", "float32.onnx_adapter"}
