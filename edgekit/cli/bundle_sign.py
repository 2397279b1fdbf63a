"""``bundle sign``: vouch for a bundle."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from edgekit_runtime.cli.options import BundleArgument, JsonOption


def sign_command(
    bundle: BundleArgument,
    key: Annotated[
        Path,
        typer.Option("--key", metavar="PRIVATE.pem", help="EC private key.", show_default=False),
    ],
    certificate: Annotated[
        Path | None,
        typer.Option(metavar="CERT.pem", help="Certificate of that key, to sign with."),
    ] = None,
    chain: Annotated[
        list[Path] | None,
        typer.Option(metavar="CA.pem", help="Certificate between it and the authority."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Sign a bundle: its manifest, and by its digests every file.

    A change of the bundle removes the signature. Make a key pair with OpenSSL:
    openssl ecparam -name prime256v1 -genkey -noout -out private.pem, then
    openssl ec -in private.pem -pubout -out public.pem.

    Examples:
        edgekit bundle sign my-bundle --key private.pem
        edgekit bundle sign my-bundle --key private.pem --certificate cert.pem --chain ca.pem
    """
    from edgekit.bundling.sign import sign_bundle
    from edgekit_runtime.cli.console import note, write_json

    if chain and certificate is None:
        raise typer.BadParameter("--chain needs --certificate")
    fingerprint = sign_bundle(bundle, key, certificate=certificate, chain=chain or ())
    if as_json:
        write_json({"bundle": str(bundle), "signed_by": fingerprint})
        return
    typer.echo(f"signed {bundle} by {fingerprint}")
    note(f"next: edgekit bundle verify {shlex.quote(str(bundle))} --key PUBLIC.pem")
