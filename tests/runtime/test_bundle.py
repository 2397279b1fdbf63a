"""Opening and verifying bundles."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekit_runtime import AdapterError, Bundle, BundleError, TargetError
from edgekit_runtime.digests import path_problem
from tests.runtime.bundle_edits import replace_file, seal


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_sound_bundle_opens_and_verifies(tiny_bundle: Path) -> None:
    with Bundle.open(tiny_bundle, cache_dir=None) as bundle:
        assert bundle.verify() == []
        assert set(bundle.manifest.adapters) >= {"alpha", "beta"}


def test_one_flipped_byte_is_named_whichever_file(bundle_copy: Path) -> None:
    bundle = Bundle.open(bundle_copy, cache_dir=None)
    for record in bundle.manifest.files:
        path = bundle_copy / record.path
        original = path.read_bytes()
        _flip(path)
        assert [line.partition(":")[0] for line in bundle.verify()] == [record.path]
        path.write_bytes(original)
    _flip(bundle_copy / "manifest.json")
    assert "manifest.json" in bundle.verify()[0]


def test_a_flipped_byte_is_refused_at_first_open(bundle_copy: Path, tmp_path: Path) -> None:
    _flip(bundle_copy / "weights/cpu.data")
    with pytest.raises(BundleError, match=r"weights/cpu.data: expected sha256:"):
        Bundle.open(bundle_copy, cache_dir=tmp_path / "cache")


def test_a_wrong_size_is_refused_at_every_open(bundle_copy: Path) -> None:
    path = bundle_copy / "targets/cpu/sockets.json"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(BundleError, match=rf"sockets.json: expected {size} bytes, got {size + 1}"):
        Bundle.open(bundle_copy, verify="sizes")


def test_every_missing_file_is_listed(bundle_copy: Path) -> None:
    (bundle_copy / "targets/cpu/base.onnx").unlink()
    (bundle_copy / "adapters/alpha/adapter.json").unlink()
    with pytest.raises(BundleError) as caught:
        Bundle.open(bundle_copy, cache_dir=None)
    assert caught.value.problems == (
        "adapters/alpha/adapter.json: missing",
        "targets/cpu/base.onnx: missing",
    )


def test_an_added_file_is_named_by_verify(bundle_copy: Path) -> None:
    (bundle_copy / "targets/cpu/extra.so").write_bytes(b"x")
    assert Bundle.open(bundle_copy, cache_dir=None).verify() == [
        "targets/cpu/extra.so: not listed in manifest.json"
    ]


def test_the_first_full_check_is_remembered_until_a_file_changes(
    bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[Path] = []
    monkeypatch.setattr(
        "edgekit_runtime.bundle.digest_problems", lambda root, _: checked.append(root) or []
    )
    for _ in range(3):
        Bundle.open(bundle_copy, cache_dir=tmp_path)
    assert len(checked) == 1
    os.utime(bundle_copy / "targets/cpu/base.onnx", (1, 1))
    Bundle.open(bundle_copy, cache_dir=tmp_path)
    Bundle.open(bundle_copy, cache_dir=tmp_path, verify="full")
    assert len(checked) == 3


def test_a_cache_that_cannot_be_written_does_no_harm(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    Bundle.open(tiny_bundle, cache_dir=tmp_path / "file")


@pytest.mark.parametrize("path", ["../outside.json", "/etc/passwd", "C:/x", "a/../b", "a\\b"])
def test_paths_out_of_the_bundle_are_refused(bundle_copy: Path, path: str) -> None:
    def change(value: dict[str, Any]) -> None:
        value["files"][0]["path"] = path

    seal(bundle_copy, change)
    with pytest.raises(BundleError, match=re.escape(f"files[0].path: path {path!r}")):
        Bundle.open(bundle_copy, cache_dir=None)


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("a/CON", "is a device's name on Windows"),
        ("nul.json", "is a device's name on Windows"),
        ("a/b.", "that Windows does not store"),
        ("a /b", "that Windows does not store"),
        ("a?b", "that Windows does not store"),
        ("a/" + "b" * 256, "a part of it than 255"),
        ("a/" * 600 + "b", "is longer than 1024 bytes"),
    ],
)
def test_paths_that_some_system_cannot_store_are_refused(path: str, problem: str) -> None:
    found = path_problem(path)
    assert found is not None and problem in found
    assert path_problem("a/console/b.c/é") is None


def test_paths_that_one_file_system_takes_for_one_are_refused(bundle_copy: Path) -> None:
    def change(value: dict[str, Any]) -> None:
        value["files"] += [
            value["files"][0] | {"path": path} for path in ("caf\u00e9", "Cafe\u0301")
        ]

    seal(bundle_copy, change)
    with pytest.raises(BundleError, match="is listed more than once"):
        Bundle.open(bundle_copy, cache_dir=None)


@pytest.mark.parametrize("place", ["targets/cpu/base.onnx", "targets/cpu", "adapters"])
def test_links_are_refused_wherever_they_are(bundle_copy: Path, tmp_path: Path, place: str) -> None:
    link = bundle_copy / place
    link.rename(tmp_path / "elsewhere")
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=f"'{place}' is a link"):
        Bundle.open(bundle_copy, cache_dir=None)


def test_a_linked_manifest_is_refused(bundle_copy: Path, tmp_path: Path) -> None:
    (bundle_copy / "manifest.json").rename(tmp_path / "m.json")
    (bundle_copy / "manifest.json").symlink_to(tmp_path / "m.json")
    with pytest.raises(BundleError, match=r"manifest.json: is a link"):
        Bundle.open(bundle_copy, cache_dir=None)


def test_a_newer_major_version_is_refused(bundle_copy: Path) -> None:
    seal(bundle_copy, lambda value: value.update(schema_version="2.0"))
    with pytest.raises(BundleError, match=r"schema_version is 2.0, this runtime reads 1.x"):
        Bundle.open(bundle_copy, cache_dir=None)


def test_a_newer_minor_version_is_read(bundle_copy: Path) -> None:
    seal(bundle_copy, lambda value: value.update(schema_version="1.9"))
    assert Bundle.open(bundle_copy, cache_dir=None).manifest.schema_version == "1.9"


def test_what_is_no_bundle_says_so(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"is not a bundle:\n  manifest.json: No such file"):
        Bundle.open(tmp_path)


def _requires(value: dict[str, Any]) -> None:
    value["targets"]["cpu"]["requires"] = {"onnxruntime-genai": "0.1", "no-such-package": "3"}


def _provider(value: dict[str, Any]) -> None:
    value["targets"]["cpu"]["execution_provider"] = "NpuExecutionProvider"


def _mechanism(value: dict[str, Any]) -> None:
    value["targets"]["cpu"]["adapter_mechanism"] = "merged"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_requires, r"cpu: onnxruntime-genai: expected 0\.1\.\*, got 0\.18"),
        (_requires, r"cpu: no-such-package 3\.\* is not installed"),
        (
            _provider,
            "cpu: execution provider NpuExecutionProvider: this runtime knows CUDAExecution",
        ),
        (
            _mechanism,
            "cpu: adapter mechanism: this runtime knows ort_inputs, static_inputs, got merged",
        ),
    ],
)
def test_a_target_that_does_not_work_here_says_why(
    bundle_copy: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    seal(bundle_copy, change)
    with pytest.raises(TargetError, match=message):
        Bundle.open(bundle_copy, cache_dir=None).engine()


def test_an_unknown_target_lists_those_there_are(tiny_bundle: Path) -> None:
    with pytest.raises(TargetError, match="has no target 'cuda'\ndid you mean 'cpu'"):
        Bundle.open(tiny_bundle, cache_dir=None).engine("cuda")


def test_wrong_engine_settings_are_all_listed(tiny_bundle: Path) -> None:
    with pytest.raises(TargetError) as caught:
        Bundle.open(tiny_bundle, cache_dir=None).engine(
            threads=0, adapter_budget_bytes=-1, context_length=10**6
        )
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [
        "threads",
        "adapter_budget_bytes",
        "context_length",
    ]


def test_a_card_can_be_read(tiny_bundle: Path) -> None:
    card = Bundle.open(tiny_bundle, cache_dir=None).adapter_card("alpha")
    assert (card.r, card.prompt_template) == (4, "Q: {text}\nA:")


def test_an_unknown_adapter_names_the_near_one(tiny_bundle: Path) -> None:
    with pytest.raises(AdapterError, match="no adapter 'alpah'\ndid you mean 'alpha'"):
        Bundle.open(tiny_bundle, cache_dir=None).adapter_card("alpah")


def test_a_malformed_card_lists_every_problem(bundle_copy: Path) -> None:
    replace_file(bundle_copy, "adapters/alpha/adapter.json", b'{"schema_version": "1.0"}')
    with pytest.raises(BundleError, match=r"adapter\.json is malformed") as caught:
        Bundle.open(bundle_copy, cache_dir=None).adapter_card("alpha")
    assert len(caught.value.problems) > 5


def test_a_card_of_another_base_is_refused(bundle_copy: Path) -> None:
    path = "adapters/alpha/adapter.json"
    text = (bundle_copy / path).read_text()
    other = re.sub(r"sha256:[0-9a-f]{64}", "sha256:" + "1" * 64, text, count=1)
    replace_file(bundle_copy, path, other.encode())
    with pytest.raises(AdapterError, match="'alpha' was made for another base"):
        Bundle.open(bundle_copy, cache_dir=None).adapter_card("alpha")


def test_leaving_the_bundle_closes_its_engines(tiny_bundle: Path) -> None:
    with Bundle.open(tiny_bundle, cache_dir=None) as bundle:
        engine = bundle.engine(threads=1)
    with pytest.raises(Exception, match="the engine is closed"):
        engine.generate("hello")


def test_weights_from_a_folder_outside_of_the_bundle_are_not_read(bundle_copy: Path) -> None:
    path = "targets/cpu/genai_config.json"
    config = json.loads((bundle_copy / path).read_text(encoding="utf-8"))
    options = config["model"]["decoder"]["session_options"]
    options["session.model_external_initializers_file_folder_path"] = "../../../elsewhere"
    replace_file(bundle_copy, path, json.dumps(config).encode())
    with (
        Bundle.open(bundle_copy, cache_dir=None).engine() as engine,
        pytest.raises(TargetError, match="reads weights from a strange folder"),
    ):
        engine.generate("the card", max_new_tokens=1)


def test_a_targets_own_number_of_threads_holds_unless_one_is_given(bundle_copy: Path) -> None:
    path = "targets/cpu/genai_config.json"
    config = json.loads((bundle_copy / path).read_text(encoding="utf-8"))
    config["model"]["decoder"]["session_options"]["intra_op_num_threads"] = 3
    replace_file(bundle_copy, path, json.dumps(config).encode())
    bundle = Bundle.open(bundle_copy, cache_dir=None)
    assert bundle.engine().threads == 3
    assert bundle.engine(threads=1).threads == 1
