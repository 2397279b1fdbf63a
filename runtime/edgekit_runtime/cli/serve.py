"""``serve``: a bundle behind OpenAI's protocol."""

import importlib.util
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit_runtime.cli.options import BundleArgument, JsonOption, TargetOption, ThreadsOption
from edgekit_runtime.errors import ServeError

if TYPE_CHECKING:
    from edgekit_runtime.serving.server import Server

_ACCESS = "Who may ask"
_ROUTING = "Routing"
_LIMITS = "Limits"
_NEEDED = ("starlette", "uvicorn")


class Reuse(Enum):
    """What is kept of a conversation's cache; see `edgekit_runtime.serving.kept`."""

    EXACT = "exact"
    FAST = "fast"


def serve_command(
    bundle: BundleArgument,
    host: Annotated[
        str,
        typer.Option(
            "--host",
            metavar="ADDRESS",
            help="Address to listen on; beyond this machine it takes a key and TLS.",
            rich_help_panel=_ACCESS,
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            "--port",
            metavar="N",
            min=0,
            max=65535,
            help="Port; 0 takes a free one.",
            rich_help_panel=_ACCESS,
        ),
    ] = 8080,
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key",
            metavar="KEY",
            envvar="EDGEKIT_API_KEY",
            show_envvar=False,
            help="What clients have to show; better by EDGEKIT_API_KEY, since other users of the "
            "machine see command lines.",
            rich_help_panel=_ACCESS,
        ),
    ] = None,
    ssl_keyfile: Annotated[
        Path | None,
        typer.Option(
            "--ssl-keyfile", metavar="FILE", help="Key for TLS, PEM.", rich_help_panel=_ACCESS
        ),
    ] = None,
    ssl_certfile: Annotated[
        Path | None,
        typer.Option(
            "--ssl-certfile",
            metavar="FILE",
            help="Certificate for TLS, PEM.",
            rich_help_panel=_ACCESS,
        ),
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure",
            help="Listen beyond this machine without key or TLS.",
            rich_help_panel=_ACCESS,
        ),
    ] = False,
    adapters_from: Annotated[
        Path | None,
        typer.Option(
            "--allow-adapters-from",
            metavar="DIR",
            help="Let clients load adapters from this directory.",
            rich_help_panel=_ACCESS,
        ),
    ] = None,
    route: Annotated[
        bool,
        typer.Option(
            "--route",
            help="Serve one more model, BUNDLE:auto, that picks the adapter for what the user "
            "says, by the examples that adapters record.",
            rich_help_panel=_ROUTING,
        ),
    ] = False,
    route_examples: Annotated[
        Path | None,
        typer.Option(
            "--route-examples",
            metavar="FILE",
            help='The same by your own examples, JSON: {"ADAPTER": ["text", ...]}.',
            rich_help_panel=_ROUTING,
        ),
    ] = None,
    route_threshold: Annotated[
        float | None,
        typer.Option(
            "--route-threshold",
            metavar="X",
            min=-1.0,
            max=1.0,
            help="The same, with this least similarity; what is less alike goes to the base.",
            rich_help_panel=_ROUTING,
        ),
    ] = None,
    target: TargetOption = None,
    threads: ThreadsOption = None,
    context_length: Annotated[
        int | None,
        typer.Option(
            "--context-length",
            metavar="N",
            min=2,
            help="Longest prompt plus answer, in tokens; the target's own by default.",
            rich_help_panel=_LIMITS,
        ),
    ] = None,
    parallel: Annotated[
        int,
        typer.Option(
            "--parallel",
            metavar="N",
            min=1,
            help="Answers at the same time; they share the processor.",
            rich_help_panel=_LIMITS,
        ),
    ] = 4,
    queue: Annotated[
        int,
        typer.Option(
            "--queue",
            metavar="N",
            min=0,
            help="Requests that may wait; others get 429.",
            rich_help_panel=_LIMITS,
        ),
    ] = 64,
    keep: Annotated[
        int,
        typer.Option(
            "--keep",
            metavar="N",
            min=0,
            help="Conversations whose caches are kept for their next turn.",
            rich_help_panel=_LIMITS,
        ),
    ] = 4,
    reuse: Annotated[
        Reuse,
        typer.Option(
            "--reuse",
            metavar="HOW",
            help="exact: answers do not depend on what was answered before; fast: the next turn "
            "runs even less.",
            rich_help_panel=_LIMITS,
        ),
    ] = Reuse.EXACT,
    max_body_bytes: Annotated[
        int,
        typer.Option(
            "--max-body-bytes",
            metavar="N",
            min=1024,
            help="Longest request.",
            rich_help_panel=_LIMITS,
        ),
    ] = 2 * 1024 * 1024,
    request_timeout_s: Annotated[
        float,
        typer.Option(
            "--request-timeout",
            metavar="SECONDS",
            min=0.1,
            help="Longest time of a request, waiting included.",
            rich_help_panel=_LIMITS,
        ),
    ] = 600.0,
    read_timeout_s: Annotated[
        float,
        typer.Option(
            "--read-timeout",
            metavar="SECONDS",
            min=0.1,
            help="Longest time for a request's headers, and again for its body.",
            rich_help_panel=_LIMITS,
        ),
    ] = 10.0,
    keep_alive_s: Annotated[
        float,
        typer.Option(
            "--keep-alive",
            metavar="SECONDS",
            min=0.0,
            help="How long an idle connection stays open.",
            rich_help_panel=_LIMITS,
        ),
    ] = 75.0,
    shutdown_timeout_s: Annotated[
        float,
        typer.Option(
            "--shutdown-timeout",
            metavar="SECONDS",
            min=0.0,
            help="How long answers go on after SIGTERM or Ctrl-C.",
            rich_help_panel=_LIMITS,
        ),
    ] = 10.0,
    access_log: Annotated[
        bool,
        typer.Option("--access-log", help="Log each request's path and status on stderr."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Serve a bundle by OpenAI's protocol: the base and every adapter, each a model.

    The base has the bundle's name, an adapter BUNDLE:ADAPTER. Prompts and answers are never
    logged.

    Examples:
        {command} my-bundle
        {command} my-bundle --port 0 --json
        {command} my-bundle --route
        EDGEKIT_API_KEY=... {command} my-bundle --host 0.0.0.0 --ssl-keyfile key.pem \
--ssl-certfile cert.pem
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ServeError(
            f"this command needs {' and '.join(missing)}",
            hint="Install them: pip install 'edgekit-runtime[serve]'",
        )
    from edgekit_runtime.serving.server import run
    from edgekit_runtime.serving.settings import RouteSettings, ServeSettings, read_examples

    is_routing = route or route_examples is not None or route_threshold is not None
    examples = None if route_examples is None else read_examples(route_examples)
    picks = RouteSettings(examples=examples, threshold=route_threshold) if is_routing else None
    settings = ServeSettings(
        bundle=bundle,
        target=target,
        threads=threads,
        context_length=context_length,
        host=host,
        port=port,
        api_key=api_key,
        ssl_keyfile=ssl_keyfile,
        ssl_certfile=ssl_certfile,
        is_insecure=insecure,
        adapters_from=adapters_from,
        route=picks,
        parallel=parallel,
        max_waiting=queue,
        max_kept=keep,
        reuse=reuse.value,
        max_body_bytes=max_body_bytes,
        request_timeout_s=request_timeout_s,
        read_timeout_s=read_timeout_s,
        keep_alive_s=keep_alive_s,
        shutdown_timeout_s=shutdown_timeout_s,
        has_access_log=access_log,
    )
    run(settings, on_ready=_announce_json if as_json else _announce)


def _announce(url: str, server: "Server") -> None:
    """Say on stdout where the server is; the rest is for a person."""
    from edgekit_runtime.cli.console import note

    models = server.service.models
    typer.echo(f"{url}/v1")
    note(f"{models.bundle} {models.version} on {models.target}: {', '.join(models.names())}")
    note("Ctrl-C ends it.")


def _announce_json(url: str, server: "Server") -> None:
    import json

    models = server.service.models
    told = {"url": f"{url}/v1", "models": models.names(), "target": models.target}
    typer.echo(json.dumps(told | {"worker_pid": server.service.supervisor.pid}))
