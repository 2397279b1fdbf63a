"""Keyless signatures: made and checked with a Sigstore of our own on loopback."""

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgekit.bundling.sign import sign_bundle, sign_keyless
from edgekit.cli import main
from edgekit_runtime import Bundle
from edgekit_runtime.errors import SignatureError
from edgekit_runtime.manifest import MANIFEST_NAME
from edgekit_runtime.signing import (
    Identity,
    SignaturePolicy,
    check_signature,
    key_fingerprint,
)
from edgekit_runtime.verification import SIGNATURE_NAME
from tests.bundling.local_sigstore import ISSUER, LocalSigstore, local_sigstore, token_of
from tests.runtime.bundle_edits import seal
from tests.runtime.test_signatures import Signer

Captured = pytest.CaptureFixture[str]
ME = Identity(identity="me@example.org", issuer=ISSUER)


@pytest.fixture(scope="module")
def sigstore(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSigstore]:
    with local_sigstore(tmp_path_factory.mktemp("sigstore")) as found:
        yield found


@pytest.fixture(scope="module")
def signed(
    sigstore: LocalSigstore, built_tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A bundle that somebody signed keyless; not to be changed."""
    bundle = tmp_path_factory.mktemp("signed") / "bundle"
    shutil.copytree(built_tiny_bundle, bundle)
    n_before = sigstore.n_entries
    token = token_of(ME.identity)
    assert sign_keyless(bundle, identity_token=token, trust_config=sigstore.trust_config) == ME
    assert sigstore.n_entries == n_before + 1
    return bundle


@pytest.fixture
def copy(signed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(signed, tmp_path / "bundle"))


def policy(sigstore: LocalSigstore, *who: Identity, **changes: Any) -> SignaturePolicy:
    return SignaturePolicy(identities=who or (ME,), trust_config=sigstore.trust_config, **changes)


def refusal(bundle: Path, asked: SignaturePolicy) -> str:
    with pytest.raises(SignatureError) as caught:
        check_signature(bundle, asked)
    return str(caught.value)


def test_the_signer_is_named_and_the_bundle_opens(signed: Path, sigstore: LocalSigstore) -> None:
    assert check_signature(signed, policy(sigstore)) == f"me@example.org ({ISSUER})"
    with Bundle.open(signed, cache_dir=None, policy=policy(sigstore)) as bundle:
        assert bundle.manifest.name


def test_nothing_is_asked_of_the_network_to_check(signed: Path, tmp_path: Path) -> None:
    """The authority is gone, and what it vouched for still holds."""
    with local_sigstore(tmp_path) as gone:
        bundle = Path(shutil.copytree(signed, tmp_path / "bundle"))
        token = token_of(ME.identity)
        sign_keyless(bundle, identity_token=token, trust_config=gone.trust_config)
    assert check_signature(bundle, policy(gone)) == str(ME)


@pytest.mark.parametrize(
    ("who", "told"),
    [
        (Identity(identity="you@example.org", issuer=ISSUER), "you@example.org"),
        (Identity(identity=ME.identity, issuer="https://evil.example.org"), "OIDCIssuer"),
    ],
)
def test_another_identity_or_issuer_is_refused(
    who: Identity, told: str, signed: Path, sigstore: LocalSigstore
) -> None:
    message = refusal(signed, policy(sigstore, who))
    assert "the keyless signature does not hold" in message
    assert told in message


def test_any_of_several_will_do(signed: Path, sigstore: LocalSigstore) -> None:
    other = Identity(identity="you@example.org", issuer=ISSUER)
    assert check_signature(signed, policy(sigstore, other, ME)) == str(ME)


def test_another_sigstore_is_not_trusted(signed: Path, tmp_path: Path) -> None:
    with local_sigstore(tmp_path) as other:
        assert "the keyless signature does not hold" in refusal(signed, policy(other))


def test_a_changed_manifest_or_signature_is_refused(copy: Path, sigstore: LocalSigstore) -> None:
    signature = (copy / SIGNATURE_NAME).read_bytes()
    seal(copy, lambda manifest: manifest.update(version="9.9.9"))
    assert f"the signature is of another {MANIFEST_NAME}" in refusal(copy, policy(sigstore))
    value = json.loads(signature)
    value["verificationMaterial"]["tlogEntries"][0]["integratedTime"] = "1"
    (copy / SIGNATURE_NAME).write_text(json.dumps(value))
    assert "does not hold" in refusal(copy, policy(sigstore))
    (copy / SIGNATURE_NAME).write_bytes(signature[: len(signature) // 2])
    assert "no signature that can be checked" in refusal(copy, policy(sigstore))


def test_a_key_is_no_identity_and_an_identity_no_key(
    copy: Path, sigstore: LocalSigstore, tmp_path: Path
) -> None:
    signer = Signer(tmp_path / "keys")
    by_key = SignaturePolicy(public_keys=(signer.public,))
    assert "nobody who is trusted here signed this bundle" in refusal(copy, by_key)
    sign_bundle(copy, signer.private)
    assert "by a key, and not keyless" in refusal(copy, policy(sigstore))
    both = policy(sigstore, public_keys=(signer.public,))
    assert check_signature(copy, both) == signer.fingerprint


def test_what_is_trusted_has_to_be_readable(signed: Path, tmp_path: Path) -> None:
    broken = tmp_path / "trust.json"
    broken.write_text("{}")
    asked = SignaturePolicy(identities=(ME,), trust_config=broken)
    assert "what Sigstore trusts cannot be read" in refusal(signed, asked)


def test_a_policy_file_names_identities(
    signed: Path, sigstore: LocalSigstore, tmp_path: Path
) -> None:
    path = tmp_path / "policy.json"
    shutil.copy(sigstore.trust_config, tmp_path / "trust.json")
    value: dict[str, Any] = {
        "identities": [{"identity": ME.identity, "issuer": ISSUER}],
        "trust_config": "trust.json",
    }
    path.write_text(json.dumps(value))
    assert check_signature(signed, SignaturePolicy.from_file(path)) == str(ME)
    path.write_text(
        json.dumps({"identities": [{"identity": 3, "issuer": ISSUER}], "trust_config": "none"})
    )
    with pytest.raises(SignatureError) as caught:
        SignaturePolicy.from_file(path)
    assert "identities[0].identity" in str(caught.value)
    assert "trust_config: 'none' is no file" in str(caught.value)


def test_the_commands(
    copy: Path, sigstore: LocalSigstore, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    trust = ["--trust-config", str(sigstore.trust_config)]
    monkeypatch.setenv("SIGSTORE_ID_TOKEN", token_of("ci@example.org"))
    assert main(["bundle", "sign", str(copy), "--keyless", *trust, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["signed_by"] == f"ci@example.org ({ISSUER})"
    who = ["--identity", "ci@example.org", "--issuer", ISSUER]
    assert main(["bundle", "verify", str(copy), *who, *trust]) == 0
    assert f"signed by ci@example.org ({ISSUER})" in capsys.readouterr().out
    assert main(["bundle", "verify", str(copy), "--identity", "a", "--issuer", "b", *trust]) == 1
    assert "does not hold" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["sign"],
        ["sign", "--keyless", "--key", "k.pem"],
        ["sign", "--keyless", "--certificate", "c.pem"],
        ["sign", "--key", "k.pem", "--trust-config", "t.json"],
        ["verify", "--identity", "me@example.org"],
        ["verify", "--trust-config", "t.json"],
    ],
)
def test_options_that_do_not_go_together(words: list[str], signed: Path) -> None:
    command, *rest = words
    assert main(["bundle", command, str(signed), *rest]) == 2


def test_who_cannot_be_reached_signs_nothing(copy: Path, tmp_path: Path) -> None:
    (copy / SIGNATURE_NAME).unlink()
    with local_sigstore(tmp_path) as gone:
        pass
    with pytest.raises(SignatureError, match="cannot be signed keyless"):
        sign_keyless(copy, identity_token=token_of("a@b.c"), trust_config=gone.trust_config)
    assert not (copy / SIGNATURE_NAME).exists()


def test_a_token_that_is_none_signs_nothing(copy: Path, sigstore: LocalSigstore) -> None:
    (copy / SIGNATURE_NAME).unlink()
    n_before = sigstore.n_entries
    with pytest.raises(SignatureError, match="Identity"):
        sign_keyless(copy, identity_token="no token", trust_config=sigstore.trust_config)
    assert sigstore.n_entries == n_before
    assert not (copy / SIGNATURE_NAME).exists()


@pytest.mark.parametrize(("identity", "issuer"), [("", ISSUER), (ME.identity, ""), ("a", " ")])
def test_nobody_in_particular_is_trusted_by_nobody(
    identity: str, issuer: str, signed: Path, sigstore: LocalSigstore, tmp_path: Path
) -> None:
    """Sigstore takes an empty issuer for any, and a shell an unset variable for an empty text."""
    path = tmp_path / "policy.json"
    path.write_text(json.dumps({"identities": [{"identity": identity, "issuer": issuer}]}))
    with pytest.raises(SignatureError, match="needs both a name"):
        SignaturePolicy.from_file(path)
    words = ["--identity", identity, "--issuer", issuer]
    trust = ["--trust-config", str(sigstore.trust_config)]
    assert main(["bundle", "verify", str(signed), *words, *trust]) == 1


def test_a_revoked_key_counts_no_longer(signed: Path, sigstore: LocalSigstore) -> None:
    from cryptography import x509

    value = json.loads((signed / SIGNATURE_NAME).read_bytes())
    raw = base64.b64decode(value["verificationMaterial"]["certificate"]["rawBytes"])
    name = key_fingerprint(x509.load_der_x509_certificate(raw).public_key())
    assert f"{name} is revoked" in refusal(signed, policy(sigstore, revoked=frozenset({name})))
