"""A converted adapter as a GGUF file, which llama.cpp takes with ``--lora``.

Source: llama.cpp, ``convert_lora_to_gguf.py`` and the tensor names of the ``gguf`` package.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import BuildError
from edgekit_runtime.adapter_file import AdapterFile
from edgekit_runtime.contract import SocketContract, SocketPart

# Architecture of transformers: that of llama.cpp. Of these, the first two pair the rotated halves
# of each head's q and k otherwise than transformers does.
_ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "GemmaForCausalLM": "gemma",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3",
    "Phi3ForCausalLM": "phi3",
}
_INTERLEAVED = "llama"

Array = NDArray[np.float32]


def write_gguf_adapter(
    data: bytes,
    contract: SocketContract,
    path: Path,
    *,
    name: str,
    architecture: str,
    n_heads: int,
    n_kv_heads: int,
) -> None:
    """Write an adapter for llama.cpp.

    Args:
        data: Content of an ``.onnx_adapter``.
        contract: The sockets that it was made for.
        path: The GGUF file.
        name: Recorded in it.
        architecture: Of the base, as transformers names it.
        n_heads: Attention heads of the base.
        n_kv_heads: Heads of its keys and values.

    Raises:
        BuildError: If llama.cpp has no name for the architecture or a module.
    """
    import gguf

    if architecture not in _ARCHITECTURES:
        raise BuildError(
            f"no GGUF adapter for {architecture}",
            problems=[f"expected one of {', '.join(_ARCHITECTURES)}"],
        )
    arch = _ARCHITECTURES[architecture]
    file = AdapterFile.from_bytes(data, where=f"adapter {name!r}")
    names = gguf.get_tensor_name_map(_model_arch(arch), _n_layers(contract))
    writer = gguf.GGUFWriter(str(path), arch)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    # The scaling is in B already: llama.cpp multiplies by alpha / r only where alpha is not 0.
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 0.0)
    writer.add_name(name)
    for module, a, b in _modules(file, contract):
        base = names.get_name(f"{module}.weight", try_suffixes=(".weight",))
        if base is None:
            raise BuildError(f"llama.cpp has no tensor for {module} in {arch}")
        if arch == _INTERLEAVED and module.endswith(("q_proj", "k_proj")):
            b = _interleaved(b, n_heads if module.endswith("q_proj") else n_kv_heads)
        writer.add_tensor(f"{base}.lora_a", a)
        writer.add_tensor(f"{base}.lora_b", b)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _modules(file: AdapterFile, contract: SocketContract) -> Iterator[tuple[str, Array, Array]]:
    """PEFT's A (r, in) and B (out, r) of every linear, the scaling in B."""
    split: dict[str, list[tuple[SocketPart, Array, Array]]] = {}
    for socket in contract.sockets:
        if socket.a_name not in file.infos:
            continue
        a, b = file.tensor(socket.a_name), file.tensor(socket.b_name)
        for part in socket.parts:
            columns = b[:, part.offset : part.offset + part.n]
            used = columns.any(axis=1)
            if used.any():
                found = (part, _float32(a[:, used].T), _float32(columns[used].T))
                split.setdefault(part.module, []).append(found)
    for module, parts in split.items():
        yield module, *_joined(parts)


def _joined(parts: list[tuple[SocketPart, Array, Array]]) -> tuple[Array, Array]:
    """One linear of the checkpoint that a graph cut up: its B's on a block diagonal."""
    if len(parts) == 1 and not parts[0][0].start:
        return parts[0][1], parts[0][2]
    a = np.concatenate([one for _, one, _ in parts])
    b = np.zeros((max(part.start + part.n for part, _, _ in parts), len(a)), np.float32)
    row = 0
    for part, one, block in parts:
        b[part.start : part.start + part.n, row : row + len(one)] = block
        row += len(one)
    return a, b


def _interleaved(b: Array, n_heads: int) -> Array:
    """Rows in the order that llama.cpp has those of q and k in: halves of a head by turns."""
    out, r = b.shape
    halves = b.reshape(n_heads, 2, out // n_heads // 2, r)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(out, r))


def _float32(values: Any) -> Array:
    return np.ascontiguousarray(values, dtype=np.float32)


def _n_layers(contract: SocketContract) -> int:
    parts = [part.module for socket in contract.sockets for part in socket.parts]
    return 1 + max(int(module.split("layers.")[1].partition(".")[0]) for module in parts)


def _model_arch(arch: str) -> Any:
    import gguf

    return next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == arch)
