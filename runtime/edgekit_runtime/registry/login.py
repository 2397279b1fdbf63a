"""What a registry wants to see before it answers: Basic or Bearer, as it asks."""

import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPResponse
from typing import Any
from urllib.parse import urlencode, urlsplit

from edgekit_runtime.errors import RegistryError
from edgekit_runtime.registry.credentials import Credentials, find_credentials

_PAIR = re.compile(r'(\w+)="([^"]*)"')
_MAX_TOKEN_BYTES = 1 << 20
_CLIENT = "edgekit"

Open = Callable[[str, str, Mapping[str, str], Any], HTTPResponse]


class Login:
    """The logins of one registry, one for each scope. Safe to use from several threads.

    Args:
        host: The registry.
        open_once: Sends one request to anywhere.
        needs_tls: Whether secrets may only travel by TLS.

    Source: the Docker registry's token authentication, which OCI registries follow.
    """

    def __init__(self, host: str, open_once: Open, *, needs_tls: bool) -> None:
        self._host = host
        self._open_once = open_once
        self._needs_tls = needs_tls
        self._lock = threading.Lock()
        self._headers: dict[str, str] = {}

    def header(self, scope: str) -> str | None:
        """Value of ``Authorization`` that worked for a scope before."""
        return self._headers.get(scope)

    def answer(self, challenges: Sequence[str], scope: str, refused: str | None) -> str | None:
        """Log in as the registry asks; None if there is nothing to log in with.

        Args:
            challenges: Its ``WWW-Authenticate`` headers.
            scope: What the login is for.
            refused: The header that was refused; another thread may have a newer one by now.

        Raises:
            RegistryError: If the login is refused or cannot be understood.
        """
        with self._lock:
            if self._headers.get(scope) != refused:
                return self._headers[scope]
            for challenge in challenges:
                kind, _, rest = challenge.partition(" ")
                if kind.lower() == "bearer":
                    self._headers[scope] = self._bearer(dict(_PAIR.findall(rest)), scope)
                    break
                if kind.lower() == "basic" and (found := find_credentials(self._host)):
                    self._headers[scope] = found.basic
                    break
            return self._headers.get(scope)

    def _bearer(self, told: Mapping[str, str], scope: str) -> str:
        """Fetch a token from the place that the registry names."""
        realm = told.get("realm", "")
        if urlsplit(realm).scheme not in ({"https"} if self._needs_tls else {"https", "http"}):
            raise RegistryError(f"registry '{self._host}' wants a login at {realm!r}, without TLS")
        query = {"service": told.get("service", ""), "scope": told.get("scope") or scope}
        found = find_credentials(self._host)
        if found is not None and found.identity_token:
            response = self._refresh(realm, query, found)
        else:
            headers = {"Authorization": found.basic} if found else {}
            response = self._open_once("GET", f"{realm}?{urlencode(query)}", headers, None)
        with response:
            data = response.read(_MAX_TOKEN_BYTES)
        if response.status != 200:
            raise RegistryError(
                f"registry '{self._host}' refused the login: {response.status} {response.reason}",
                hint="Log in again: docker login, or set EDGEKIT_REGISTRY and its variables.",
            )
        return f"Bearer {_token(data, self._host)}"

    def _refresh(self, realm: str, query: Mapping[str, str], found: Credentials) -> HTTPResponse:
        form = dict(query) | {
            "grant_type": "refresh_token",
            "refresh_token": found.identity_token,
            "client_id": _CLIENT,
        }
        headers = {"Content-type": "application/x-www-form-urlencoded"}
        return self._open_once("POST", realm, headers, urlencode(form).encode())


def _token(data: bytes, host: str) -> str:
    try:
        value = json.loads(data)
        token = value.get("token") or value["access_token"]
    except (ValueError, LookupError, AttributeError) as err:
        raise RegistryError(f"registry '{host}' sent no token where one was asked for") from err
    if not isinstance(token, str) or not token.isascii() or not token.isprintable():
        raise RegistryError(f"registry '{host}' sent no token where one was asked for")
    return token
