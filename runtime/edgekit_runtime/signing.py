"""Signatures: who vouches for a bundle's manifest, and by its digests for every file.

The signature is OpenSSF Model Signing's (https://github.com/sigstore/model-transparency): a
Sigstore bundle with a DSSE envelope over the digest of ``manifest.json``, by an EC key, by a
certificate chain, or keyless by a person's or a machine's identity. The library checks it; what is
trusted, revoked or out of date is decided here.
"""

import base64
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Self

from edgekit_runtime.digests import is_digest
from edgekit_runtime.errors import SignatureError
from edgekit_runtime.manifest import MANIFEST_NAME, Fields
from edgekit_runtime.strict_json import loads
from edgekit_runtime.verification import SIGNATURE_NAME

# Names a policy file that every bundle is held to, in every command and app.
POLICY_VARIABLE: Final = "EDGEKIT_POLICY"
MAX_SIGNATURE_BYTES: Final = 4 << 20
# Extension of Fulcio's certificates: the provider that vouched for the identity.
_OIDC_ISSUER: Final = "1.3.6.1.4.1.57264.1.1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """Who signs keyless, as Sigstore's certificates name them.

    Attributes:
        identity: An e-mail address, or the URI of a workflow.
        issuer: Who vouches for it: the URL of an OpenID Connect provider.
    """

    identity: str
    issuer: str

    def __post_init__(self) -> None:
        # Sigstore takes an empty issuer for any.
        if not self.identity.strip() or not self.issuer.strip():
            raise SignatureError(
                "a keyless signer needs both a name and who vouches for it",
                problems=[f"identity: {self.identity!r}", f"issuer: {self.issuer!r}"],
            )

    def __str__(self) -> str:
        return f"{self.identity} ({self.issuer})"


@dataclass(frozen=True, kw_only=True, slots=True)
class SignaturePolicy:
    """Whose bundles are opened here.

    Attributes:
        require_signature: Refuse bundles without one. A signature that is there must be right
            either way, as soon as anybody is trusted.
        public_keys: PEM files of EC public keys.
        certificates: PEM files of certificate authorities.
        identities: Who is trusted without a key of their own.
        trust_config: Sigstore's ClientTrustConfig for these, a JSON file; without it the public
            instance's is fetched over the network.
        revoked: Fingerprints of keys that are trusted no longer, ``sha256:…`` of the public key
            as PEM (SubjectPublicKeyInfo), whoever certifies them.
        allow_older: Let an update install a version older than the installed one.
    """

    require_signature: bool = True
    public_keys: tuple[Path, ...] = ()
    certificates: tuple[Path, ...] = ()
    identities: tuple[Identity, ...] = ()
    trust_config: Path | None = None
    revoked: frozenset[str] = frozenset()
    allow_older: bool = True

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read a policy; files that it names lie beside it, or are absolute.

        Raises:
            SignatureError: With every problem of the file.
        """
        problems: list[str] = []
        try:
            fields = Fields(loads(path.read_bytes(), unique_names=True), "", problems)
        except (OSError, ValueError) as err:
            raise SignatureError(f"policy '{path}' cannot be read: {err}") from err
        known = set(cls.__slots__)
        problems += [f"{key}: unknown key" for key in sorted(set(fields.data) - known)]
        policy = cls(
            require_signature=_switch(fields, "require_signature"),
            public_keys=_files(fields, "public_keys", path.parent),
            certificates=_files(fields, "certificates", path.parent),
            identities=_identities(fields),
            trust_config=_file(fields, "trust_config", path.parent),
            revoked=frozenset(_texts(fields, "revoked")),
            allow_older=_switch(fields, "allow_older"),
        )
        problems += [
            f"revoked: expected sha256:<64 hex>, got {text!r}"
            for text in sorted(policy.revoked)
            if not is_digest(text)
        ]
        if policy.require_signature and not policy.trusts_anybody:
            problems.append(
                "require_signature: none of public_keys, certificates and identities is named"
            )
        if problems:
            raise SignatureError(f"policy '{path}' is malformed", problems=problems)
        return policy

    @classmethod
    def from_environment(cls) -> Self:
        """The policy that ``EDGEKIT_POLICY`` names; without it, nothing is asked for."""
        path = os.environ.get(POLICY_VARIABLE)
        return cls.from_file(Path(path)) if path else cls(require_signature=False)

    @property
    def trusts_anybody(self) -> bool:
        """Whether a signature can be checked at all."""
        return bool(self.public_keys or self.certificates or self.identities)


def check_signature(
    root: Path, policy: SignaturePolicy, *, now: datetime | None = None
) -> str | None:
    """Check who signed a bundle, before anything else of it is read.

    Args:
        root: A directory with the manifest and the signature; the files need not be there yet.
        policy: Who is trusted.
        now: For the validity of certificates; the clock's time by default.

    Returns:
        Fingerprint of the key that signed it, or who did keyless; None if that was neither asked
        for nor checked.

    Raises:
        SignatureError: If it is not signed, or not by anybody who is trusted.
    """
    signature = root / SIGNATURE_NAME
    if not signature.is_file() or signature.is_symlink():
        if policy.require_signature:
            raise SignatureError(
                "the bundle is not signed, and the policy asks for a signature",
                problems=[f"{SIGNATURE_NAME}: missing"],
                hint="Fetch it from where it was signed: edgekit bundle sign BUNDLE --key KEY.pem.",
            )
        return None
    if not policy.trusts_anybody:
        return None
    if signature.stat().st_size > MAX_SIGNATURE_BYTES:
        raise SignatureError(
            f"{SIGNATURE_NAME} is too large: {signature.stat().st_size} bytes, "
            f"at most {MAX_SIGNATURE_BYTES}"
        )
    require_library()
    problems = []
    for fingerprint, problem in _attempts(root, policy, now or datetime.now(UTC)):
        if not problem:
            return fingerprint
        problems.append(problem)
    raise SignatureError(
        "nobody who is trusted here signed this bundle",
        problems=problems,
        hint="Trust its key in the policy if you know whose it is, or fetch the bundle again.",
    )


def require_library() -> None:
    """Raise if the library that signs and verifies is not installed."""
    missing = [name for name in ("model_signing", "OpenSSL") if find_spec(name) is None]
    if missing:
        raise SignatureError(
            "signatures cannot be checked: OpenSSF's model-signing is not installed",
            hint="pip install 'edgekit-runtime[verify]'",
        )


def key_fingerprint(key: Any) -> str:
    """Name a public key of ``cryptography``: ``sha256:…`` of its PEM form."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return f"sha256:{sha256(pem).hexdigest()}"


def hashing() -> Any:
    """How the manifest is hashed, for signing and for verifying: one file by SHA-256."""
    from model_signing.hashing import Config

    return Config().use_file_serialization(hashing_algorithm="sha256")


def is_older(version: str, than: str) -> bool:
    """Whether one bundle's version comes before another's, number by number (SemVer's rule)."""
    return _order(version) < _order(than)


def _order(version: str) -> tuple[list[tuple[int, int, str]], bool, list[tuple[int, int, str]]]:
    release, _, pre = version.partition("+")[0].partition("-")
    return _parts(release), not pre, _parts(pre)  # a pre-release comes before its release


def _parts(text: str) -> list[tuple[int, int, str]]:
    return [
        (0, int(part), "") if part.isdecimal() else (1, 0, part) for part in text.split(".") if part
    ]


def _attempts(root: Path, policy: SignaturePolicy, now: datetime) -> Iterator[tuple[str, str]]:
    """Everybody who is trusted: their name, and why this signature is not theirs."""
    from model_signing.verifying import Config

    for path in policy.public_keys:
        fingerprint, problem = "", ""
        try:
            fingerprint = key_fingerprint(_public_key(path))
            if fingerprint in policy.revoked:
                problem = f"{fingerprint} is revoked"
            else:
                _verify(root, Config().use_elliptic_key_verifier(public_key=path))
        except Exception as err:  # the library meets foreign bytes, with errors of five packages
            problem = _reason(err)
        yield fingerprint, problem and f"{path}: {problem}"
    if policy.certificates:
        fingerprint, problem = "", ""
        try:
            verifier = Config().use_certificate_verifier(certificate_chain=policy.certificates)
            _verify(root, verifier)
            fingerprint, problem = _signer(root / SIGNATURE_NAME, policy, now)
        except Exception as err:
            problem = _reason(err)
        names = ", ".join(str(path) for path in policy.certificates)
        yield fingerprint, problem and f"{names}: {problem}"

    for identity in policy.identities:
        yield str(identity), _keyless_problem(root, identity, policy)


def _keyless_problem(root: Path, who: Identity, policy: SignaturePolicy) -> str:
    """Why a signature is not somebody's keyless one; empty if it is."""
    from model_signing.verifying import Config

    trust_config = policy.trust_config
    try:
        verifier = Config().use_sigstore_verifier(
            identity=who.identity, oidc_issuer=who.issuer, trust_config=trust_config
        )
    except Exception as err:  # of Sigstore, TUF, the network, or the file
        return f"{who}: what Sigstore trusts cannot be read: {type(err).__name__}: {err}"[:300]
    try:
        _verify(root, verifier)
    except Exception as err:
        kind = "the signature is by a key, and not keyless" if _has_no_certificate(err) else ""
        return f"{who}: {kind or _reason(err)}"
    fingerprint = key_fingerprint(_leaf(root / SIGNATURE_NAME).public_key())
    return f"{who}: {fingerprint} is revoked" if fingerprint in policy.revoked else ""


def _leaf(signature: Path) -> Any:
    """The certificate of a keyless signature; older ones have it first in a chain."""
    from cryptography import x509

    material = loads(signature.read_bytes())["verificationMaterial"]
    found = material.get("certificate") or material["x509CertificateChain"]["certificates"][0]
    return x509.load_der_x509_certificate(base64.b64decode(found["rawBytes"]))


def keyless_signer(signature: Path) -> Identity:
    """Who made a keyless signature, as its certificate says; nothing is checked.

    Source: https://github.com/sigstore/fulcio/blob/main/docs/oid-info.md
    """
    from cryptography import x509

    found = _leaf(signature)
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    kinds = (x509.RFC822Name, x509.UniformResourceIdentifier)
    own = [name for kind in kinds for name in names.get_values_for_type(kind)]
    others = names.get_values_for_type(x509.OtherName)
    own += [other.value.decode(errors="replace") for other in others]
    try:
        issuer = found.extensions.get_extension_for_oid(x509.ObjectIdentifier(_OIDC_ISSUER)).value
        return Identity(identity=own[0], issuer=issuer.value.decode())
    except (IndexError, UnicodeDecodeError, x509.ExtensionNotFound) as err:
        raise SignatureError(
            f"{signature} was signed, but its certificate does not say by whom", problems=[str(err)]
        ) from err


def _has_no_certificate(err: Exception) -> bool:
    return type(err).__name__ == "InvalidBundle" and "expected certificate" in str(err)


def _verify(root: Path, verifier: Any) -> None:
    verifier.set_hashing_config(hashing())
    verifier.verify(root / MANIFEST_NAME, root / SIGNATURE_NAME)


def _public_key(path: Path) -> Any:
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    return load_pem_public_key(path.read_bytes())


def _signer(signature: Path, policy: SignaturePolicy, now: datetime) -> tuple[str, str]:
    """The key that a certificate chain is about, and why it does not count any more.

    The library checks a chain as of the day when its first certificate became valid.
    """
    from cryptography import x509

    chain = loads(signature.read_bytes())["verificationMaterial"]["x509CertificateChain"]
    found = [
        x509.load_der_x509_certificate(base64.b64decode(one["rawBytes"]))
        for one in chain["certificates"]
    ]
    fingerprint = key_fingerprint(found[0].public_key())
    if fingerprint in policy.revoked:
        return fingerprint, f"{fingerprint} is revoked"
    for one in found:
        name = one.subject.rfc4514_string()
        start, end = one.not_valid_before_utc, one.not_valid_after_utc
        if now > end:
            return fingerprint, f"the certificate {name} expired on {end:%F}"
        if now < start:
            return fingerprint, f"the certificate {name} is valid from {start:%F} only"
    return fingerprint, ""


def _reason(err: Exception) -> str:
    """What the library's error means for a bundle."""
    text = str(err).partition("\n")[0]
    kind = type(err).__name__
    if isinstance(err, OSError):
        return f"cannot be read: {err.strerror or text}"
    if "Key mismatch" in text or kind == "AttributeError":
        return "the signature is by another key"
    if "Signature mismatch" in text:
        return f"the signature is of another {MANIFEST_NAME} than this one"
    if kind == "InvalidSignature":
        return "the signature is not right: it was changed, or is by another key"
    if "VerificationError" in {one.__name__ for one in type(err).__mro__}:  # Sigstore's
        return f"the keyless signature does not hold: {text}"[:300]
    if kind == "X509StoreContextError":
        return f"the signer's certificate is not by this authority: {text}"
    return f"{SIGNATURE_NAME} is no signature that can be checked: {kind}: {text}"[:300]


def _switch(fields: Fields, key: str) -> bool:
    value = fields.data.get(key, True)
    if not isinstance(value, bool):
        fields.problems.append(f"{key}: expected true or false, got {value!r}")
    return bool(value)


def _texts(fields: Fields, key: str) -> list[str]:
    value = fields.data.get(key, [])
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        fields.problems.append(f"{key}: expected a list of texts")
        return []
    return value


def _files(fields: Fields, key: str, folder: Path) -> tuple[Path, ...]:
    paths = tuple(folder / text for text in _texts(fields, key))
    fields.problems += [f"{key}: '{path}' is no file" for path in paths if not _is_file(path)]
    return paths


def _file(fields: Fields, key: str, folder: Path) -> Path | None:
    if key not in fields.data:
        return None
    text = fields.data[key]
    if not isinstance(text, str) or not _is_file(folder / text):
        fields.problems.append(f"{key}: {text!r} is no file")
        return None
    return folder / text


def _identities(fields: Fields) -> tuple[Identity, ...]:
    if "identities" not in fields.data:
        return ()

    def read(one: Fields) -> Identity | None:
        identity, issuer = one.text("identity"), one.text("issuer")
        try:
            return Identity(identity=identity, issuer=issuer)
        except SignatureError as err:
            one.problems.append(f"identities: {err.what}")
            return None

    return tuple(one for one in fields.objects("identities", read) if one is not None)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # no name that a file could have
        return False
