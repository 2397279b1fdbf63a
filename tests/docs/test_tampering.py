"""The table of docs/reference/tampering.md: every change is made, and says what the page says."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit_runtime import Bundle
from edgekit_runtime.errors import EdgekitRuntimeError
from edgekit_runtime.signing import SignaturePolicy
from edgekit_runtime.verification import SIGNATURE_NAME
from tests.docs.pages import page
from tests.runtime.bundle_edits import change_adapter, replace_file, seal
from tests.runtime.test_signatures import Signer

TOLD = page("docs/reference/tampering.md").table("tampering")
CARD = "adapters/alpha/adapter.json"
ADAPTER = "adapters/alpha/float32.onnx_adapter"
GRAPH = "targets/cpu/model.onnx"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def first_path(path: str) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        manifest["files"][0]["path"] = path

    return change


def replaced(old: str, new: str, file: str) -> Callable[[Path], None]:
    def change(bundle: Path) -> None:
        text = (bundle / file).read_text(encoding="utf-8")
        assert old in text
        replace_file(bundle, file, text.replace(old, new).encode())

    return change


def another_base(bundle: Path) -> None:
    text = (bundle / CARD).read_text(encoding="utf-8")
    start = text.index("sha256:")
    replace_file(bundle, CARD, (text[:start] + "sha256:" + "0" * 64 + text[start + 71 :]).encode())


def cut(file: str, share: float) -> Callable[[Path], None]:
    def change(bundle: Path) -> None:
        data = (bundle / file).read_bytes()
        replace_file(bundle, file, data[: int(len(data) * share)])

    return change


def narrower(tensors: dict[str, Any]) -> None:
    name = next(iter(tensors))
    tensors[name] = np.ascontiguousarray(tensors[name][:-1])


def not_a_number(tensors: dict[str, Any]) -> None:
    next(iter(tensors.values()))[0, 0] = np.nan


def linked(bundle: Path) -> None:
    file = bundle / CARD
    file.rename(bundle.parent / "elsewhere.json")
    file.symlink_to(bundle.parent / "elsewhere.json")


def added_byte(bundle: Path) -> None:
    with (bundle / CARD).open("ab") as file:
        file.write(b" ")


CHANGES: dict[str, Callable[[Path], object]] = {
    "any byte of any listed file": lambda bundle: flip(bundle / GRAPH),
    "a byte added to a listed file": added_byte,
    "a listed file removed": lambda bundle: (bundle / CARD).unlink(),
    "a file added": lambda bundle: (bundle / "stranger.txt").write_text("hello"),
    "a listed file replaced by a link": linked,
    "a byte of manifest.json": lambda bundle: (bundle / "manifest.json").write_text(
        (bundle / "manifest.json").read_text().replace('"tiny"', '"tidy"')
    ),
    "a value of manifest.json given twice, so that parsers may differ": lambda bundle: (
        bundle / "manifest.json"
    ).write_text('{"version":"9.9.9",' + (bundle / "manifest.json").read_text()[1:]),
    "the schema's major version": lambda bundle: seal(
        bundle, lambda manifest: manifest.update(schema_version="2.0")
    ),
    "a path that leaves the bundle": lambda bundle: seal(bundle, first_path("../a")),
    "an adapter's base": another_base,
    "a tensor of an adapter cut off": cut(ADAPTER, 0.9),
    "the shape of an adapter's tensor": lambda bundle: change_adapter(bundle, "alpha", narrower),
    "a NaN in an adapter": lambda bundle: change_adapter(bundle, "alpha", not_a_number),
    "the folder that a graph reads weights from": replaced(
        "../../weights", "../../../weights", "targets/cpu/genai_config.json"
    ),
    "half of model.onnx cut off": cut(GRAPH, 0.5),
    "anything, in a signed bundle": lambda bundle: seal(
        bundle, lambda manifest: manifest.update(version="9.9.9")
    ),
    "the signature removed, under a policy": lambda bundle: (bundle / SIGNATURE_NAME).unlink(),
}


def test_every_change_of_the_page_is_made_here() -> None:
    assert {what.replace("`", "") for what in TOLD} == set(CHANGES)


def told_of(bundle: Path, policy: SignaturePolicy | None) -> str:
    """What an app and `verify` say of a bundle."""
    try:
        with Bundle.open(bundle, cache_dir=None, policy=policy) as opened:
            if problems := opened.verify():
                return "\n".join(problems)
            with opened.engine(threads=1) as engine:
                engine.generate("a", adapter="alpha", max_new_tokens=1)
    except EdgekitRuntimeError as err:
        return str(err)
    return ""


@pytest.mark.parametrize("what", TOLD, ids=[what.replace("`", "") for what in TOLD])
def test_each_says_what_the_page_says(what: str, tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    policy = None
    if "sign" in what:
        signer = Signer(tmp_path / "keys")
        signer.sign(bundle)
        policy = SignaturePolicy(public_keys=(signer.public,))
    assert told_of(bundle, policy) == ""
    CHANGES[what.replace("`", "")](bundle)
    _, message = TOLD[what]
    assert message.strip("`") in told_of(bundle, policy)
