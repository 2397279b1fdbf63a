"""Logins for registries, from the places where Docker, Podman and ORAS keep them."""

import base64
import binascii
import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit_runtime.errors import RegistryError

_HELPER = re.compile(r"[A-Za-z0-9._-]+")
_HELPER_SECONDS = 30
_DOCKER_HUB = {"docker.io", "index.docker.io", "registry-1.docker.io"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Credentials:
    """A login; the secrets stay out of its text.

    Attributes:
        identity_token: An OAuth2 refresh token, in place of a password.
    """

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """Value of an ``Authorization`` header."""
        pair = f"{self.username}:{self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode("ascii")


def find_credentials(host: str) -> Credentials | None:
    """Find the login for a registry, or None.

    In this order: ``EDGEKIT_REGISTRY_USERNAME`` and ``EDGEKIT_REGISTRY_PASSWORD`` where
    ``EDGEKIT_REGISTRY`` is the host; ``DOCKER_AUTH_CONFIG`` (JSON); the files that
    ``REGISTRY_AUTH_FILE``, ``DOCKER_CONFIG`` or their defaults name. The files may name credential
    helpers.

    Raises:
        RegistryError: If a file or helper cannot be used.
    """
    environment = os.environ
    if environment.get("EDGEKIT_REGISTRY") == host:
        return Credentials(
            username=environment.get("EDGEKIT_REGISTRY_USERNAME", ""),
            password=environment.get("EDGEKIT_REGISTRY_PASSWORD", ""),
        )
    for where, config in _configs():
        if found := _from_config(config, host, where):
            return found
    return None


def _configs() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every configuration that there is, the most specific first."""
    if text := os.environ.get("DOCKER_AUTH_CONFIG"):
        yield "DOCKER_AUTH_CONFIG", _parse(text, "DOCKER_AUTH_CONFIG")
    for path in _files():
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as err:
            raise RegistryError(f"the logins in '{path}' cannot be read: {err}") from err
        yield str(path), _parse(text, str(path))


def _files() -> Iterator[Path]:
    home = Path.home()
    if named := os.environ.get("REGISTRY_AUTH_FILE"):
        yield Path(named)
    yield Path(os.environ.get("DOCKER_CONFIG") or home / ".docker") / "config.json"
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        yield Path(runtime) / "containers" / "auth.json"
    yield home / ".config" / "containers" / "auth.json"


def _parse(text: str, where: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as err:
        raise RegistryError(
            f"the logins in '{where}' are no JSON: {err}", hint="Log in again: docker login HOST."
        ) from err
    return value if isinstance(value, dict) else {}


def _from_config(config: Mapping[str, Any], host: str, where: str) -> Credentials | None:
    names = _names_of(host)
    helpers = _object(config, "credHelpers")
    for name in names:
        if helper := helpers.get(name):
            return _from_helper(str(helper), name)
    auths = _object(config, "auths")
    for name in names:
        if found := _from_entry(auths.get(name), f"{where}: auths.{name}"):
            return found
    if store := config.get("credsStore"):
        for name in names:
            if found := _from_helper(str(store), name):
                return found
    return None


def _names_of(host: str) -> list[str]:
    """What a registry may be called in a configuration."""
    hub = ["https://index.docker.io/v1/", "docker.io"] if host in _DOCKER_HUB else []
    return [*hub, host, f"https://{host}", f"http://{host}"]


def _object(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = config.get(key)
    return value if isinstance(value, dict) else {}


def _from_entry(entry: object, where: str) -> Credentials | None:
    if not isinstance(entry, dict):
        return None
    username, password = str(entry.get("username") or ""), str(entry.get("password") or "")
    if encoded := entry.get("auth"):
        try:
            decoded = base64.b64decode(str(encoded), validate=True).decode()
        except (binascii.Error, ValueError) as err:
            raise RegistryError(
                f"{where}.auth is no base64 of USER:PASSWORD",
                hint="Log in again: docker login HOST.",
            ) from err
        username, _, password = decoded.partition(":")
    found = Credentials(
        username=username,
        password=password.rstrip("\0"),
        identity_token=str(entry.get("identitytoken") or ""),
    )
    return found if found.username or found.identity_token else None


def _from_helper(helper: str, server: str) -> Credentials | None:
    """Ask ``docker-credential-HELPER`` for a login; None if it has none."""
    if not _HELPER.fullmatch(helper):
        raise RegistryError(f"{helper!r} is no name of a credential helper")
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [program, "get"],
            input=server.encode(),
            capture_output=True,
            timeout=_HELPER_SECONDS,
            check=False,
        )
        value = json.loads(done.stdout) if done.returncode == 0 else {}
    except (OSError, subprocess.SubprocessError, ValueError) as err:
        raise RegistryError(
            f"the credential helper '{program}' failed: {err}",
            hint="Install it, or take it out of Docker's config.json.",
        ) from err
    username, secret = str(value.get("Username") or ""), str(value.get("Secret") or "")
    if username == "<token>":
        return Credentials(identity_token=secret)
    return Credentials(username=username, password=secret) if username else None
