"""Several adapters at once: their weighted sum, as one adapter that has all their ranks.

Exact, since ``x A1 B1 w1 + x A2 B2 w2`` is ``x [A1 A2] [w1 B1; w2 B2]``.

Source: PEFT, ``add_weighted_adapter(combination_type="cat")``.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit_runtime.adapter_file import AdapterFile, adapter_bytes
from edgekit_runtime.contract import SocketContract
from edgekit_runtime.errors import AdapterError


def blend(parts: Sequence[tuple[AdapterFile, float]], contract: SocketContract) -> bytes:
    """The weighted sum of adapters as the content of one ``.onnx_adapter``.

    Args:
        parts: Adapters that fit the sockets, each with its weight.
        contract: The sockets. Where their rank is fixed, what the adapters were padded with is
            left out first.
    """
    tensors: dict[str, NDArray[Any]] = {}
    for socket in contract.sockets:
        found = [
            (file.tensor(socket.a_name), file.tensor(socket.b_name), weight)
            for file, weight in parts
            if socket.a_name in file.infos
        ]
        if not found:
            continue
        a = np.concatenate([one for one, _, _ in found], axis=1)
        b = np.concatenate([_scaled(one, weight) for _, one, weight in found])
        if contract.static_rank is not None:
            a, b = _repadded(a, b, contract.static_rank)
        tensors[socket.a_name], tensors[socket.b_name] = a, b
    return adapter_bytes(tensors)


@contextmanager
def as_file(data: bytes, cache_dir: Path | None) -> Iterator[str]:
    """A path to bytes, for native code that takes nothing else; in memory where the system can.

    Raises:
        AdapterError: If it has to be a file, and none may be written.
    """
    if hasattr(os, "memfd_create"):
        with open(os.memfd_create("edgekit-blend"), "wb") as file:  # noqa: PTH123
            file.write(data)
            file.flush()
            yield f"/proc/self/fd/{file.fileno()}"
        return
    if cache_dir is None:
        raise AdapterError(
            "a blend of adapters is loaded from a file, and this bundle was opened without a cache",
            hint="Open it with a cache_dir.",
        )
    folder = cache_dir / "blends"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as written:
        written.write(data)
    try:
        yield written.name
    finally:
        with suppress(OSError):  # Windows keeps what is mapped
            Path(written.name).unlink()


def _scaled(b: NDArray[Any], weight: float) -> NDArray[Any]:
    with np.errstate(over="ignore"):  # infinity is found and told when the blend is checked
        scaled: NDArray[Any] = (b.astype(np.float64) * weight).astype(b.dtype)
    return scaled


def _repadded(a: NDArray[Any], b: NDArray[Any], rank: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Ranks that do something, with zeros up to a rank; more than fit stay, to be refused."""
    used = a.any(axis=0) & b.any(axis=1)
    more = max(0, rank - int(used.sum()))
    return np.pad(a[:, used], ((0, 0), (0, more))), np.pad(b[used], ((0, more), (0, 0)))
