"""What people type to name an artifact in a registry, and where its login comes from."""

import base64
import json
import stat
import sys
from pathlib import Path

import pytest

from edgekit_runtime.errors import RegistryError
from edgekit_runtime.registry.credentials import find_credentials
from edgekit_runtime.registry.reference import Reference

DIGEST = f"sha256:{'ab' * 32}"


@pytest.mark.parametrize(
    ("text", "host", "repository", "tag", "digest"),
    [
        ("ghcr.io/me/support:1.2", "ghcr.io", "me/support", "1.2", None),
        ("localhost:5000/a", "localhost:5000", "a", "latest", None),
        ("localhost/a_b/c--d:T", "localhost", "a_b/c--d", "T", None),
        (f"ghcr.io/me/support@{DIGEST}", "ghcr.io", "me/support", None, DIGEST),
        (f"127.0.0.1:1/a:x@{DIGEST}", "127.0.0.1:1", "a", "x", DIGEST),
        ("oci://[::1]:5000/a", "[::1]:5000", "a", "latest", None),
    ],
)
def test_references_are_read(
    text: str, host: str, repository: str, tag: str | None, digest: str | None
) -> None:
    found = Reference.parse(text)
    assert (found.host, found.repository, found.tag, found.digest) == (
        host, repository, tag, digest,
    )  # fmt: skip
    assert Reference.parse(str(found)) == found


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("support", "host: expected a registry's, got 'support'"),
        ("me/support:1", "host: expected a registry's, got 'me'"),
        ("ghcr.io/Me/support", "name: expected lower case letters and digits, got 'Me/support'"),
        ("ghcr.io/../v2", "name: expected lower case letters and digits, got '../v2'"),
        ("ghcr.io/me:bad tag", "tag: expected at most 128 of A-Z a-z 0-9 _ . -, got 'bad tag'"),
        ("ghcr.io/me@sha256:12", "digest: expected sha256:<64 hex>, got 'sha256:12'"),
        ("https://ghcr.io/me", "host: expected a registry's, got 'https:'"),
    ],
)
def test_what_is_no_reference_is_refused(text: str, problem: str) -> None:
    with pytest.raises(RegistryError) as error:
        Reference.parse(text)
    assert problem in error.value.problems
    assert error.value.hint.startswith("Write HOST[:PORT]/NAME[:TAG]")


@pytest.fixture(autouse=True)
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for Docker's configuration; none of the developer's own is seen."""
    for name in ("DOCKER_AUTH_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "EDGEKIT_REGISTRY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    (tmp_path / "docker").mkdir()
    return tmp_path / "docker" / "config.json"


def encoded(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def test_there_may_be_no_login() -> None:
    assert find_credentials("ghcr.io") is None


def test_a_login_is_for_its_registry_only(docker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docker.write_text(json.dumps({"auths": {"ghcr.io": {"auth": encoded("ana", "a:b")}}}))
    found = find_credentials("ghcr.io")
    assert found is not None
    assert (found.username, found.password) == ("ana", "a:b")
    assert find_credentials("quay.io") is None
    monkeypatch.setenv("EDGEKIT_REGISTRY", "quay.io")
    monkeypatch.setenv("EDGEKIT_REGISTRY_PASSWORD", "secret")
    assert find_credentials("ghcr.io") == found
    other = find_credentials("quay.io")
    assert other is not None and other.password == "secret"


def test_docker_hub_goes_by_its_old_name(docker: Path) -> None:
    entry = {"username": "ana", "password": "pw"}
    docker.write_text(json.dumps({"auths": {"https://index.docker.io/v1/": entry}}))
    found = find_credentials("docker.io")
    assert found is not None and found.username == "ana"


def test_secrets_stay_out_of_texts(docker: Path) -> None:
    docker.write_text(json.dumps({"auths": {"ghcr.io": {"auth": encoded("ana", "hidden")}}}))
    assert "hidden" not in repr(find_credentials("ghcr.io"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "are no JSON"),
        ('{"auths": {"ghcr.io": {"auth": "???"}}}', "auths.ghcr.io.auth is no base64"),
        ('{"credsStore": "../evil"}', "is no name of a credential helper"),
        ('{"credHelpers": {"ghcr.io": "not-there"}}', "'docker-credential-not-there' failed"),
    ],
)
def test_a_broken_configuration_is_named(docker: Path, content: str, message: str) -> None:
    docker.write_text(content)
    with pytest.raises(RegistryError, match=message.replace(".", r"\.")):
        find_credentials("ghcr.io")


@pytest.mark.skipif(sys.platform == "win32", reason="the helper is a script with a shebang")
def test_a_helper_is_asked(docker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = docker.with_name("docker-credential-mine")
    helper.write_text(
        f"#!{sys.executable}\nimport json, sys\n"
        'assert sys.argv[1] == "get" and sys.stdin.read() == "ghcr.io"\n'
        'print(json.dumps({"Username": "<token>", "Secret": "refresh"}))\n'
    )
    helper.chmod(helper.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(docker.parent))
    docker.write_text(json.dumps({"credHelpers": {"ghcr.io": "mine"}}))
    found = find_credentials("ghcr.io")
    assert found is not None
    assert (found.identity_token, found.password) == ("refresh", "")
