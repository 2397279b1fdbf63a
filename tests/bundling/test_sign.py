"""`bundle sign`: a signature of the whole, gone with every change."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from edgekit.bundling.edit import remove_adapter
from edgekit.bundling.sign import sign_bundle
from edgekit.cli import main as edgekit
from edgekit_runtime.errors import SignatureError
from edgekit_runtime.signing import SignaturePolicy, check_signature
from edgekit_runtime.verification import SIGNATURE_NAME, verify_bundle

pytest.importorskip("model_signing", reason="the [sign] extra is not installed")
Captured = pytest.CaptureFixture[str]


def openssl(*words: object) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made by the commands that the help names."""
    folder = tmp_path_factory.mktemp("keys")
    private = folder / "private.pem"
    openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", private)
    openssl("ec", "-in", private, "-pubout", "-out", folder / "public.pem")
    return folder


@pytest.fixture
def bundle(built_tiny_bundle: Path, tmp_path: Path) -> Path:
    return shutil.copytree(built_tiny_bundle, tmp_path / "bundle")


def test_what_was_signed_is_verified(bundle: Path, keys: Path, capsys: Captured) -> None:
    assert edgekit(["bundle", "sign", str(bundle), "--key", str(keys / "private.pem")]) == 0
    fingerprint = capsys.readouterr().out.split()[-1]
    assert edgekit(["bundle", "verify", str(bundle), "--key", str(keys / "public.pem")]) == 0
    assert f"signed by {fingerprint}" in capsys.readouterr().out
    assert verify_bundle(bundle) == []


def test_the_librarys_own_command_verifies_it_too(bundle: Path, keys: Path) -> None:
    from model_signing.verifying import Config

    sign_bundle(bundle, keys / "private.pem")
    config = Config().use_elliptic_key_verifier(public_key=keys / "public.pem")
    config.verify(bundle / "manifest.json", bundle / SIGNATURE_NAME)


def test_a_certificate_chain_is_signed_with(bundle: Path, keys: Path, tmp_path: Path) -> None:
    root, key, request, own = (tmp_path / name for name in ("ca.pem", "ca.key", "csr", "own.pem"))
    openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *("-keyout", key, "-out", root, "-subj", "/CN=root", "-days", 30),
    )
    openssl("req", "-new", "-key", keys / "private.pem", "-out", request, "-subj", "/CN=publisher")
    (tmp_path / "usage").write_text("keyUsage=critical,digitalSignature\n")
    openssl(
        *("x509", "-req", "-in", request, "-CA", root, "-CAkey", key, "-CAcreateserial"),
        *("-out", own, "-days", 20, "-extfile", tmp_path / "usage"),
    )
    fingerprint = sign_bundle(bundle, keys / "private.pem", certificate=own, chain=[root])
    assert check_signature(bundle, SignaturePolicy(certificates=(root,))) == fingerprint


def test_a_changed_bundle_is_not_signed(bundle: Path, keys: Path, capsys: Captured) -> None:
    (bundle / "adapters/alpha/adapter.json").write_bytes(b"{}")
    assert edgekit(["bundle", "sign", str(bundle), "--key", str(keys / "private.pem")]) == 1
    assert "is not signed: it is not as it was built" in capsys.readouterr().err
    assert not (bundle / SIGNATURE_NAME).exists()


@pytest.mark.parametrize("content", [b"no key", None])
def test_a_bad_key_is_refused(content: bytes | None, bundle: Path, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    if content is not None:
        key.write_bytes(content)
    with pytest.raises(SignatureError, match="openssl ecparam -name prime256v1"):
        sign_bundle(bundle, key)
    assert not (bundle / SIGNATURE_NAME).exists()


def test_an_edit_removes_the_signature(bundle: Path, keys: Path) -> None:
    sign_bundle(bundle, keys / "private.pem")
    remove_adapter(bundle, "alpha")
    assert verify_bundle(bundle) == []
    assert "alpha" not in json.loads((bundle / "manifest.json").read_bytes())["adapters"]
    with pytest.raises(SignatureError, match="not signed"):
        check_signature(bundle, SignaturePolicy(public_keys=(keys / "public.pem",)))
