"""Whole bundles that somebody made to hurt, with digests that are right again.

Python's part reads or refuses them. What reaches native code runs in a child process here: the
libraries behind it do not promise to survive everything, and docs/threat-model.md says so.
"""

import json
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest

from edgekit_runtime import Bundle
from edgekit_runtime.errors import EdgekitRuntimeError
from tests.fuzzing.children import RAW, child_process
from tests.fuzzing.mutations import break_bytes, broken_json_bytes
from tests.fuzzing.test_parsers import sealed
from tests.runtime.bundle_edits import replace_file

# What the native libraries parse, and how many broken ones of each.
NATIVE: Final = (
    "targets/cpu/base.onnx",
    "targets/cpu/genai_config.json",
    "targets/cpu/tokenizer.json",
    "targets/cpu/tokenizer_config.json",
    "targets/cpu/chat_template.jinja",
)
LONGEST_S: Final = 10.0


def everything(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_a_broken_manifest_opens_or_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    del manifest["digest"]
    before, n_refused = everything(tmp_path), 0
    for seed in range(300):
        (bundle / "manifest.json").write_bytes(sealed(manifest, Random(seed)))
        try:
            with Bundle.open(bundle, cache_dir=None) as opened:
                opened.verify()
                for name in opened.manifest.adapters:
                    with suppress(EdgekitRuntimeError):
                        opened.adapter_card(name)
        except EdgekitRuntimeError:
            n_refused += 1
    assert everything(tmp_path) == before
    assert n_refused > 200


def use(bundle: Path) -> None:
    """Do what an app does."""
    with Bundle.open(bundle, cache_dir=None) as opened, opened.engine(threads=1) as engine:
        engine.generate(messages=[{"role": "user", "content": "Hi"}], max_new_tokens=2)


def broken(data: bytes, path: str, random: Random) -> bytes:
    if path.endswith(".json"):
        return broken_json_bytes(json.loads(data), random)
    return break_bytes(data, random)


def survive(bundle: Path, path: str, n_inputs: int) -> dict[str, Any]:
    """Break one native file again and again; what became of it."""
    original = (bundle / path).read_bytes()
    before, found = everything(bundle.parent), {"answered": 0, "refused": 0, "died": 0, "hung": 0}
    with child_process(use, LONGEST_S) as runner:
        for seed in range(n_inputs):
            replace_file(bundle, path, broken(original, path, Random(seed)))
            said = runner.do(bundle)
            if said is None:
                continue
            assert not said.startswith(RAW), f"seed {seed}: {said}"
            found["refused" if said else "answered"] += 1
        found |= {"died": runner.n_deaths, "hung": runner.n_hangs}
    replace_file(bundle, path, original)
    assert everything(bundle.parent) == before
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="limits of memory are POSIX")
@pytest.mark.parametrize("path", NATIVE)
def test_broken_native_files_do_no_harm_to_this_process(
    path: str, tiny_bundle: Path, tmp_path: Path, record_property: Any
) -> None:
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    if not (bundle / path).is_file():
        pytest.skip(f"the tiny bundle has no {path}")
    found = survive(bundle, path, 500)
    record_property("outcome", found)
    print(path, found)  # the table of docs/threat-model.md
    assert sum(found.values()) == 500
    assert found["refused"] > 0
