"""``verify``: every file of a bundle against the manifest's digests."""

import typer

from edgekit_runtime.cli.console import write_json
from edgekit_runtime.cli.options import BundleArgument, JsonOption


def verify_command(bundle: BundleArgument, as_json: JsonOption = False) -> None:
    """Check every file of a bundle against the manifest's digests.

    Names each file that was changed, is missing, is a link, or is not listed;
    the exit code is 1 then.

    Example:
        {command} my-bundle
    """
    from edgekit_runtime import Bundle
    from edgekit_runtime.errors import BundleError
    from edgekit_runtime.verification import verify_bundle

    # Not Bundle.open: it stops at the first kind of problem, and this names every one.
    problems = verify_bundle(bundle)
    if as_json:
        write_json({"ok": not problems, "problems": problems})
        if problems:
            raise typer.Exit(1)
        return
    if problems:
        raise BundleError(
            f"bundle {bundle} is not as it was built",
            problems=problems,
            hint="Fetch or build it again.",
        )
    with Bundle.open(bundle, verify="sizes") as opened:
        manifest = opened.manifest
    n_files = len(manifest.files)
    typer.echo(f"ok: {manifest.name} {manifest.version}, {n_files} files, {manifest.digest}")
