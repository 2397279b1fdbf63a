"""A description of this machine, so that a figure says where it was taken."""

import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# Instruction sets that decide how fast int4 and int8 products run.
NOTABLE_FLAGS = (
    "avx2",
    "fma",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """A computer, as far as it matters for speed; no host name, user or path.

    Attributes:
        cpu: Model name, or the architecture where it is not told.
        cores: Logical processors that this process may use.
        flags: Those of :data:`NOTABLE_FLAGS` that the processor has; None where unknown.
        memory_bytes: Physical memory; None where unknown.
    """

    cpu: str
    cores: int
    flags: tuple[str, ...] | None
    memory_bytes: int | None
    os: str
    arch: str
    python: str

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        plain = asdict(self)
        return plain | {"flags": None if self.flags is None else list(self.flags)}


def describe_machine() -> Machine:
    """Describe the machine that this process runs on."""
    cpuinfo = _read_cpuinfo()
    return Machine(
        cpu=cpuinfo.get("model name") or _mac_cpu() or platform.processor() or platform.machine(),
        cores=usable_cores(),
        flags=_notable(cpuinfo.get("flags") or cpuinfo.get("Features")),
        memory_bytes=_memory_bytes(),
        os=f"{platform.system()} {platform.release()}",
        arch=platform.machine(),
        python=platform.python_version(),
    )


def package_version(package: str) -> str | None:
    """An installed package's version, None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def usable_cores() -> int:
    """Logical processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _read_cpuinfo() -> dict[str, str]:
    """The first processor's entry of Linux's /proc/cpuinfo; empty elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _notable(flags: str | None) -> tuple[str, ...] | None:
    if flags is None:
        return None
    present = set(flags.split())
    return tuple(flag for flag in NOTABLE_FLAGS if flag in present)


def _mac_cpu() -> str:
    if platform.system() != "Darwin":
        return ""
    command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
