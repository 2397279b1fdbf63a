"""Memory by kind and energy, read where Linux tells them."""

import mmap
from pathlib import Path

from edgekit_runtime.meters import EnergyMeter, peak_rss_bytes, rss_by_kind

ROLLUP = """55d0-7fff ---p 00000000 00:00 0    [rollup]
Rss:              300000 kB
Pss:              200000 kB
Private_Dirty:    120000 kB
Anonymous:        100000 kB
"""


def zone(root: Path, name: str, spent: int, limit: int = 1000) -> Path:
    folder = root / name
    folder.mkdir(exist_ok=True)
    (folder / "energy_uj").write_text(f"{spent}\n")
    (folder / "max_energy_range_uj").write_text(f"{limit}\n")
    return folder


def test_memory_is_split_into_own_and_mapped(tmp_path: Path) -> None:
    (tmp_path / "rollup").write_text(ROLLUP)
    assert rss_by_kind(tmp_path / "rollup") == (100_000 * 1024, 200_000 * 1024)
    assert rss_by_kind(tmp_path / "none") is None


def test_what_is_allocated_is_the_process_s_own() -> None:
    before = rss_by_kind()
    if before is None:
        return
    # New pages, never memory that was freed before.
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    with mmap.mmap(-1, 50_000_000, flags=flags) as ballast:
        ballast.write(b"x" * len(ballast))
        after = rss_by_kind()
        assert after is not None
        assert after[0] - before[0] > 45e6
        assert len(ballast) < peak_rss_bytes()


def test_energy_is_the_sum_over_packages(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", 100)
    zone(tmp_path, "intel-rapl:0:0", 50)  # the cores, a part of the package
    zone(tmp_path, "intel-rapl:1", 900)
    meter = EnergyMeter(tmp_path)
    zone(tmp_path, "intel-rapl:0", 350)
    zone(tmp_path, "intel-rapl:0:0", 250)
    zone(tmp_path, "intel-rapl:1", 20)  # started over at 1000
    assert meter.joules() == (250 + 120) / 1e6


def test_without_a_readable_counter_no_energy_is_told(tmp_path: Path) -> None:
    assert EnergyMeter(tmp_path / "none").joules() is None
    assert EnergyMeter(tmp_path).joules() is None
    (zone(tmp_path, "intel-rapl:0", 100) / "energy_uj").unlink()
    assert EnergyMeter(tmp_path).joules() is None
