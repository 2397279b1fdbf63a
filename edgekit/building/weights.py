"""A bundle's weights: every tensor once, whichever target's graph reads it.

Graphs lie in ``targets/<name>/`` and read ``weights/``: the int4 blocks of the CPU's graphs are
those of the GPUs', so a second target adds little more than its scales. ONNX Runtime finds the
folder by a session option (``genai_config.json`` says it), since it refuses links and paths that
leave the graph's own directory.

Source: ONNX external data; ``session.model_external_initializers_file_folder_path``.
"""

import json
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import onnx_ir as ir

FOLDER = "weights"
FOLDER_OPTION = "session.model_external_initializers_file_folder_path"
FOLDER_FROM_TARGET = f"../../{FOLDER}"

_SMALLEST_BYTES = 1024
# A large tensor starts where every system can map it into memory (64 KiB on Windows).
_PAGE = 64 * 1024
_LARGE_BYTES = 1024 * 1024
_ALIGNMENT = 64
# Rows of taller tensors (heads, embeddings) are never a part of another tensor.
_MOST_ROWS = 32768


class _Place(NamedTuple):
    file: str
    offset: int


class WeightStore:
    """Writes graphs whose tensors lie in one folder, equal ones once.

    Args:
        root: The bundle's directory.
    """

    def __init__(self, root: Path) -> None:
        self.directory = root / FOLDER
        self.directory.mkdir(parents=True, exist_ok=True)
        self._places: dict[bytes, _Place] = {}
        # Rounded alike by chance, single rows of different matrices are equal now and then.
        self._rows: dict[bytes, list[_Place]] = {}

    def save(self, model: ir.Model, path: Path, *, file: str) -> None:
        """Save a graph; tensors that are not in the folder yet go into one of its files.

        Args:
            model: Its large initializers refer to the folder afterwards.
            path: Where the graph is written.
            file: Name of the file for new tensors.
        """
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is None or tensor.nbytes < _SMALLEST_BYTES:
                if isinstance(tensor, ir.ExternalTensor):
                    value.const_value = ir.tensor(tensor.numpy(), name=tensor.name)
                continue
            place = self._place(tensor, file)
            value.const_value = ir.ExternalTensor(
                location=place.file,
                offset=place.offset,
                length=tensor.nbytes,
                dtype=tensor.dtype,
                shape=ir.Shape(tensor.numpy().shape),
                name=value.name or "",
                base_dir=self.directory,
            )
        ir.save(model, path)

    def paths_of(self, target: str, graphs: Iterable[str]) -> tuple[str, ...]:
        """Paths in the bundle of the weight files that a target's graphs read, sorted."""
        directory = self.directory.parent / "targets" / target
        tensors = [
            value.const_value
            for graph in graphs
            for value in ir.load(directory / graph).graph.initializers.values()
        ]
        files = {str(t.location) for t in tensors if isinstance(t, ir.ExternalTensor)}
        return tuple(f"{FOLDER}/{file}" for file in sorted(files))

    def _place(self, tensor: ir.TensorProtocol, file: str) -> _Place:
        """Where a tensor's bytes lie: found whole, as rows of another, or written now."""
        data = tensor.tobytes()
        digest = sha256(data).digest()
        if digest in self._places:
            return self._places[digest]
        n_rows = tensor.numpy().shape[0]
        row_bytes = len(data) // n_rows if len(tensor.shape) > 1 else 0
        place = self._find_rows(data, row_bytes) or self._append(data, file)
        self._places[digest] = place
        if row_bytes and n_rows <= _MOST_ROWS:
            for start in range(0, len(data), row_bytes):
                row = sha256(data[start : start + row_bytes]).digest()
                self._rows.setdefault(row, []).append(_Place(place.file, place.offset + start))
        return place

    def _find_rows(self, data: bytes, row_bytes: int) -> _Place | None:
        """The place where these rows stand in a taller tensor, such as q_proj's in qkv_proj."""
        if not row_bytes:
            return None
        for place in self._rows.get(sha256(data[:row_bytes]).digest(), ()):
            with (self.directory / place.file).open("rb") as stored:
                stored.seek(place.offset)
                if stored.read(len(data)) == data:
                    return place
        return None

    def _append(self, data: bytes, file: str) -> _Place:
        path = self.directory / file
        with path.open("ab") as target:
            alignment = _PAGE if len(data) >= _LARGE_BYTES else _ALIGNMENT
            target.write(b"\0" * (-target.tell() % alignment))
            offset = target.tell()
            target.write(data)
        return _Place(file, offset)


def load_graph(path: Path) -> ir.Model:
    """Load a target's graph with its weights in reach; they are mapped, not read."""
    model = ir.load(path)
    folder = weights_folder(path.parent)
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value.base_dir = folder
    return model


def weights_folder(target: Path) -> Path:
    """The folder with a target directory's weights: as its genai configuration says, or itself."""
    try:
        config: dict[str, Any] = json.loads(
            (target / "genai_config.json").read_text(encoding="utf-8")
        )
    except FileNotFoundError:
        return target
    options = config["model"]["decoder"].get("session_options", {})
    return Path(target, options.get(FOLDER_OPTION, ".")).resolve()
