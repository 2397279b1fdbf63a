"""Sign a finished bundle: one signature over its manifest, which names every file's digest."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgekit.bundling.write import bundle_lock
from edgekit.errors import BuildError
from edgekit_runtime.disk import replace_file
from edgekit_runtime.errors import SignatureError
from edgekit_runtime.manifest import MANIFEST_NAME
from edgekit_runtime.signing import hashing, key_fingerprint, require_library
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

    if problems := verify_bundle(bundle):
        raise BuildError(f"'{bundle}' is not signed: it is not as it was built", problems=problems)
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
    with bundle_lock(bundle), tempfile.TemporaryDirectory(prefix="edgekit-sign-") as temporary:
        written = Path(temporary) / SIGNATURE_NAME
        config.sign(bundle / MANIFEST_NAME, written)
        replace_file(bundle / SIGNATURE_NAME, written.read_bytes())
    return key_fingerprint(loaded.public_key())
