"""Convert a PEFT LoRA to a target's packed sockets, and write ONNX Runtime's adapter file."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgekit.adapters.peft_dir import LoraPair
from edgekit.errors import PeftAdapterError
from edgekit_runtime.contract import Socket, SocketContract, TensorInfo

# Rounding to float16 takes 0.02 %; more is lost where values are below its smallest number.
_MOST_LOST = 0.01

Parameters = dict[str, npt.NDArray[np.generic]]


def to_sockets(modules: Mapping[str, LoraPair], contract: SocketContract) -> Parameters:
    """Pack A and B of every projection into the sockets.

    A socket that packs several projections (q/k/v, gate/up) gets their A's side by side and
    their B's on a block diagonal; projections without an adapter take no rank. Where sockets share
    what the checkpoint has in one linear, each gets its A and the rows of B that are its own.
    Where the graph's shapes are fixed, both are padded with zeros to its one rank.

    Args:
        modules: Module path to A (r, in) and scaled B (out, r).
        contract: The target's sockets.

    Returns:
        ``<socket>.lora_A`` (k, rank) and ``<socket>.lora_B`` (rank, n), in the contract's dtype.

    Raises:
        PeftAdapterError: If a module has no socket, or a rank is over the one of the graph.
    """
    parameters: Parameters = {}
    placed: set[str] = set()
    too_large: list[str] = []
    lost: list[str] = []
    dtype = np.dtype(contract.dtype)
    for socket in contract.sockets:
        present = [part for part in socket.parts if part.module in modules]
        if present:
            a, b = _pack(socket, modules)
            if contract.static_rank is not None:
                if a.shape[1] > contract.static_rank:
                    too_large.append(f"{socket.name}: rank {a.shape[1]}")
                    continue
                a, b = _padded(a, b, contract.static_rank)
            for key, half in ((socket.a_name, a), (socket.b_name, b)):
                parameters[key] = _in_dtype(half, dtype)
                if problem := _loss(half, parameters[key]):
                    lost.append(f"{key}: {problem}")
            placed |= {part.module for part in present}
    if too_large:
        raise PeftAdapterError(
            f"the adapter's rank is over the target's fixed rank of {contract.static_rank}",
            problems=too_large,
            hint="Train it with a smaller r, or build with adapters.max_rank of your own profile.",
        )
    if lost:
        raise PeftAdapterError(
            f"the adapter cannot be told in {contract.dtype}",
            problems=lost,
            hint="Train with a smaller learning rate or lora_alpha: A and B should be of a size.",
        )
    if missing := sorted(set(modules) - placed):
        raise PeftAdapterError(
            "the target's graph has no socket for some adapted modules", problems=missing
        )
    return parameters


def _in_dtype(half: npt.NDArray[np.float32], dtype: np.dtype) -> npt.NDArray[np.generic]:
    with np.errstate(over="ignore", under="ignore"):
        return np.ascontiguousarray(half, dtype)


def _loss(half: npt.NDArray[np.float32], stored: npt.NDArray[np.generic]) -> str | None:
    """Say what a smaller type cannot hold of A or B."""
    kept = np.asarray(stored, np.float64)
    if not np.isfinite(kept).all():
        return f"values up to {np.abs(half).max():.3g} are too large"
    size = float(np.linalg.norm(half.astype(np.float64)))
    lost = float(np.linalg.norm(kept - half))
    return f"{lost / size:.0%} of it is too small" if lost > _MOST_LOST * size else None


def _pack(
    socket: Socket, modules: Mapping[str, LoraPair]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """A's side by side (k, rank), B's on a block diagonal (rank, n)."""
    present = [part for part in socket.parts if part.module in modules]
    a = np.concatenate([modules[part.module].a.T for part in present], axis=1)
    b = np.zeros((a.shape[1], socket.n), np.float32)
    row = 0
    for part in present:
        block = modules[part.module].b[part.start : part.start + part.n].T
        b[row : row + block.shape[0], part.offset : part.offset + part.n] = block
        row += block.shape[0]
    return a, b


def _padded(
    a: npt.NDArray[np.float32], b: npt.NDArray[np.float32], rank: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Zero columns of A and rows of B up to a rank: the product is the same."""
    more = rank - a.shape[1]
    return np.pad(a, ((0, 0), (0, more))), np.pad(b, ((0, more), (0, 0)))


def write_onnx_adapter(parameters: Parameters, contract: SocketContract, path: Path) -> None:
    """Write an ``.onnx_adapter`` file, read it back and compare it bit by bit.

    Raises:
        PeftAdapterError: If the tensors do not fit the contract or the file reads back otherwise.
    """
    import onnxruntime as ort

    infos = {key: TensorInfo(shape=v.shape, dtype=v.dtype.name) for key, v in parameters.items()}
    if problems := contract.problems(infos):
        raise PeftAdapterError("the converted adapter does not fit its sockets", problems=problems)
    values = {key: ort.OrtValue.ortvalue_from_numpy(value) for key, value in parameters.items()}
    file = ort.AdapterFormat()
    file.set_adapter_version(1)
    file.set_model_version(1)
    file.set_parameters(values)
    temporary = path.with_name(path.name + ".tmp")
    file.export_adapter(os.fspath(temporary))
    stored = ort.AdapterFormat.read_adapter(os.fspath(temporary)).get_parameters()
    changed = [
        key
        for key, value in parameters.items()
        if key not in stored or not np.array_equal(stored[key].numpy(), value)
    ]
    if changed or len(stored) != len(parameters):
        temporary.unlink()
        raise PeftAdapterError(f"{path.name} did not read back as written", problems=changed)
    temporary.replace(path)
