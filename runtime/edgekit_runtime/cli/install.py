"""``install``, ``update``, ``rollback``, ``versions``: bundles side by side, one current."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekit_runtime.cli.options import JsonOption
from edgekit_runtime.cli.signature_options import PolicyOption, read_policy, refuse_by
from edgekit_runtime.cli.transfer import JobsOption, PlainHttpOption, progress_bar

if TYPE_CHECKING:
    from edgekit_runtime.installing import InstallReport

InstallationArgument = Annotated[
    Path,
    typer.Argument(metavar="DIRECTORY", help="Directory of the installation.", show_default=False),
]
RetryOption = Annotated[
    bool, typer.Option("--retry", help="Take a version that failed its health check here before.")
]
HealthOption = Annotated[
    bool,
    typer.Option(
        "--health/--no-health", help="Ask the new version the recorded prompts before it runs."
    ),
]


def install_command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="A reference, or a bundle's directory.", show_default=False
        ),
    ],
    directory: InstallationArgument,
    health: HealthOption = True,
    retry: RetryOption = False,
    policy: PolicyOption = None,
    jobs: JobsOption = 4,
    plain_http: PlainHttpOption = False,
    as_json: JsonOption = False,
) -> None:
    """Install a bundle beside the versions that are there, check it, and switch to it.

    The version before stays for `rollback`. DIRECTORY then stands for the current version, in
    every command that takes a bundle.

    Examples:
        {command} ghcr.io/me/support:stable support
        {command} my-bundle support
        {command} ghcr.io/me/support:stable support --policy policy.json
    """
    _install(source, directory, source, health, retry, policy, jobs, plain_http, as_json)


def update_command(
    directory: InstallationArgument,
    source: Annotated[
        str | None,
        typer.Option(
            "--source", metavar="SOURCE", help="From here, now and later; else from where it came."
        ),
    ] = None,
    health: HealthOption = True,
    retry: RetryOption = False,
    policy: PolicyOption = None,
    jobs: JobsOption = 4,
    plain_http: PlainHttpOption = False,
    as_json: JsonOption = False,
) -> None:
    """Fetch what is new where an installation came from, check it, and switch to it.

    A version that fails its health check does not become current; the exit code is 1 then.

    Examples:
        {command} support
        {command} support --source ghcr.io/me/support:beta
    """
    from edgekit_runtime.errors import InstallError
    from edgekit_runtime.installation import read_state

    state = read_state(directory)
    if state is None or not (source or state.source):
        raise InstallError(
            f"'{directory}' does not say where updates come from",
            hint="Install first, or give --source.",
        )
    plain_http = plain_http or (source is None and state.plain_http)
    _install(
        source or state.source,
        directory,
        source or "",
        health,
        retry,
        policy,
        jobs,
        plain_http,
        as_json,
    )


def rollback_command(directory: InstallationArgument, as_json: JsonOption = False) -> None:
    """Go back to the version before the current one.

    Called again, it goes forward again.

    Example:
        {command} support
    """
    from edgekit_runtime.installing import rollback

    _tell(rollback(directory), as_json, "went back to")


def versions_command(directory: InstallationArgument, as_json: JsonOption = False) -> None:
    """Show the versions of an installation, and which one is current.

    Examples:
        {command} support
        {command} support --json
    """
    from edgekit_runtime.cli.console import add_row, console, new_table, write_json

    found = _versions(directory)
    if as_json:
        write_json(found)
        return
    table = new_table(None, ["", "version", "bundle", "digest"], text="digest")
    for version in found["versions"]:
        add_row(table, version["role"], version["version"], version["name"], version["digest"])
    console().print(table)
    if found["source"]:
        typer.echo(f"updates come from {found['source']}")


def _install(
    source: str,
    directory: Path,
    origin: str,
    health: bool,
    retry: bool,
    policy: Path | None,
    jobs: int,
    plain_http: bool,
    as_json: bool,
) -> None:
    from edgekit_runtime.cli.console import note
    from edgekit_runtime.health import check_health
    from edgekit_runtime.installing import install
    from edgekit_runtime.sources import open_source

    asked = read_policy(policy)
    opened = open_source(source, plain_http=plain_http)
    if origin and Path(origin).is_dir():
        origin = str(Path(origin).absolute())
    with progress_bar("fetching") as show:
        report = install(
            opened,
            directory,
            origin=origin,
            plain_http=plain_http,
            retry=retry,
            allow_older=asked.allow_older,
            jobs=jobs,
            check=lambda path: refuse_by(asked, path),
            health=check_health if health else lambda _: (),
            on_progress=show,
        )
    _tell(report, as_json, "runs")
    if report.is_new and not as_json and report.previous:
        note(f"back: edgekit-run rollback {directory}")


def _tell(report: "InstallReport", as_json: bool, what: str) -> None:
    from edgekit_runtime.cli.console import show_size, write_json

    if as_json:
        write_json(report.to_dict())
        return
    fetched = f", {show_size(report.fetched_bytes)} fetched" if report.fetched_bytes else ""
    is_new = "" if report.is_new else " already"
    typer.echo(
        f"{report.directory} {what}{is_new} {report.name} {report.version}, "
        f"{report.current}{fetched}"
    )


def _versions(directory: Path) -> dict[str, Any]:
    from edgekit_runtime import Bundle
    from edgekit_runtime.errors import InstallError
    from edgekit_runtime.installation import installed, read_state, version_path

    state = read_state(directory)
    if state is None:
        raise InstallError(f"'{directory}' is no installation", hint="Install first.")
    roles = {state.previous: "previous", state.current: "current"}
    versions = []
    for digest in installed(directory):
        manifest = Bundle.open(version_path(directory, digest), verify="sizes").manifest
        versions.append(
            {
                "role": roles.get(digest, "left over"),
                "name": manifest.name,
                "version": manifest.version,
                "digest": digest,
            }
        )
    versions.sort(key=lambda version: (version["role"], version["digest"]))
    return {"source": state.source, "versions": versions, "rejected": dict(state.rejected)}
