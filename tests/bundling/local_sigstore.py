"""A Sigstore of one's own on loopback: certificate authority, its log, and a transparency log.

It does what Fulcio and Rekor (API version 1) do for a client, with keys made on the spot, so that
keyless signatures can be made and checked without a network. Sources: RFC 6962 (SCTs, Merkle
trees), https://github.com/sigstore/fulcio and https://github.com/sigstore/rekor.
"""

import base64
import json
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

ISSUER = "https://accounts.example.org"
_OIDC_ISSUER = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
_OIDC_ISSUER_V2 = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
_SCT_LIST = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_ORIGIN = "log.example.org"
_TRUSTED_ROOT = "application/vnd.dev.sigstore.trustedroot+json;version=0.1"
_SIGNING_CONFIG = "application/vnd.dev.sigstore.signingconfig.v0.2+json"
_TRUST_CONFIG = "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def token_of(identity: str, issuer: str = ISSUER) -> str:
    """An OpenID token as an identity provider would issue; nobody checks its signature here."""
    now = datetime.now(UTC).timestamp()
    claims = {"aud": "sigstore", "iss": issuer, "sub": identity, "email": identity}
    claims |= {"email_verified": True, "iat": now - 1, "nbf": now - 1, "exp": now + 600}
    parts = (json.dumps({"alg": "none"}), json.dumps(claims), "signature")
    return ".".join(base64.urlsafe_b64encode(p.encode()).decode().rstrip("=") for p in parts)


class _Key:
    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.spki = self.key.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
        self.id = sha256(self.spki).digest()

    def sign(self, data: bytes) -> bytes:
        return self.key.sign(data, ec.ECDSA(hashes.SHA256()))

    def as_log(self, url: str) -> dict[str, Any]:
        return {
            "baseUrl": url,
            "hashAlgorithm": "SHA2_256",
            "publicKey": {
                "rawBytes": b64(self.spki),
                "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                "validFor": {"start": "2020-01-01T00:00:00Z"},
            },
            "logId": {"keyId": b64(self.id)},
        }


@dataclass
class LocalSigstore:
    """What is trusted, and where to ask.

    Attributes:
        trust_config: Sigstore's ClientTrustConfig, as a file.
        n_entries: Signatures that the transparency log was told of.
    """

    trust_config: Path
    n_entries: int = 0


class _Authority:
    """Fulcio's part: certificates of ten minutes for whoever a token names."""

    def __init__(self) -> None:
        self._key, self._log = _Key(), _Key()
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "local authority")])
        start = datetime.now(UTC) - timedelta(days=1)
        self.root = (
            x509.CertificateBuilder(name, name, self._key.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(is_authority=True), critical=True)
            .add_extension(self._subject_id(self._key.key.public_key()), critical=False)
            .sign(self._key.key, hashes.SHA256())
        )

    def as_trusted(self, url: str) -> dict[str, Any]:
        certificate = b64(self.root.public_bytes(Encoding.DER))
        return {
            "subject": {"organization": "example.org", "commonName": "local authority"},
            "uri": url,
            "certChain": {"certificates": [{"rawBytes": certificate}]},
            "validFor": {"start": "2020-01-01T00:00:00Z"},
        }

    def log(self, url: str) -> dict[str, Any]:
        return self._log.as_log(url)

    def issue(self, request: x509.CertificateSigningRequest, token: str) -> x509.Certificate:
        middle = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
        bare = self._unsigned(request.public_key(), claims["email"], claims["iss"])
        precertificate = bare.sign(self._key.key, hashes.SHA256())
        sct = self._timestamp(precertificate.tbs_certificate_bytes)
        extension = x509.UnrecognizedExtension(_SCT_LIST, sct)
        return bare.add_extension(extension, critical=False).sign(self._key.key, hashes.SHA256())

    def _unsigned(self, key: Any, identity: str, issuer: str) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        text = issuer.encode()
        return (
            x509.CertificateBuilder(self.root.subject, x509.Name([]), key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(seconds=5))
            .not_valid_after(now + timedelta(minutes=10))
            .add_extension(_usage(is_authority=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.CODE_SIGNING]), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.key.public_key()),
                critical=False,
            )
            .add_extension(self._subject_id(key), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.RFC822Name(identity)]), critical=True)
            .add_extension(x509.UnrecognizedExtension(_OIDC_ISSUER, text), critical=False)
            .add_extension(
                x509.UnrecognizedExtension(_OIDC_ISSUER_V2, bytes([0x0C, len(text)]) + text),
                critical=False,
            )
        )

    def _timestamp(self, precertificate: bytes) -> bytes:
        """A signed certificate timestamp (RFC 6962, 3.2 and 3.3) as the extension's value."""
        at = int(datetime.now(UTC).timestamp() * 1000)
        entry = sha256(self._key.spki).digest() + len(precertificate).to_bytes(3) + precertificate
        signature = self._log.sign(struct.pack("!BBQH", 0, 0, at, 1) + entry + b"\0\0")
        sct = b"\0" + self._log.id + struct.pack("!QH", at, 0) + b"\4\3"
        sct += len(signature).to_bytes(2) + signature
        listed = len(sct).to_bytes(2) + sct
        whole = len(listed).to_bytes(2) + listed
        return bytes([0x04, len(whole)]) + whole  # a DER octet string of fewer than 128 bytes

    @staticmethod
    def _subject_id(key: Any) -> x509.SubjectKeyIdentifier:
        return x509.SubjectKeyIdentifier.from_public_key(key)


class _Log:
    """Rekor's part: every entry is the only leaf of a tree."""

    def __init__(self) -> None:
        self._key = _Key()

    def as_log(self, url: str) -> dict[str, Any]:
        return self._key.as_log(url)

    def add(self, proposed: dict[str, Any]) -> dict[str, Any]:
        content = proposed["spec"]["proposedContent"]
        envelope = json.loads(content["envelope"])
        body = {
            "apiVersion": "0.0.1",
            "kind": "dsse",
            "spec": {
                "envelopeHash": _hash(content["envelope"].encode()),
                "payloadHash": _hash(base64.b64decode(envelope["payload"])),
                "signatures": [
                    {"signature": one["sig"], "verifier": content["verifiers"][0]}
                    for one in envelope["signatures"]
                ],
            },
        }
        leaf = canonical(body)
        root = sha256(b"\0" + leaf).digest()
        note = f"{_ORIGIN}\n1\n{b64(root)}\n"
        signed = b64(self._key.id[:4] + self._key.sign(note.encode()))
        entry = {
            "body": b64(leaf),
            "integratedTime": int(datetime.now(UTC).timestamp()),
            "logID": self._key.id.hex(),
            "logIndex": 0,
        }
        proof = {
            "checkpoint": f"{note}\n\N{EM DASH} {_ORIGIN} {signed}\n",
            "hashes": [],
            "logIndex": 0,
            "rootHash": root.hex(),
            "treeSize": 1,
        }
        promise = b64(self._key.sign(canonical(entry)))
        told = {"inclusionProof": proof, "signedEntryTimestamp": promise}
        return {root.hex(): entry | {"verification": told}}


@contextmanager
def local_sigstore(folder: Path) -> Iterator[LocalSigstore]:
    """Run one until the end of the block."""
    authority, log = _Authority(), _Log()
    found = LocalSigstore(folder / "trust.json")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(
                {"authorization_endpoint": f"{url}/auth", "token_endpoint": f"{url}/token"}
            )

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if self.path.endswith("/signingCert"):
                request = x509.load_pem_x509_csr(
                    base64.b64decode(body["certificateSigningRequest"])
                )
                own = authority.issue(request, self.headers["authorization"].partition(" ")[2])
                chain = [c.public_bytes(Encoding.PEM).decode() for c in (own, authority.root)]
                self._answer({"signedCertificateEmbeddedSct": {"chain": {"certificates": chain}}})
            else:
                found.n_entries += 1
                self._answer(log.add(body))

        def _answer(self, value: Any) -> None:
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        found.trust_config.write_text(json.dumps(_trust(url, authority, log)), encoding="utf-8")
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()


def _trust(url: str, authority: _Authority, log: _Log) -> dict[str, Any]:
    service = {
        "url": url,
        "majorApiVersion": 1,
        "validFor": {"start": "2020-01-01T00:00:00Z"},
        "operator": "example.org",
    }
    return {
        "mediaType": _TRUST_CONFIG,
        "trustedRoot": {
            "mediaType": _TRUSTED_ROOT,
            "tlogs": [log.as_log(url)],
            "certificateAuthorities": [authority.as_trusted(url)],
            "ctlogs": [authority.log(url)],
            "timestampAuthorities": [],
        },
        "signingConfig": {
            "mediaType": _SIGNING_CONFIG,
            "caUrls": [service],
            "oidcUrls": [service],
            "rekorTlogUrls": [service],
            "tsaUrls": [],
            "rekorTlogConfig": {"selector": "ANY"},
            "tsaConfig": {"selector": "ANY"},
        },
    }


def _usage(*, is_authority: bool) -> x509.KeyUsage:
    unused = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    return x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        encipher_only=False,
        decipher_only=False,
        **dict.fromkeys(unused, False),
    )


def _hash(data: bytes) -> dict[str, str]:
    return {"algorithm": "sha256", "value": sha256(data).hexdigest()}
