"""HTTP with one registry: TLS, logins, redirects, tries; urllib underneath."""

import http.client
import json
import ssl
import time
from collections.abc import Collection, Mapping
from typing import Protocol
from urllib.error import URLError
from urllib.parse import urljoin, urlsplit
from urllib.request import (
    HTTPHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
)

from edgekit_runtime.errors import RegistryError
from edgekit_runtime.registry.login import Login

Response = http.client.HTTPResponse


class Body(Protocol):
    """A request's body that is read as it is sent, once more from its start after a login."""

    def read(self, size: int = ..., /) -> bytes:
        """The next bytes."""
        ...

    def seek(self, offset: int, /) -> int:
        """Back to the start."""
        ...


Data = bytes | Body | None

_ATTEMPTS = 4
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_MAX_REDIRECTS = 5
_MAX_ERROR_BYTES = 64 * 1024
_REDIRECTS = {301, 302, 303, 307, 308}
_AGAIN = {429, 500, 502, 503, 504}
_DOCKER_HUB = "docker.io"


class Connection:
    """Asks one registry. Safe to use from several threads.

    Args:
        host: The registry, with its port if one is given.
        plain_http: Speak HTTP without TLS; logins then travel unprotected.
        timeout_s: For connecting, and for each wait for bytes.
    """

    def __init__(self, host: str, *, plain_http: bool = False, timeout_s: float = 60.0) -> None:
        self.host = host
        self._scheme = "http" if plain_http else "https"
        server = "registry-1.docker.io" if host == _DOCKER_HUB else host
        self._base = f"{self._scheme}://{server}/"
        self._timeout_s = timeout_s
        self._opener = _opener()
        self._login = Login(host, self._open_once, needs_tls=not plain_http)

    def request(
        self,
        method: str,
        url: str,
        *,
        scope: str,
        expected: Collection[int],
        headers: Mapping[str, str] | None = None,
        data: Data = None,
        attempts: int = _ATTEMPTS,
    ) -> Response:
        """Send a request; follow redirects, log in and try again where that helps.

        Args:
            method: HTTP's.
            url: A path on the registry, or what a ``Location`` header said.
            scope: What the login is for, e.g. ``repository:me/support:pull``.
            expected: Statuses that the caller deals with.
            headers: More headers.
            data: Body; a file is read once, so give 1 attempt.
            attempts: How often to try while the registry is busy or cannot be reached.

        Raises:
            RegistryError: If the registry cannot be reached, refuses, or answers otherwise.
        """
        target = self.url(url)
        for attempt in range(attempts):
            is_last = attempt == attempts - 1
            try:
                response = self._authorized(method, target, scope, dict(headers or {}), data)
            except (OSError, http.client.HTTPException) as err:
                if is_last or _is_final(err):
                    raise self._unreachable(err) from err
                _pause(attempt, None)
                continue
            if response.status in expected:
                return response
            if response.status not in _AGAIN or is_last:
                raise self._refused(method, target, response)
            _pause(attempt, response.headers.get("Retry-After"))
            response.close()
        raise AssertionError("unreachable")

    def url(self, location: str) -> str:
        """A full address; one on this registry keeps our scheme, TLS is never left.

        Raises:
            RegistryError: If it leads to another scheme.
        """
        found = urljoin(self._base, location)
        parts, base = urlsplit(found), urlsplit(self._base)
        if parts.netloc == base.netloc and parts.scheme in {"http", "https"}:
            return parts._replace(scheme=self._scheme).geturl()
        if parts.scheme != "https" and parts.scheme != self._scheme:
            raise RegistryError(
                f"registry '{self.host}' sent us to an address without TLS: {found}",
                hint="Ask whoever runs the registry.",
            )
        return found

    def _authorized(
        self,
        method: str,
        url: str,
        scope: str,
        headers: dict[str, str],
        data: Data,
    ) -> Response:
        """Send once; where the registry wants a login, log in and send again."""
        known = self._login.header(scope)
        response = self._follow(method, url, headers, data, known)
        if response.status != 401:
            return response
        challenge = response.headers.get_all("WWW-Authenticate") or []
        response.close()
        authorization = self._login.answer(challenge, scope, known)
        if data is not None and not isinstance(data, bytes):
            data.seek(0)
        return self._follow(method, url, headers, data, authorization)

    def _follow(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        data: Data,
        authorization: str | None,
    ) -> Response:
        """Send and follow redirects; the login goes to the registry's own host only."""
        for _ in range(_MAX_REDIRECTS):
            is_own = urlsplit(url).netloc == urlsplit(self._base).netloc
            own = {"Authorization": authorization} if authorization and is_own else {}
            response = self._open_once(method, url, headers | own, data)
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or location is None or method not in _READS:
                return response
            response.close()
            url = self.url(urljoin(url, location))
        raise RegistryError(f"registry '{self.host}' redirects in circles: {url}")

    def _open_once(self, method: str, url: str, headers: Mapping[str, str], data: Data) -> Response:
        request = Request(url, data=data, method=method, headers={"User-Agent": "edgekit"})
        for name, value in headers.items():
            request.add_unredirected_header(name, value)
        if data is not None and not request.has_header("Content-type"):
            request.add_unredirected_header("Content-type", "application/octet-stream")
        response = self._opener.open(request, timeout=self._timeout_s)
        assert isinstance(response, Response)
        return response

    def _unreachable(self, err: Exception) -> RegistryError:
        reason = err.reason if isinstance(err, URLError) else err
        hint = "Check the name and the network."
        if isinstance(reason, ssl.SSLCertVerificationError):
            hint = "Set SSL_CERT_FILE to the certificate of its authority, if you trust it."
        elif isinstance(reason, ssl.SSLError):
            hint = "If it speaks plain HTTP and you trust the network, say --plain-http."
        return RegistryError(f"registry '{self.host}' cannot be reached: {reason}", hint=hint)

    def _refused(self, method: str, url: str, response: Response) -> RegistryError:
        with response:
            problems = _told(response)
        path = urlsplit(url).path
        what = f"registry '{self.host}' refused {method} {path}: {response.status}"
        hint = {
            401: "Log in: docker login, or set EDGEKIT_REGISTRY and its _USERNAME and _PASSWORD.",
            403: "Log in as somebody who may do this.",
            404: "Check the name and the tag.",
        }.get(response.status, "Try again later, or ask whoever runs the registry.")
        return RegistryError(f"{what} {response.reason}", problems=problems, hint=hint)


_READS = {"GET", "HEAD"}


def _opener() -> OpenerDirector:
    """Proxies and certificates as the environment says; statuses are left to us."""
    opener = OpenerDirector()
    context = ssl.create_default_context()
    for handler in (ProxyHandler(), HTTPHandler(), HTTPSHandler(context=context)):
        opener.add_handler(handler)
    return opener


def _is_final(err: Exception) -> bool:
    """Whether another try would end the same way."""
    reason = err.reason if isinstance(err, URLError) else err
    return isinstance(reason, ssl.SSLError)


def _pause(attempt: int, retry_after: str | None) -> None:
    told = float(retry_after) if retry_after and retry_after.isdecimal() else 0.0
    time.sleep(min(max(told, _FIRST_PAUSE_S * 2**attempt), _LONGEST_PAUSE_S))


def _told(response: Response) -> list[str]:
    """What the registry says is wrong, from its JSON."""
    try:
        value = json.loads(response.read(_MAX_ERROR_BYTES))
        errors = value["errors"]
        return [f"{error.get('code')}: {error.get('message')}" for error in errors][:5]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, http.client.HTTPException):
        return []
