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

    with Bundle.open(bundle, verify="sizes") as opened:
        problems = opened.verify()
        manifest = opened.manifest
    if as_json:
        write_json(
            {
                "name": manifest.name,
                "version": manifest.version,
                "digest": manifest.digest,
                "n_files": len(manifest.files),
                "ok": not problems,
                "problems": problems,
            }
        )
        if problems:
            raise typer.Exit(1)
        return
    if problems:
        raise BundleError(
            f"bundle {bundle} is not what was built",
            problems=problems,
            hint="Build or fetch it again.",
        )
    typer.echo(
        f"ok: {manifest.name} {manifest.version}, {len(manifest.files)} files, {manifest.digest}"
    )
