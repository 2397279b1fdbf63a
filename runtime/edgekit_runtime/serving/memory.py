"""How much memory a process takes."""

import os
from importlib.util import find_spec
from pathlib import Path


def resident_bytes(pid: int) -> int | None:
    """Memory of a process that lies in RAM, mapped weights included.

    Args:
        pid: Of the process.

    Returns:
        Bytes; None where it is gone, or where this system tells only psutil and that is missing.
    """
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, AttributeError):  # no Linux, or no such process
        return _by_psutil(pid)


def _by_psutil(pid: int) -> int | None:
    if find_spec("psutil") is None:
        return None
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None
