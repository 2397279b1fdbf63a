"""A build that is killed, stopped, or fails leaves nothing, and does not hinder the next one."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from edgekit.bases import resolve_base
from edgekit.building import build as build_module
from edgekit.building.build import build
from edgekit.building.export import export_base
from edgekit.bundling.adapters import AdapterSource
from edgekit.bundling.write import bundle_lock, staged_bundle
from edgekit.errors import BuildError, ParityError
from edgekit.targets import load_target
from edgekit_runtime.bundle import Bundle

# Builds, and kills itself without any warning at the step whose message is given.
BUILD_AND_DIE = """
import os, signal, sys
from pathlib import Path
from edgekit.building.build import build

def die(message):
    if message.startswith(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

build(name="killed", base=sys.argv[1], output=Path(sys.argv[2]), on_message=die)
"""


def hidden(directory: Path) -> list[str]:
    return [path.name for path in directory.rglob(".*")]


def test_a_build_killed_in_the_gate_leaves_no_output_and_the_next_one_succeeds(
    tiny_base: Path, built_tiny_bundle: Path, tmp_path: Path
) -> None:
    output = tmp_path / "bundle"
    step = "parity: the float model"
    done = subprocess.run([sys.executable, "-c", BUILD_AND_DIE, tiny_base, output, step])
    assert done.returncode == -signal.SIGKILL
    assert not output.exists()
    assert hidden(tmp_path) == [".bundle.building"]  # the next build's to sweep
    build(name="next", base=str(tiny_base), output=output, parity=False)
    assert Bundle.open(output).verify() == []
    assert list(tmp_path.iterdir()) == [output]


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, so that the builder really runs."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def wait_for(directory: Path, pattern: str) -> None:
    deadline = time.monotonic() + 60
    while not list(directory.glob(pattern)):
        assert time.monotonic() < deadline, f"no {pattern} in {directory}"
        time.sleep(0.02)


def start_build(base: Path, output: Path) -> "subprocess.Popen[str]":
    code = "import sys; from edgekit.cli import main; sys.exit(main())"
    command = ["build", "--base", os.fspath(base), "-o", os.fspath(output), "--no-parity"]
    return subprocess.Popen(
        [sys.executable, "-c", code, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_a_build_killed_in_the_export_leaves_no_output_and_the_next_one_succeeds(
    tiny_base: Path, own_cache: Path, tmp_path: Path
) -> None:
    output = tmp_path / "bundles" / "bundle"
    process = start_build(tiny_base, output)
    wait_for(own_cache / "exports", ".*-*")
    process.kill()  # its child, the model builder, lives on and writes on
    try:
        process.wait()
        assert not output.exists()
        build(name="next", base=str(tiny_base), output=output, parity=False)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert Bundle.open(output).verify() == []
    assert list(output.parent.iterdir()) == [output]


def test_ctrl_c_leaves_nothing_and_another_build_of_the_output_is_refused_meanwhile(
    tiny_base: Path, own_cache: Path, tmp_path: Path
) -> None:
    output = tmp_path / "bundles" / "bundle"
    process = start_build(tiny_base, output)
    wait_for(own_cache / "exports", ".*-*")
    with pytest.raises(BuildError, match=r"another edgekit is changing '.*bundle'\nWait"):
        build(name="second", base=str(tiny_base), output=output, parity=False)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the builder too
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert list(output.parent.iterdir()) == []
    assert hidden(own_cache) == []


def test_a_failing_gate_leaves_nothing(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ParityError("the parity gate failed")

    monkeypatch.setattr(build_module, "check_parity", fail)
    with pytest.raises(ParityError):
        build(name="failing", base=str(tiny_base), output=tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_failing_overwrite_keeps_the_old_bundle(
    tiny_base: Path, built_tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "bundle"
    old = build(name="old", base=str(tiny_base), output=output, parity=False).manifest

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(build_module, "write_manifest", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build(name="new", base=str(tiny_base), output=output, parity=False, overwrite=True)
    assert Bundle.open(output, verify="full").manifest == old
    assert list(tmp_path.iterdir()) == [output]


def bundle_at(path: Path, text: str) -> Path:
    path.mkdir()
    (path / "manifest.json").write_text(text)
    return path


def test_a_kill_between_the_renames_of_an_overwrite_is_undone(tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    bundle_at(tmp_path / ".bundle.old", "the old one")
    with pytest.raises(BuildError, match="exists"), staged_bundle(output, overwrite=False):
        pytest.fail("the old bundle is back: it is not replaced unasked")
    assert (output / "manifest.json").read_text() == "the old one"


def test_a_kill_after_the_renames_of_an_overwrite_is_finished(tmp_path: Path) -> None:
    output = bundle_at(tmp_path / "bundle", "the new one")
    bundle_at(tmp_path / ".bundle.old", "the old one")
    with staged_bundle(output, overwrite=True) as staging:
        (staging / "manifest.json").write_text("the newest one")
    assert (output / "manifest.json").read_text() == "the newest one"
    assert list(tmp_path.iterdir()) == [output]


def test_a_bundle_that_another_build_finished_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    with pytest.raises(BuildError, match="exists"):
        bundle_at(output, "theirs")
        with staged_bundle(output, overwrite=False):
            pytest.fail("not ours to write")
    assert (output / "manifest.json").read_text() == "theirs"


def test_the_lock_is_one_per_bundle(tmp_path: Path) -> None:
    refusals: list[str] = []

    def try_both() -> None:
        with bundle_lock(tmp_path / "other"):
            pass
        try:
            with bundle_lock(tmp_path / "x" / ".." / "bundle"):
                pass
        except BuildError as err:
            refusals.append(err.what)

    with bundle_lock(tmp_path / "bundle"):
        thread = threading.Thread(target=try_both)
        thread.start()
        thread.join()
    assert len(refusals) == 1


def test_a_damaged_export_in_the_cache_is_made_again(
    tiny_base: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit.building import export

    runs: list[Path] = []

    def run_builder(_base: object, _profile: object, out: Path, _cache: Path) -> None:
        out.mkdir()
        (out / "genai_config.json").write_text("{}")
        (out / "model.onnx.data").write_bytes(b"weights")
        runs.append(out)

    monkeypatch.setattr(export, "_run_builder", run_builder)
    base, profile = resolve_base(str(tiny_base)), load_target("cpu-fast")
    exported = export_base(base, profile)
    assert export_base(base, profile) == exported
    assert len(runs) == 1
    (exported / "model.onnx.data").write_bytes(b"weightz")
    assert export_base(base, profile) == exported
    assert len(runs) == 2
    assert (exported / "model.onnx.data").read_bytes() == b"weights"


def test_another_tokenizer_is_another_export(
    tiny_base: Path, own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    from edgekit.building import export

    monkeypatch.setattr(export, "_run_builder", lambda _b, _p, out, _c: out.mkdir())
    base = shutil.copytree(tiny_base, tmp_path / "base")
    first = export_base(resolve_base(str(base)), load_target("cpu-fast"))
    (base / "chat_template.jinja").write_text("{{ another }}")
    assert export_base(resolve_base(str(base)), load_target("cpu-fast")) != first


def test_the_builders_last_words_are_shown(
    tiny_base: Path, own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = tmp_path / "failing-python"
    failing.write_text(
        "#!/bin/sh\necho Traceback >&2\necho ValueError: no such layer >&2\nexit 3\n"
    )
    failing.chmod(0o755)
    monkeypatch.setattr(sys, "executable", os.fspath(failing))
    with pytest.raises(BuildError) as caught:
        export_base(resolve_base(str(tiny_base)), load_target("cpu-fast"))
    assert str(caught.value).startswith(
        "the model builder failed on base 'tiny-llama' (exit 3):\n"
        "  Traceback\n  ValueError: no such layer\nTo see all of it, run: "
    )
    assert hidden(own_cache) == []


def test_adapters_are_read_before_anything_is_exported(
    tiny_base: Path, own_cache: Path, tmp_path: Path
) -> None:
    from edgekit.errors import PeftAdapterError

    with pytest.raises(PeftAdapterError):
        build(
            name="b",
            base=str(tiny_base),
            output=tmp_path / "out" / "bundle",
            adapters={"a": AdapterSource(path=tmp_path / "nowhere")},
        )
    assert not (own_cache / "exports").exists()
    assert not (tmp_path / "out").exists()
