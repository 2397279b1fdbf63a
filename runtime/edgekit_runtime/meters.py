"""What this process takes of the machine: memory of each kind, energy."""

import platform
from pathlib import Path
from typing import Final

from edgekit_runtime.errors import EdgekitRuntimeError

_ROLLUP: Final = Path("/proc/self/smaps_rollup")
_POWERCAP: Final = Path("/sys/class/powercap")


def peak_rss_bytes() -> int:
    """The most memory that this process ever held.

    On Linux it is ``VmHWM``: ``getrusage`` would also count what the parent held at the fork.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
        line = next(line for line in lines if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    if platform.system() == "Windows":
        return _windows_peak_rss_bytes()
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def rss_by_kind(rollup: Path = _ROLLUP) -> tuple[int, int] | None:
    """Memory that is this process's own, and pages of files that other processes share.

    Args:
        rollup: Linux's sums over the process's mappings (proc(5), ``smaps_rollup``).

    Returns:
        Bytes without a file, and bytes of mapped files; None where the system does not tell.
    """
    try:
        lines = rollup.read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return None
    sizes = {
        name: int(rest.split()[0]) * 1024 for name, _, rest in (x.partition(":") for x in lines)
    }
    return sizes["Anonymous"], sizes["Rss"] - sizes["Anonymous"]


class EnergyMeter:
    """The processor packages' energy counters (Linux's powercap, Intel RAPL; AMD's too).

    Args:
        root: Where the zones are.
    """

    def __init__(self, root: Path = _POWERCAP) -> None:
        zones = sorted(root.glob("intel-rapl:*")) if root.is_dir() else []
        # Zones within a zone, such as intel-rapl:0:0, are counted in it.
        self._zones = [zone for zone in zones if zone.name.count(":") == 1]
        self._before = self._read()

    def _read(self) -> list[tuple[int, int]] | None:
        """Microjoules of each zone, and where its counter starts over; None if unreadable."""
        names = ("energy_uj", "max_energy_range_uj")
        try:
            found = [tuple(int((z / name).read_text()) for name in names) for z in self._zones]
        except (OSError, ValueError):  # since 2020 only root may read them
            return None
        return [(spent, limit) for spent, limit in found] or None

    def joules(self) -> float | None:
        """Energy since the meter was made, of everything that ran; None where none is told."""
        before, after = self._before, self._read()
        if before is None or after is None:
            return None
        spent = 0
        for (first, _), (last, limit) in zip(before, after, strict=True):
            spent += last - first if last >= first else last - first + limit
        return spent / 1e6


def _windows_peak_rss_bytes() -> int:
    try:
        import psutil
    except ImportError as err:
        raise EdgekitRuntimeError(
            "measuring memory on Windows needs psutil",
            hint="pip install 'edgekit-runtime[bench]'",
        ) from err
    return int(psutil.Process().memory_info().peak_wset)
