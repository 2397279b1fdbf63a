"""Who signed a bundle: what a policy takes, and what it refuses."""

import base64
import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from edgekit_runtime import Bundle
from edgekit_runtime.cli import main as edgekit_run
from edgekit_runtime.errors import InstallError, SignatureError
from edgekit_runtime.installation import current_version
from edgekit_runtime.installing import install
from edgekit_runtime.manifest import MANIFEST_NAME
from edgekit_runtime.signing import (
    POLICY_VARIABLE,
    SignaturePolicy,
    check_signature,
    hashing,
    is_older,
    key_fingerprint,
)
from edgekit_runtime.sources import DirectorySource
from edgekit_runtime.verification import SIGNATURE_NAME, verify_bundle
from tests.runtime.bundle_edits import seal

pytest.importorskip("model_signing", reason="the [verify] extra is not installed")
Captured = pytest.CaptureFixture[str]
NOW = datetime(2026, 6, 1, tzinfo=UTC)


class Signer:
    """A key pair, and certificates for it by an authority of its own."""

    def __init__(self, folder: Path) -> None:
        from cryptography.hazmat.primitives import serialization as pem
        from cryptography.hazmat.primitives.asymmetric import ec

        folder.mkdir(parents=True)
        self.folder, self.key = folder, ec.generate_private_key(ec.SECP256R1())
        self.private, self.public = folder / "private.pem", folder / "public.pem"
        self.private.write_bytes(
            self.key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
        )
        self.public.write_bytes(
            self.key.public_key().public_bytes(
                pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo
            )
        )
        self.fingerprint = key_fingerprint(self.key.public_key())

    def sign(self, bundle: Path) -> None:
        from model_signing.signing import Config

        config = Config().set_hashing_config(hashing())
        config.use_elliptic_key_signer(private_key=self.private)
        config.sign(bundle / MANIFEST_NAME, bundle / SIGNATURE_NAME)

    def sign_with_certificate(self, bundle: Path, authority: "Signer", *, days: int) -> Path:
        """Sign by a certificate that is valid for some days of 2026; returns the authority's."""
        from model_signing.signing import Config

        start = datetime(2026, 1, 1, tzinfo=UTC)
        root = authority.certificate("root", authority, start, start + timedelta(days=3650))
        own = authority.certificate("publisher", self, start, start + timedelta(days=days))
        config = Config().set_hashing_config(hashing())
        config.use_certificate_signer(
            private_key=self.private, signing_certificate=own, certificate_chain=[root]
        )
        config.sign(bundle / MANIFEST_NAME, bundle / SIGNATURE_NAME)
        return root

    def certificate(self, name: str, of: "Signer", start: datetime, end: datetime) -> Path:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.serialization import Encoding

        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "root")])
        is_root = of is self
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False
        )
        made = (
            x509.CertificateBuilder(issuer, subject, of.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=is_root, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=True, key_cert_sign=is_root, crl_sign=is_root,
                    encipher_only=False, decipher_only=False, **usage,
                ),
                critical=True,
            )
            .sign(self.key, hashes.SHA256())
        )  # fmt: skip
        path = self.folder / f"{name}.pem"
        path.write_bytes(made.public_bytes(Encoding.PEM))
        return path


@pytest.fixture(scope="module")
def publisher(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return Signer(tmp_path_factory.mktemp("keys") / "publisher")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return Signer(tmp_path_factory.mktemp("keys") / "stranger")


@pytest.fixture
def signed(tiny_bundle: Path, publisher: Signer, tmp_path: Path) -> Path:
    bundle = shutil.copytree(tiny_bundle, tmp_path / "signed")
    publisher.sign(bundle)
    return bundle


def policy(signer: Signer, **values: Any) -> SignaturePolicy:
    return SignaturePolicy(public_keys=(signer.public,), **values)


def test_a_signed_bundle_opens(signed: Path, publisher: Signer) -> None:
    assert check_signature(signed, policy(publisher)) == publisher.fingerprint
    assert verify_bundle(signed) == []
    assert Bundle.open(signed, policy=policy(publisher)).manifest.name == "tiny"


def _changed(key: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Change one field of the signature's envelope."""

    def apply(bundle: Path) -> None:
        path = bundle / SIGNATURE_NAME
        content = json.loads(path.read_bytes())
        envelope = content["dsseEnvelope"]
        holder = envelope["signatures"][0] if key == "sig" else envelope
        raw = bytearray(base64.b64decode(holder[key]))
        holder[key] = base64.b64encode(bytes(change(raw))).decode()
        path.write_text(json.dumps(content))

    return apply


def _flip(raw: bytearray) -> bytearray:
    raw[-2] ^= 1
    return raw


def _cut(bundle: Path) -> None:
    path = bundle / SIGNATURE_NAME
    path.write_bytes(path.read_bytes()[:-40])


def _strip(bundle: Path) -> None:
    (bundle / SIGNATURE_NAME).unlink()


def _fill(bundle: Path) -> None:
    (bundle / SIGNATURE_NAME).write_bytes(b" " * (5 << 20))


@pytest.mark.parametrize(
    ("tamper", "says"),
    [
        (_strip, "manifest.sig: missing"),
        (_cut, "manifest.sig is no signature that can be checked"),
        (_fill, "manifest.sig is too large: 5242880 bytes, at most 4194304"),
        (
            _changed("sig", _flip),
            "the signature is not right: it was changed, or is by another key",
        ),
        (_changed("payload", _flip), "the signature is not right: it was changed"),
        (lambda bundle: seal(bundle, lambda m: m.update(version="9.9")), "another manifest.json"),
    ],
    ids=["stripped", "truncated", "huge", "signature byte", "payload byte", "manifest resealed"],
)
def test_a_tampered_bundle_is_refused(
    tamper: Callable[[Path], None], says: str, signed: Path, publisher: Signer
) -> None:
    tamper(signed)
    with pytest.raises(SignatureError) as error:
        Bundle.open(signed, policy=policy(publisher))
    assert says in str(error.value)


def test_a_right_signature_of_another_bundle_is_refused(
    signed: Path, tiny_bundle: Path, publisher: Signer, tmp_path: Path
) -> None:
    other = shutil.copytree(tiny_bundle, tmp_path / "other")
    seal(other, lambda manifest: manifest.update(version="2.0"))
    shutil.copyfile(signed / SIGNATURE_NAME, other / SIGNATURE_NAME)
    with pytest.raises(SignatureError, match=r"of another manifest\.json than this one"):
        check_signature(other, policy(publisher))


def test_a_strangers_signature_is_refused(signed: Path, stranger: Signer) -> None:
    with pytest.raises(SignatureError) as error:
        check_signature(signed, policy(stranger))
    assert error.value.problems == (f"{stranger.public}: the signature is by another key",)


def test_any_of_several_keys_will_do_and_a_revoked_one_will_not(
    signed: Path, publisher: Signer, stranger: Signer
) -> None:
    both = SignaturePolicy(public_keys=(stranger.public, publisher.public))
    assert check_signature(signed, both) == publisher.fingerprint
    without = policy(publisher, revoked=frozenset({publisher.fingerprint}))
    with pytest.raises(SignatureError, match=f"{publisher.fingerprint} is revoked"):
        check_signature(signed, without)


def test_a_certificate_counts_as_long_as_it_is_valid_and_not_revoked(
    signed: Path, publisher: Signer, stranger: Signer
) -> None:
    """The library asks no clock: it checks a chain as of the day that it became valid."""
    root = publisher.sign_with_certificate(signed, stranger, days=300)
    trusted = SignaturePolicy(certificates=(root,))
    assert check_signature(signed, trusted, now=NOW) == publisher.fingerprint
    with pytest.raises(SignatureError, match="CN=publisher expired on 2026-10-28"):
        check_signature(signed, trusted, now=datetime(2026, 11, 1, tzinfo=UTC))
    with pytest.raises(SignatureError, match="CN=publisher is valid from 2026-01-01 only"):
        check_signature(signed, trusted, now=datetime(2025, 12, 1, tzinfo=UTC))
    revoked = SignaturePolicy(certificates=(root,), revoked=frozenset({publisher.fingerprint}))
    with pytest.raises(SignatureError, match="is revoked"):
        check_signature(signed, revoked, now=NOW)
    with pytest.raises(SignatureError, match="the signature is by another key"):
        check_signature(signed, policy(publisher), now=NOW)


def test_another_authoritys_certificate_is_refused(
    signed: Path, publisher: Signer, stranger: Signer, tmp_path: Path
) -> None:
    publisher.sign_with_certificate(signed, stranger, days=300)
    other = Signer(tmp_path / "other")
    root = other.certificate("root", other, NOW - timedelta(days=200), NOW + timedelta(days=200))
    with pytest.raises(SignatureError, match="certificate is not by this authority"):
        check_signature(signed, SignaturePolicy(certificates=(root,)), now=NOW)


def write_policy(path: Path, **values: Any) -> Path:
    path.write_text(json.dumps(values))
    return path


def test_the_environments_policy_holds_for_every_command(
    signed: Path, publisher: Signer, stranger: Signer, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: Captured,
) -> None:  # fmt: skip
    wrong = write_policy(tmp_path / "wrong.json", public_keys=[str(stranger.public)])
    monkeypatch.setenv(POLICY_VARIABLE, str(wrong))
    for command in (
        ["inspect", str(signed)],
        ["run", str(signed), "-p", "x"],
        ["verify", str(signed)],
    ):
        assert edgekit_run(command) == 1
        assert "the signature is by another key" in capsys.readouterr().err
    right = write_policy(tmp_path / "right.json", public_keys=[str(publisher.public)])
    monkeypatch.setenv(POLICY_VARIABLE, str(right))
    assert edgekit_run(["inspect", str(signed)]) == 0
    assert edgekit_run(["verify", str(signed)]) == 0
    assert f"signed by {publisher.fingerprint}" in capsys.readouterr().out


def test_verify_takes_a_key_and_says_who_signed(
    signed: Path, publisher: Signer, stranger: Signer, capsys: Captured
) -> None:
    assert edgekit_run(["verify", str(signed)]) == 0
    assert "by whom was not checked" in capsys.readouterr().out
    assert edgekit_run(["verify", str(signed), "--key", str(publisher.public), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "ok": True, "problems": [], "signed_by": publisher.fingerprint,
    }  # fmt: skip
    assert edgekit_run(["verify", str(signed), "--key", str(stranger.public)]) == 1
    assert "is not as it was signed" in capsys.readouterr().err


def test_a_malformed_policy_is_refused_with_every_problem(tmp_path: Path) -> None:
    path = write_policy(
        tmp_path / "policy.json",
        public_keys=["missing.pem"], revoked=["abc"], allow_older="no", trusted=[],
    )  # fmt: skip
    with pytest.raises(SignatureError) as error:
        SignaturePolicy.from_file(path)
    assert set(error.value.problems) == {
        "trusted: unknown key",
        f"public_keys: '{tmp_path / 'missing.pem'}' is no file",
        "revoked: expected sha256:<64 hex>, got 'abc'",
        "allow_older: expected true or false, got 'no'",
    }
    write_policy(path)
    with pytest.raises(SignatureError, match="none of public_keys, certificates and identities"):
        SignaturePolicy.from_file(path)


def test_an_unsigned_version_is_not_fetched(
    tiny_bundle: Path, publisher: Signer, tmp_path: Path, capsys: Captured
) -> None:
    trusted = write_policy(tmp_path / "policy.json", public_keys=[str(publisher.public)])
    root = tmp_path / "app"
    assert edgekit_run(["install", str(tiny_bundle), str(root), "--policy", str(trusted)]) == 1
    assert "the bundle is not signed" in capsys.readouterr().err
    assert [path.name for path in (root / "versions").iterdir()] == []
    fetched = {path.name for path in (root / "staging").rglob("*") if path.is_file()}
    assert fetched == {MANIFEST_NAME}


def test_an_older_version_is_refused_where_the_policy_says_so(
    tiny_bundle: Path, publisher: Signer, tmp_path: Path
) -> None:
    bundles = {}
    for version in ("1.10.0", "1.9.0"):
        bundles[version] = shutil.copytree(tiny_bundle, tmp_path / version)
        seal(bundles[version], lambda manifest, v=version: manifest.update(version=v))
        publisher.sign(bundles[version])
    root = tmp_path / "app"
    options: dict[str, Any] = {
        "health": lambda _: (),
        "check": lambda path: check_signature(path, policy(publisher)),
    }
    install(DirectorySource(bundles["1.10.0"]), root, allow_older=False, **options)
    with pytest.raises(InstallError, match=r"tiny 1\.9\.0 is older than 1\.10\.0, which is instal"):
        install(DirectorySource(bundles["1.9.0"]), root, allow_older=False, **options)
    assert Bundle.open(root, policy=policy(publisher)).manifest.version == "1.10.0"
    assert (current_version(root) / SIGNATURE_NAME).is_file()
    install(DirectorySource(bundles["1.9.0"]), root, **options)


@pytest.mark.parametrize(
    ("older", "newer"),
    [("0.9", "0.10"), ("1.0.0-rc.1", "1.0.0"), ("1.0.0-rc.2", "1.0.0-rc.10"), ("1.0", "1.0.1")],
)
def test_versions_are_compared_number_by_number(older: str, newer: str) -> None:
    assert is_older(older, newer)
    assert not is_older(newer, older)
    assert not is_older(newer, f"{newer}+build.7")


def test_a_changed_file_is_named_although_the_signature_is_right(
    signed: Path, publisher: Signer, capsys: Captured
) -> None:
    card = signed / "adapters/alpha/adapter.json"
    raw = bytearray(card.read_bytes())
    raw[10] ^= 1
    card.write_bytes(bytes(raw))
    assert edgekit_run(["verify", str(signed), "--key", str(publisher.public)]) == 1
    assert "adapters/alpha/adapter.json: expected sha256:" in capsys.readouterr().err
