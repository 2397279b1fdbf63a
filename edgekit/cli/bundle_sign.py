"""``bundle sign``: vouch for a bundle."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from edgekit_runtime.cli.options import BundleArgument, JsonOption
from edgekit_runtime.cli.signature_options import TrustOption


def sign_command(
    bundle: BundleArgument,
    key: Annotated[
        Path | None, typer.Option("--key", metavar="PRIVATE.pem", help="EC private key.")
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option(metavar="CERT.pem", help="Certificate of that key, to sign with."),
    ] = None,
    chain: Annotated[
        list[Path] | None,
        typer.Option(metavar="CA.pem", help="Certificate between it and the authority."),
    ] = None,
    keyless: Annotated[
        bool,
        typer.Option("--keyless", help="Without a key, by Sigstore and your identity."),
    ] = False,
    identity_token: Annotated[
        str | None,
        typer.Option(
            metavar="TOKEN",
            envvar="SIGSTORE_ID_TOKEN",
            show_envvar=False,
            help="OpenID token to sign by, better by SIGSTORE_ID_TOKEN; by default the CI job's, "
            "or a browser asks you.",
        ),
    ] = None,
    trust_config: TrustOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sign a bundle: its manifest, and by its digests every file.

    A change of the bundle removes the signature. Make a key pair with OpenSSL:
    openssl ecparam -name prime256v1 -genkey -noout -out private.pem, then
    openssl ec -in private.pem -pubout -out public.pem.

    Examples:
        edgekit bundle sign my-bundle --key private.pem
        edgekit bundle sign my-bundle --key private.pem --certificate cert.pem --chain ca.pem
        edgekit bundle sign my-bundle --keyless
    """
    from edgekit.bundling.sign import sign_bundle, sign_keyless
    from edgekit_runtime.cli.console import note, write_json

    if chain and certificate is None:
        raise typer.BadParameter("--chain needs --certificate")
    if (key is None) != keyless or (keyless and certificate is not None):
        raise typer.BadParameter("give --key, or --keyless without --certificate")
    if trust_config is not None and not keyless:
        raise typer.BadParameter("--trust-config is for --keyless")
    if key is None:
        who = sign_keyless(bundle, identity_token=identity_token, trust_config=trust_config)
        signer = str(who)
        trusted = f"--identity {shlex.quote(who.identity)} --issuer {shlex.quote(who.issuer)}"
    else:
        signer = sign_bundle(bundle, key, certificate=certificate, chain=chain or ())
        trusted = "--key PUBLIC.pem"
    if as_json:
        write_json({"bundle": str(bundle), "signed_by": signer})
        return
    typer.echo(f"signed {bundle} by {signer}")
    note(f"next: edgekit bundle verify {shlex.quote(str(bundle))} {trusted}")
