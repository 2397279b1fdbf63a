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


def read_policy(
    path: Path | None, keys: Sequence[Path] = (), authorities: Sequence[Path] = ()
) -> "SignaturePolicy":
    """What the options ask for; without any, what the environment does."""
    from edgekit_runtime.signing import SignaturePolicy

    if path is not None and (keys or authorities):
        raise typer.BadParameter("--policy names the keys itself: leave out --key and --ca")
    if keys or authorities:
        return SignaturePolicy(public_keys=tuple(keys), certificates=tuple(authorities))
    return SignaturePolicy.from_environment() if path is None else SignaturePolicy.from_file(path)


def refuse_by(policy: "SignaturePolicy", root: Path) -> None:
    """Raise unless a policy takes the bundle whose manifest and signature lie in a directory."""
    from edgekit_runtime.signing import check_signature

    check_signature(root, policy)
