"""What comes from elsewhere is read or refused with a clean error, whatever it holds.

Broken manifests, cards and so on have the digests that fit them, so that they reach the parsers.
"""

import json
import time
from base64 import b64encode
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest

from edgekit_runtime.adapter_file import AdapterFile
from edgekit_runtime.card import AdapterCard
from edgekit_runtime.chunks import ChunkIndex
from edgekit_runtime.classifying import check_labels, recorded_labels
from edgekit_runtime.contract import SocketContract
from edgekit_runtime.digests import canonical_json, sha256_of_bytes
from edgekit_runtime.errors import BundleError, EdgekitRuntimeError
from edgekit_runtime.health import HealthRecord
from edgekit_runtime.installation import State
from edgekit_runtime.manifest import Manifest
from edgekit_runtime.native import Tokenizer, vocabulary_size
from edgekit_runtime.registry.artifact import Artifact
from edgekit_runtime.sampling import resolve_options
from edgekit_runtime.signing import SignaturePolicy
from edgekit_runtime.strict_json import loads
from edgekit_runtime.templates import template_fields
from tests.fuzzing.mutations import break_bytes, break_json, broken_json_bytes

FEW: Final = 300
MANY: Final = 10_000
LONGEST_S: Final = 1.0

Read = Callable[[bytes], object]
Break = Callable[[Random], bytes]


def manifest_bytes(value: Any) -> bytes:
    """With a digest that fits, where one can be taken."""
    try:
        digest = sha256_of_bytes(canonical_json(value))
        return canonical_json(value | {"digest": digest})
    except (TypeError, ValueError, RecursionError):
        return json.dumps(value).encode(errors="surrogatepass")


def sealed(value: Any, random: Random) -> bytes:
    """A broken manifest with the digest that fits it."""
    if random.randrange(4) == 0:
        return break_bytes(manifest_bytes(value), random)
    return manifest_bytes(break_json(value, random))


def read_card(data: bytes) -> object:
    """A card, and what an engine does with one before it asks the model anything."""
    card = AdapterCard.from_bytes(data, where="adapter.json")
    resolve_options(card.defaults)
    if card.prompt_template is not None:
        template_fields(card.prompt_template)
    if card.recipe["labels"] is not None:
        check_labels(recorded_labels(card))
    return card.system


def read_file(read: Callable[[Path], object], name: str, folder: Path) -> Read:
    """A reader of bytes out of a reader of files."""

    def reading(data: bytes) -> object:
        (folder / name).write_bytes(data)
        return read(folder / name)

    return reading


def composes(folder: Path) -> Read:
    """What the runtime itself reads of ``tokenizer.json``."""

    def reading(data: bytes) -> object:
        (folder / "tokenizer.json").write_bytes(data)
        tokenizer = object.__new__(Tokenizer)
        tokenizer._folder = folder
        return tokenizer._composes

    return reading


def parsers(bundle: Path, folder: Path) -> dict[str, tuple[Read, Break]]:
    """Every reader of foreign bytes in the runtime, and what breaks its input."""
    target = bundle / "targets" / "cpu"
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    del manifest["digest"]
    card = json.loads((bundle / "adapters" / "alpha" / "adapter.json").read_bytes())
    card["defaults"] = {"temperature": 0.7, "stop": ["\n"], "max_new_tokens": 8, "seed": 3}
    card["recipe"] |= {"labels": ["yes", "no"]}
    sockets = json.loads((target / "sockets.json").read_bytes())
    adapter = (bundle / "adapters" / "alpha" / "float32.onnx_adapter").read_bytes()
    assert AdapterFile.from_bytes(adapter, where="alpha").infos
    tokenizer = {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}]}}
    health = {"prompt": "a", "tokens": [1, 2], "top": [3], "log_probs": [-1.5], "tolerance": 0.5}
    index = {
        "file": "sha256:" + "0" * 64,
        "sizes": [5, 3],
        "digests": b64encode(bytes(64)).decode(),
    }
    artifact = {
        "artifactType": "a",
        "layers": [
            {
                "mediaType": "application/octet-stream",
                "digest": "sha256:" + "1" * 64,
                "size": 3,
                "annotations": {"org.opencontainers.image.title": "a/b"},
            }
        ],
    }
    state = {
        "schema_version": "1.0",
        "current": "sha256:" + "2" * 64,
        "previous": "",
        "source": "registry.example/a:1",
        "rejected": {"sha256:" + "3" * 64: "slow"},
    }
    policy = {"require_signature": True, "public_keys": ["a.pem"], "revoked": []}
    (folder / "a.pem").write_text("a key")
    found: dict[str, tuple[Read, Any]] = {
        "card": (read_card, card),
        "sockets": (lambda data: SocketContract.from_bytes(data, where="sockets.json"), sockets),
        "health": (lambda data: HealthRecord.from_dict(as_json(data), where="health"), health),
        "chunks": (lambda data: ChunkIndex.from_bytes(data, size_bytes=8), index),
        "artifact": (lambda data: Artifact.from_bytes(data, where="r/a:1"), artifact),
        "installation": (lambda data: State.from_bytes(data, where=Path("s")), state),
        "policy": (read_file(SignaturePolicy.from_file, "policy.json", folder), policy),
        "genai_config": (
            read_file(lambda path: vocabulary_size(path.parent), "genai_config.json", folder),
            json.loads((target / "genai_config.json").read_bytes()),
        ),
        "tokenizer": (composes(folder), tokenizer),
    }
    return {
        name: (read, partial(broken_json_bytes, value)) for name, (read, value) in found.items()
    } | {
        "manifest": (Manifest.from_bytes, partial(sealed, manifest)),
        "adapter": (
            lambda data: AdapterFile.from_bytes(data, where="alpha").value_problems(),
            partial(break_bytes, adapter),
        ),
    }


def as_json(data: bytes) -> object:
    try:
        return loads(data)
    except ValueError as err:
        raise BundleError(str(err)) from err


NAMES: Final = (
    *("manifest", "adapter", "card", "sockets", "health", "chunks", "artifact", "installation"),
    *("policy", "genai_config", "tokenizer"),
)


def survive(
    read: Read, broken: Callable[[Random], bytes], n_inputs: int, longest_s: float = LONGEST_S
) -> tuple[int, int]:
    """Read so many broken inputs; how many were read, and how many refused."""
    n_read = n_refused = 0
    for seed in range(n_inputs):
        data = broken(Random(seed))
        before = time.process_time()
        try:
            read(data)
            n_read += 1
        except EdgekitRuntimeError as err:
            n_refused += 1
            str(err).encode()  # a terminal can show it
            assert len(str(err)) < 500_000, seed
        except Exception as err:
            err.add_note(f"seed {seed}, {data[:200]!r}")
            raise
        assert time.process_time() - before < longest_s, f"seed {seed}"
    return n_read, n_refused


def test_every_parser_is_here(tiny_bundle: Path, tmp_path: Path) -> None:
    assert set(parsers(tiny_bundle, tmp_path)) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_broken_input_is_read_or_refused(name: str, tiny_bundle: Path, tmp_path: Path) -> None:
    read, broken = parsers(tiny_bundle, tmp_path)[name]
    n_read, n_refused = survive(read, broken, FEW)
    assert n_read > 0
    # What is wrong with genai's own configuration is genai's to say.
    assert n_refused > FEW // 20 or name == "genai_config"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_ten_thousand_broken_inputs(name: str, tiny_bundle: Path, tmp_path: Path) -> None:
    read, broken = parsers(tiny_bundle, tmp_path)[name]
    assert sum(survive(read, broken, MANY)) == MANY
