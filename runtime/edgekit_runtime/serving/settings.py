"""How a server is set up; checked before anything is opened."""

import ipaddress
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgekit_runtime.bundle import DEFAULT_ADAPTER_BUDGET_BYTES
from edgekit_runtime.errors import ServeError
from edgekit_runtime.serving.jobs import Reuse
from edgekit_runtime.strict_json import loads

_LOOPBACK_NAMES = frozenset({"localhost", "ip6-localhost"})


@dataclass(frozen=True, kw_only=True, slots=True)
class RouteSettings:
    """How the model ``auto`` picks an adapter; see `edgekit_runtime.Engine.router`.

    Attributes:
        examples: Adapter name to texts; None for those that the adapters record.
        threshold: Least similarity, -1 to 1; None for what keeps the examples apart from others.
    """

    examples: Mapping[str, Sequence[str]] | None = None
    threshold: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeSettings:
    """What `edgekit serve` takes.

    Attributes:
        bundle: Directory of the bundle.
        target: One of its targets; None for the best one here.
        threads: Of one operator; None for the default.
        context_length: Shorter context than the target's.
        adapter_budget_bytes: Of each graph's loaded adapters.
        host: Address to listen on.
        port: 0 takes a free one.
        api_key: What a client has to show.
        ssl_keyfile: Private key for TLS.
        ssl_certfile: Certificate for TLS.
        is_insecure: Whether to listen beyond this machine without key and TLS.
        adapters_from: Directory whose adapters clients may load; None: they may load none.
        route: How to pick adapters; None: every request names its own.
        parallel: Answers at the same time.
        max_waiting: Requests that may wait; the next one is refused with 429.
        max_kept: Conversations whose caches are kept.
        reuse: What is kept of them, see `edgekit_runtime.serving.kept`.
        max_body_bytes: Longest body.
        request_timeout_s: Longest time of a request, waiting included.
        read_timeout_s: Longest time for its headers, and again for its body.
        keep_alive_s: How long an idle connection stays open.
        shutdown_timeout_s: How long answers go on after SIGTERM or Ctrl-C.
        has_access_log: Whether each request's path and status are logged.
    """

    bundle: Path
    target: str | None = None
    threads: int | None = None
    context_length: int | None = None
    adapter_budget_bytes: int = DEFAULT_ADAPTER_BUDGET_BYTES
    host: str = "127.0.0.1"
    port: int = 8080
    api_key: str | None = None
    ssl_keyfile: Path | None = None
    ssl_certfile: Path | None = None
    is_insecure: bool = False
    adapters_from: Path | None = None
    route: RouteSettings | None = None
    parallel: int = 4
    max_waiting: int = 64
    max_kept: int = 4
    reuse: Reuse = "exact"
    max_body_bytes: int = 2 * 1024 * 1024
    request_timeout_s: float = 600.0
    read_timeout_s: float = 10.0
    keep_alive_s: float = 75.0
    shutdown_timeout_s: float = 10.0
    has_access_log: bool = False

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        if self.host in _LOOPBACK_NAMES:
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def has_tls(self) -> bool:
        """Whether connections are encrypted."""
        return self.ssl_certfile is not None

    def check(self) -> None:
        """Refuse what would not work, or would open the server to others unprotected.

        Raises:
            ServeError: With every problem.
        """
        problems = [*self._tls_problems(), *self._exposure_problems()]
        if self.api_key is not None and (not self.api_key.isascii() or len(self.api_key) < 8):
            problems.append("api key: expected at least 8 ASCII characters")
        if self.adapters_from is not None and not self.adapters_from.is_dir():
            problems.append(f"adapters: {self.adapters_from} is no directory")
        if problems:
            raise ServeError("the server's settings do not work", problems=problems)

    def for_worker(self) -> dict[str, Any]:
        """The part that the worker needs, as JSON."""
        return {
            "bundle": str(self.bundle),
            "target": self.target,
            "threads": self.threads,
            "context_length": self.context_length,
            "adapter_budget_bytes": self.adapter_budget_bytes,
            "max_kept": self.max_kept,
            "reuse": self.reuse,
            "route": None if self.route is None else asdict(self.route),
        }

    def _tls_problems(self) -> list[str]:
        if (self.ssl_keyfile is None) != (self.ssl_certfile is None):
            return ["TLS: expected both a key file and a certificate file"]
        if self.ssl_keyfile is None or self.ssl_certfile is None:
            return []
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.ssl_certfile, self.ssl_keyfile, password=_no_password)
        except (OSError, ValueError) as err:
            return [f"TLS: {self.ssl_certfile} with {self.ssl_keyfile}: {err}"]
        return []

    def _exposure_problems(self) -> list[str]:
        if self.is_local or self.is_insecure:
            return []
        where = f"{self.host} can be reached from other machines"
        problems = []
        if self.api_key is None:
            problems.append(f"{where}: expected an API key (--api-key or EDGEKIT_API_KEY)")
        if not self.has_tls:
            problems.append(f"{where}: expected TLS (--ssl-keyfile and --ssl-certfile)")
        return problems


def read_examples(path: Path) -> dict[str, Any]:
    """Read examples of what adapters are asked: a JSON object, adapter name to list of texts.

    Raises:
        ServeError: If the file is no such thing.
    """
    try:
        found = loads(path.read_bytes(), unique_names=True)
    except (OSError, ValueError, RecursionError) as err:
        raise ServeError(f"cannot read the examples of {path}", problems=[str(err)]) from err
    if not isinstance(found, dict):
        problem = f"expected an object, adapter name to list of texts, got {type(found).__name__}"
        raise ServeError(f"{path} holds no examples", problems=[problem])
    return found


def _no_password() -> str:
    raise ValueError("the key has a password; give one without")
