"""Logins and TLS, against a real registry that wants them."""

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from edgekit.bundling.push import push
from edgekit_runtime.errors import RegistryError
from edgekit_runtime.pulling import pull
from edgekit_runtime.registry.reference import Reference
from edgekit_runtime.registry.source import RegistrySource
from edgekit_runtime.verification import verify_bundle
from tests.registry.servers import HTPASSWD, PASSWORD, USER, Front, running_registry

BASIC = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


def reference(host: str) -> Reference:
    return Reference.parse(f"{host}/tests/private:1")


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry that wants a user and a password."""
    folder = tmp_path_factory.mktemp("locked")
    (folder / "htpasswd").write_text(HTPASSWD)
    auth = f"auth:\n  htpasswd: {{realm: tests, path: '{folder / 'htpasswd'}'}}\n"
    with running_registry(folder, more=auth) as host:
        yield host


def test_without_a_login_it_says_how_to_log_in(locked: str, tiny_bundle: Path) -> None:
    with pytest.raises(RegistryError, match=r"refused HEAD .*: 401") as error:
        push(tiny_bundle, reference(locked), plain_http=True)
    assert "docker login" in error.value.hint


def test_the_login_comes_from_the_environment(
    locked: str, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKIT_REGISTRY", locked)
    monkeypatch.setenv("EDGEKIT_REGISTRY_USERNAME", USER)
    monkeypatch.setenv("EDGEKIT_REGISTRY_PASSWORD", PASSWORD)
    push(tiny_bundle, reference(locked), plain_http=True)
    pull(RegistrySource(reference(locked), plain_http=True), tmp_path / "out")
    assert verify_bundle(tmp_path / "out") == []


def test_the_login_comes_from_dockers_file(
    locked: str, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docker").mkdir()
    config = {"auths": {locked: {"auth": BASIC}}}
    (tmp_path / "docker/config.json").write_text(json.dumps(config))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    push(tiny_bundle, reference(locked), plain_http=True)


def test_a_wrong_password_is_refused(
    locked: str, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKIT_REGISTRY", locked)
    monkeypatch.setenv("EDGEKIT_REGISTRY_USERNAME", USER)
    monkeypatch.setenv("EDGEKIT_REGISTRY_PASSWORD", "wrong")
    with pytest.raises(RegistryError, match="401") as error:
        push(tiny_bundle, reference(locked), plain_http=True)
    assert "wrong" not in str(error.value)


class TokenFront(Front):
    """Wants a token of its own place before it passes anything on, as Docker Hub does."""

    token = "dG9rZW4"

    def answer(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, Mapping[str, str], bytes]:
        if path.startswith("/token"):
            return self._login(path, headers, body)
        if headers.get("Authorization") != f"Bearer {self.token}":
            scope = "repository:tests/private:pull,push"
            wanted = f'Bearer realm="http://{self.host}/token",service="here",scope="{scope}"'
            return 401, {"WWW-Authenticate": wanted}, b""
        return self.ask(method, path, headers, body)

    def _login(
        self, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, Mapping[str, str], bytes]:
        asked = parse_qs(body.decode() if body else urlsplit(path).query)
        assert asked["scope"] == ["repository:tests/private:pull,push"]
        assert asked["service"] == ["here"]
        is_known = headers.get("Authorization") == f"Basic {BASIC}"
        is_known = is_known or asked.get("refresh_token") == ["for ever"]
        if not is_known:
            return 401, {}, b"{}"
        return 200, {}, json.dumps({"access_token": self.token}).encode()


@pytest.mark.parametrize("entry", [{"auth": BASIC}, {"identitytoken": "for ever"}])
def test_a_token_is_fetched_where_the_registry_says(
    registry: str,
    tiny_bundle: Path,
    tmp_path: Path,
    entry: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with TokenFront(registry) as front:
        config = {"auths": {f"https://{front.host}": entry}}
        monkeypatch.setenv("DOCKER_AUTH_CONFIG", json.dumps(config))
        push(tiny_bundle, reference(front.host), plain_http=True)
        asked = [path for _, path, _ in front.log if path.startswith("/token")]
        assert len(asked) == 1  # one token for all


def test_a_refused_token_is_told(
    registry: str, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TokenFront(registry) as front, pytest.raises(RegistryError, match="refused the login"):
        push(tiny_bundle, reference(front.host), plain_http=True)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that nobody signed, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl: apt-get install openssl")
    command = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=here"
    files = "-keyout key.pem -out cert.pem -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(
        ["openssl", *command.split(), *files.split()],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return folder / "cert.pem"


@pytest.fixture(scope="module")
def secure(certificate: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry that speaks TLS."""
    key = certificate.with_name("key.pem")
    tls = f"  tls: {{certificate: '{certificate}', key: '{key}'}}\n"
    with running_registry(tmp_path_factory.mktemp("secure"), http=tls) as host:
        yield host


def test_tls_is_the_default_and_its_certificate_is_checked(
    secure: str,
    certificate: Path,
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(RegistryError, match="CERTIFICATE_VERIFY_FAILED") as error:
        push(tiny_bundle, reference(secure))
    assert "SSL_CERT_FILE" in error.value.hint
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    push(tiny_bundle, reference(secure))
    pull(RegistrySource(reference(secure)), tmp_path / "out")
    assert verify_bundle(tmp_path / "out") == []


def test_plain_http_is_never_tried_unasked(registry: str, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"cannot be reached: .*SSL") as error:
        RegistrySource(reference(registry))
    assert "--plain-http" in error.value.hint
