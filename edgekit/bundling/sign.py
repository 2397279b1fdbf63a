"""Sign a finished bundle: one signature over its manifest, which names every file's digest."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekit.bundling.write import bundle_lock
from edgekit.errors import BuildError
from edgekit_runtime.disk import replace_file
from edgekit_runtime.errors import EdgekitRuntimeError, SignatureError
from edgekit_runtime.manifest import MANIFEST_NAME
from edgekit_runtime.signing import (
    Identity,
    hashing,
    key_fingerprint,
    keyless_signer,
    require_library,
)
from edgekit_runtime.verification import SIGNATURE_NAME, verify_bundle


def sign_bundle(
    bundle: Path, key: Path, *, certificate: Path | None = None, chain: Sequence[Path] = ()
) -> str:
    """Sign a bundle, or sign it anew.

    Args:
        bundle: A finished bundle; its files are checked first.
        key: PEM file of an EC private key (P-256, P-384 or P-521), not encrypted.
        certificate: PEM file of a certificate for that key, to be signed with instead.
        chain: PEM files of the certificates between it and the authority.

    Returns:
        Fingerprint of the public key.

    Raises:
        BuildError: If the bundle is not as it was built.
        SignatureError: If key or certificates cannot be used.
    """
    require_library()
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from model_signing.signing import Config

    _check(bundle)
    try:
        loaded = load_pem_private_key(key.read_bytes(), password=None)
        config = Config().set_hashing_config(hashing())
        if certificate is None:
            config.use_elliptic_key_signer(private_key=key)
        else:
            config.use_certificate_signer(
                private_key=key, signing_certificate=certificate, certificate_chain=list(chain)
            )
    except (OSError, TypeError, ValueError) as err:
        raise SignatureError(
            f"'{bundle}' cannot be signed with '{key}'",
            problems=[str(err)],
            hint="Make a key: openssl ecparam -name prime256v1 -genkey -noout -out KEY.pem.",
        ) from err
    _sign(bundle, config)
    return key_fingerprint(loaded.public_key())


def sign_keyless(
    bundle: Path, *, identity_token: str | None = None, trust_config: Path | None = None
) -> Identity:
    """Sign a bundle by Sigstore, without a key of one's own.

    A certificate of ten minutes is issued for the identity, and the signature is entered into a
    public log with it.

    Args:
        bundle: A finished bundle; its files are checked first.
        identity_token: An OpenID Connect token; by default the one of the CI job that this is, or
            of a person, who is asked in a browser.
        trust_config: ClientTrustConfig of a Sigstore of one's own; the public instance by default.

    Returns:
        Who signed.

    Raises:
        BuildError: If the bundle is not as it was built.
        SignatureError: If Sigstore cannot be reached, or does not take the identity.
    """
    require_library()
    from model_signing.signing import Config

    _check(bundle)
    try:
        config = Config().set_hashing_config(hashing())
        config.use_sigstore_signer(identity_token=identity_token, trust_config=trust_config)
        _sign(bundle, config)
    except EdgekitRuntimeError:
        raise
    except Exception as err:  # of Sigstore, OpenID, TUF, or the network
        raise SignatureError(
            f"'{bundle}' cannot be signed keyless",
            problems=[f"{type(err).__name__}: {err}"[:500]],
            hint="It takes a network and a fresh identity; --key signs without both.",
        ) from err
    return keyless_signer(bundle / SIGNATURE_NAME)


def _check(bundle: Path) -> None:
    if problems := verify_bundle(bundle):
        raise BuildError(f"'{bundle}' is not signed: it is not as it was built", problems=problems)


def _sign(bundle: Path, config: Any) -> None:
    with bundle_lock(bundle), tempfile.TemporaryDirectory(prefix="edgekit-sign-") as temporary:
        written = Path(temporary) / SIGNATURE_NAME
        config.sign(bundle / MANIFEST_NAME, written)
        replace_file(bundle / SIGNATURE_NAME, written.read_bytes())
