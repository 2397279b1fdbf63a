"""A kill or a power loss at any moment of an update leaves the old version or the new one."""

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgekit_runtime import Bundle
from edgekit_runtime.installing import install, rollback
from edgekit_runtime.sources import DirectorySource
from edgekit_runtime.verification import verify_bundle
from tests.runtime.bundle_edits import replace_file, seal
from tests.runtime.disk_recorder import watched
from tests.runtime.power_loss import Disk, put

REPOSITORY = Path(__file__).resolve().parents[2]
Record = tuple[Path, list[tuple[Any, ...]]]


@pytest.fixture(scope="module")
def new(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The version after the tiny bundle: other weights, one file at another place."""
    path = shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("new") / "new")
    data = bytearray((path / "weights/cpu.data").read_bytes())
    data[70_000] ^= 1
    replace_file(path, "weights/cpu.data", bytes(data))
    (path / "reports/parity.json").rename(path / "reports/moved.json")

    def move(manifest: dict[str, Any]) -> None:
        for file in manifest["files"]:
            if file["path"] == "reports/parity.json":
                file["path"] = "reports/moved.json"

    seal(path, move)
    return path


@pytest.fixture(scope="module")
def installed(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installation of the old version; copy it before changing it."""
    root = tmp_path_factory.mktemp("installed") / "app"
    update(root, tiny_bundle)
    return root


def update(root: Path, bundle: Path) -> None:
    install(DirectorySource(bundle), root, health=lambda _: ())


def check(root: Path, old: Path, new: Path, moment: str) -> str:
    """Whatever is current is whole; returns which one it is."""
    assert verify_bundle(root) == [], moment
    found = Bundle.open(root, verify="full", cache_dir=None).manifest.digest
    digests = {Bundle.open(path, verify="sizes").manifest.digest: path for path in (old, new)}
    assert found in digests, moment
    return "old" if digests[found] == old else "new"


def run_killed(root: Path, bundle: Path, number: int) -> "subprocess.CompletedProcess[str]":
    program = [sys.executable, "-m", "tests.runtime.disk_recorder"]
    return subprocess.run(
        [*program, str(root), str(bundle), str(number)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )


def kills(installed: Path, old: Path, new: Path, folder: Path, n: int) -> dict[str, int]:
    """Kill an update and a rollback at n of its writes; count what was current then."""
    whole = shutil.copytree(installed, folder / "whole")
    done = run_killed(whole, new, 0)
    assert done.returncode == 0, done.stderr
    steps = int(done.stdout)
    dice = random.Random(20)
    points = sorted(dice.sample(range(1, steps + 1), min(n, steps)))
    points += [dice.randrange(1, steps + 1) for _ in range(n - len(points))]
    counts = {"old": 0, "new": 0}
    for point in points:
        root = folder / "app"
        shutil.copytree(installed, root)
        assert run_killed(root, new, point).returncode == -9
        counts[check(root, old, new, f"killed at write {point} of {steps}")] += 1
        update(root, new)
        assert check(root, old, new, f"updated after a kill at {point}") == "new"
        shutil.rmtree(root)
    return counts


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_killed_update_leaves_one_version_or_the_other(
    installed: Path, tiny_bundle: Path, new: Path, tmp_path: Path
) -> None:
    counts = kills(installed, tiny_bundle, new, tmp_path, n=8)
    assert counts["old"] + counts["new"] == 8


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_two_hundred_kills_leave_no_mixed_state(
    installed: Path, tiny_bundle: Path, new: Path, tmp_path: Path
) -> None:
    counts = kills(installed, tiny_bundle, new, tmp_path, n=200)
    print(json.dumps(counts))
    assert counts["old"] > 0 and counts["new"] > 0
    assert counts["old"] + counts["new"] == 200


@pytest.fixture(scope="module")
def record(
    installed: Path, new: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Record]:
    """Every write of an update, a rollback and an update, and where it began."""
    root = shutil.copytree(installed, tmp_path_factory.mktemp("record") / "app")
    events: list[tuple[Any, ...]] = []
    with watched(events.append):
        update(root, new)
        rollback(root)
        update(root, new)
    shutil.rmtree(root)
    shutil.copytree(installed, root)
    yield root, events


def lose_power(record: Record, old: Path, new: Path, folder: Path, every: int) -> dict[str, int]:
    """Lose power before every nth write, three times each, and look at what is left."""
    root, events = record
    model = Disk(root)
    counts = {"old": 0, "new": 0}
    for number, event in enumerate([*events, None]):
        if number % every == 0 or event is None:
            for seed in (None, number, -number - 1):
                found = model.lose_power(None if seed is None else random.Random(seed))
                put(found, folder / "app")
                moment = f"write {number}: {event!r:.200}"
                counts[check(folder / "app", old, new, moment)] += 1
                if seed is None:
                    update(folder / "app", new)
                    assert check(folder / "app", old, new, f"updated after {number}") == "new"
                shutil.rmtree(folder / "app")
        if event is not None:
            model.replay(event)
    return counts


def test_a_power_loss_leaves_one_version_or_the_other(
    record: Record, tiny_bundle: Path, new: Path, tmp_path: Path
) -> None:
    counts = lose_power(record, tiny_bundle, new, tmp_path, every=11)
    assert counts["old"] > 0 and counts["new"] > 0


@pytest.mark.slow
def test_a_power_loss_at_any_write_leaves_no_mixed_state(
    record: Record, tiny_bundle: Path, new: Path, tmp_path: Path
) -> None:
    counts = lose_power(record, tiny_bundle, new, tmp_path, every=1)
    print(json.dumps(counts | {"writes": len(record[1])}))
    assert sum(counts.values()) == 3 * (len(record[1]) + 1)


def test_the_model_tells_flushes_that_are_missing(
    record: Record, tiny_bundle: Path, new: Path, tmp_path: Path
) -> None:
    """Were nothing flushed, the tests above would fail; so they can."""
    root, events = record
    model = Disk(root)
    for event in events:
        if event[0] != "flush":
            model.replay(event)
    broken = 0
    for seed in range(20):
        put(model.lose_power(random.Random(seed)), tmp_path / str(seed))
        try:
            check(tmp_path / str(seed), tiny_bundle, new, "")
        except Exception:
            broken += 1
    assert broken


BYPASS = """
import sys
from pathlib import Path
from tests.runtime.disk_recorder import inside, watched
from edgekit_runtime.installing import install
from edgekit_runtime.sources import DirectorySource

root, bundle = Path(sys.argv[1]), Path(sys.argv[2])
seen, told = [], []

def hook(event, arguments):
    if event == "open":
        path, mode, flags = arguments
        if not flags & 3:  # for reading
            return
    elif event not in {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.truncate",
                       "os.symlink", "os.chmod", "os.utime"}:
        return
    path = str(arguments[0])
    if path.startswith(str(root)) and not path.endswith("/lock"):
        (seen if getattr(inside, "depth", 0) else told).append((event, path))

with watched(lambda _: None):
    sys.addaudithook(hook)
    install(DirectorySource(bundle), root, health=lambda _: ())
print(told, len(seen) > 50)
"""


def test_nothing_is_written_past_the_recorder(installed: Path, new: Path, tmp_path: Path) -> None:
    """Python itself tells of every file that is opened, made, renamed or removed."""
    root = shutil.copytree(installed, tmp_path / "app")
    done = subprocess.run(
        [sys.executable, "-c", BYPASS, str(root), str(new)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "[] True", done.stdout + done.stderr
