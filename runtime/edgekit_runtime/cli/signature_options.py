"""Whose signature a command asks for: a policy file, or keys on the command line."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edgekit_runtime.signing import SignaturePolicy

PolicyOption = Annotated[
    Path | None,
    typer.Option(
        "--policy",
        metavar="FILE",
        help="Who has to have signed it (JSON); EDGEKIT_POLICY names one for every command.",
    ),
]
KeyOption = Annotated[
    list[Path] | None,
    typer.Option("--key", metavar="PUBLIC.pem", help="It has to be signed by this key."),
]
AuthorityOption = Annotated[
    list[Path] | None,
    typer.Option("--ca", metavar="ROOT.pem", help="Or by a certificate of this authority."),
]
IdentityOption = Annotated[
    str | None,
    typer.Option("--identity", metavar="NAME", help="Or keyless by this one, with --issuer."),
]
IssuerOption = Annotated[
    str | None,
    typer.Option("--issuer", metavar="URL", help="Who vouches for the identity."),
]
TrustOption = Annotated[
    Path | None,
    typer.Option(
        "--trust-config",
        metavar="FILE",
        help="A Sigstore of your own, or for use without a network: its ClientTrustConfig.",
    ),
]


def read_policy(
    path: Path | None,
    keys: Sequence[Path] = (),
    authorities: Sequence[Path] = (),
    *,
    identity: str | None = None,
    issuer: str | None = None,
    trust_config: Path | None = None,
) -> "SignaturePolicy":
    """What the options ask for; without any, what the environment does."""
    from edgekit_runtime.signing import Identity, SignaturePolicy

    if (identity is None) != (issuer is None):
        raise typer.BadParameter("--identity and --issuer belong together")
    if trust_config is not None and identity is None:
        raise typer.BadParameter("--trust-config is for --identity")
    is_named = bool(keys or authorities) or identity is not None
    if path is not None and is_named:
        raise typer.BadParameter(
            "--policy names the keys itself: leave out --key, --ca and --identity"
        )
    if is_named:
        who = () if identity is None else (Identity(identity=identity, issuer=issuer or ""),)
        return SignaturePolicy(
            public_keys=tuple(keys),
            certificates=tuple(authorities),
            identities=who,
            trust_config=trust_config,
        )
    return SignaturePolicy.from_environment() if path is None else SignaturePolicy.from_file(path)


def refuse_by(policy: "SignaturePolicy", root: Path) -> None:
    """Raise unless a policy takes the bundle whose manifest and signature lie in a directory."""
    from edgekit_runtime.signing import check_signature

    check_signature(root, policy)
