"""``verify``: who signed a bundle, and every file of it against the manifest's digests."""

import typer

from edgekit_runtime.cli.console import write_json
from edgekit_runtime.cli.options import BundleArgument, JsonOption
from edgekit_runtime.cli.signature_options import (
    AuthorityOption,
    IdentityOption,
    IssuerOption,
    KeyOption,
    PolicyOption,
    TrustOption,
    read_policy,
)


def verify_command(
    bundle: BundleArgument,
    key: KeyOption = None,
    ca: AuthorityOption = None,
    identity: IdentityOption = None,
    issuer: IssuerOption = None,
    trust_config: TrustOption = None,
    policy: PolicyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check who signed a bundle, and every file of it against the manifest's digests.

    Names each file that was changed, is missing, is a link, or is not listed;
    the exit code is 1 then. A signature is checked where a key, an authority, an identity or a
    policy is given.

    Examples:
        {command} my-bundle
        {command} my-bundle --key publisher.pem
        {command} my-bundle --identity me@example.org --issuer https://accounts.google.com
        {command} my-bundle --policy policy.json --json
    """
    from edgekit_runtime.errors import BundleError, SignatureError
    from edgekit_runtime.installation import current_version
    from edgekit_runtime.manifest import MANIFEST_NAME, Manifest
    from edgekit_runtime.signing import check_signature
    from edgekit_runtime.verification import SIGNATURE_NAME, verify_bundle

    asked = read_policy(
        policy,
        key or (),
        ca or (),
        identity=identity,
        issuer=issuer,
        trust_config=trust_config,
    )
    # Not Bundle.open: it stops at the first kind of problem, and this names every one.
    signer, refused = None, []
    try:
        signer = check_signature(current_version(bundle), asked)
    except SignatureError as err:
        refused = [err.what, *err.problems]
    problems = [*refused, *verify_bundle(bundle)]
    if as_json:
        write_json({"ok": not problems, "problems": problems, "signed_by": signer})
        if problems:
            raise typer.Exit(1)
        return
    if problems:
        raise BundleError(
            f"bundle {bundle} is not as it was {'signed' if refused else 'built'}",
            problems=problems,
            hint="Fetch or build it again.",
        )
    root = current_version(bundle)
    manifest = Manifest.from_bytes((root / MANIFEST_NAME).read_bytes())
    n_files = len(manifest.files)
    typer.echo(f"ok: {manifest.name} {manifest.version}, {n_files} files, {manifest.digest}")
    if signer:
        typer.echo(f"signed by {signer}")
    elif (root / SIGNATURE_NAME).is_file():
        typer.echo("signed; by whom was not checked: give --key, --ca, --identity or --policy")
