"""Reads ``.onnx_adapter`` files, with every offset checked before it is followed, and writes them.

The format is a FlatBuffer with identifier ``TORT``:

    table Parameter { name: string; dims: [int64]; data_type: int32; raw_data: [uint8]; }
    table Adapter   { format_version: int32; adapter_version: int32; model_version: int32;
                      parameters: [Parameter]; }

Source: onnxruntime/lora/adapter_format/adapter_schema.fbs.
"""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgekit_runtime.contract import TensorInfo
from edgekit_runtime.errors import AdapterError

_IDENTIFIER: Final = b"TORT"
_FORMAT_VERSION: Final = 1
_MAX_PARAMETERS: Final = 1 << 16
_MAX_DIMENSIONS: Final = 8
_DTYPES: Final = {1: "float32", 10: "float16", 11: "float64", 16: "bfloat16"}
_CODES: Final = {name: code for code, name in _DTYPES.items()}
_ALIGNMENT: Final = 64
_ITEM_BYTES: Final = {"float32": 4, "float16": 2, "float64": 8, "bfloat16": 2}


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterFile:
    """The tensors of one ``.onnx_adapter``.

    Attributes:
        infos: Tensor name to shape and type.
        spans: Tensor name to the place of its bytes in the file.
        data: The file's content.
    """

    infos: Mapping[str, TensorInfo]
    spans: Mapping[str, tuple[int, int]]
    data: bytes

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> "AdapterFile":
        """Read a file's content.

        Raises:
            AdapterError: If it is no well-formed adapter file.
        """
        try:
            infos, spans = _Reader(data).parameters()
        except _MalformedError as err:
            raise AdapterError(
                f"{where} is not an ONNX Runtime adapter file, or damaged",
                problems=[str(err)],
                hint="Convert the adapter again: edgekit bundle add.",
            ) from err
        return cls(infos=infos, spans=spans, data=data)

    def tensor(self, name: str) -> NDArray[Any]:
        """One tensor, without a copy; bfloat16 as uint16."""
        info, (start, size) = self.infos[name], self.spans[name]
        dtype = np.dtype("uint16" if info.dtype == "bfloat16" else info.dtype)
        flat = np.frombuffer(self.data, dtype=dtype, count=size // dtype.itemsize, offset=start)
        return flat.reshape(info.shape)

    def value_problems(self) -> list[str]:
        """Name the tensors that hold NaN or infinity."""
        return [
            f"{name}: holds NaN or infinity"
            for name, info in self.infos.items()
            if info.dtype != "bfloat16" and not np.isfinite(self.tensor(name)).all()
        ]


def adapter_bytes(tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """The content of an ``.onnx_adapter`` with some tensors; the same bytes for the same ones.

    Args:
        tensors: float32 or float16 by name.
    """
    out = _Writer()
    out.place(b"\0\0\0\0" + _IDENTIFIER)
    vtable = out.place(struct.pack("<6H", 12, 20, 4, 8, 12, 16))  # of both tables: four fields
    root = out.table(vtable, "<iiiI", _FORMAT_VERSION, 1, 1, 0)
    out.point(0, root)
    listed = out.place(struct.pack("<I", len(tensors)) + bytes(4 * len(tensors)))
    out.point(root + 16, listed)
    for index, (name, values) in enumerate(tensors.items()):
        table = out.table(vtable, "<IIiI", 0, 0, _CODES[values.dtype.name], 0)
        out.point(listed + 4 + 4 * index, table)
        out.point(table + 4, out.vector(name.encode() + b"\0", len(name.encode()), 4))
        shape = struct.pack(f"<{values.ndim}q", *values.shape)
        out.point(table + 8, out.vector(shape, values.ndim, 8))
        raw = np.ascontiguousarray(values).tobytes()
        out.point(table + 16, out.vector(raw, len(raw), _ALIGNMENT))
    return bytes(out.data)


class _Writer:
    """A FlatBuffer written front to back: what points comes before what it points to."""

    def __init__(self) -> None:
        self.data = bytearray()

    def place(self, part: bytes, alignment: int = 4, before: int = 0) -> int:
        """Append bytes so that what is ``before`` bytes into them is aligned; where they begin."""
        self.data += bytes(-(len(self.data) + before) % alignment)
        self.data += part
        return len(self.data) - len(part)

    def table(self, vtable: int, fields: str, *values: int) -> int:
        """Append a table of four fields of four bytes."""
        at = self.place(b"")
        return self.place(struct.pack("<i", at - vtable) + struct.pack(fields, *values))

    def vector(self, items: bytes, count: int, alignment: int) -> int:
        """Append a vector, its items aligned."""
        return self.place(struct.pack("<I", count) + items, alignment, before=4)

    def point(self, at: int, to: int) -> None:
        """Let an offset point to something."""
        struct.pack_into("<I", self.data, at, to - at)


class _MalformedError(Exception):
    """What is wrong with the bytes."""


class _Reader:
    """Bounds-checked access to a FlatBuffer."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def parameters(self) -> tuple[dict[str, TensorInfo], dict[str, tuple[int, int]]]:
        """Every parameter's description and place."""
        if len(self.data) < 8 or self.data[4:8] != _IDENTIFIER:
            raise _MalformedError(f"expected identifier TORT, got {self.data[4:8]!r}")
        root = self._fields(self._unpack("<I", 0))
        version = self._unpack("<i", root[0]) if root[0:1] and root[0] else 0
        if version != _FORMAT_VERSION:
            raise _MalformedError(f"expected format version {_FORMAT_VERSION}, got {version}")
        if len(root) < 4 or not root[3]:
            return {}, {}
        start, n_parameters = self._vector(root[3], item_bytes=4)
        if n_parameters > _MAX_PARAMETERS:
            raise _MalformedError(f"claims {n_parameters} tensors")
        infos: dict[str, TensorInfo] = {}
        spans: dict[str, tuple[int, int]] = {}
        for index in range(n_parameters):
            at = start + 4 * index
            name, info, span = self._parameter(at + self._unpack("<I", at))
            if name in infos:
                raise _MalformedError(f"holds {name!r} twice")
            infos[name], spans[name] = info, span
        return infos, spans

    def _parameter(self, table: int) -> tuple[str, TensorInfo, tuple[int, int]]:
        fields = self._fields(table)
        if len(fields) < 4 or not all(fields[:4]):
            raise _MalformedError(f"the tensor at byte {table} lacks a field")
        start, size = self._vector(fields[0], item_bytes=1)
        try:
            name = self.data[start : start + size].decode()
        except UnicodeDecodeError as err:
            raise _MalformedError(f"the tensor name at byte {start} is no UTF-8") from err
        start, n_dims = self._vector(fields[1], item_bytes=8)
        if n_dims > _MAX_DIMENSIONS:
            raise _MalformedError(f"{name}: claims {n_dims} dimensions")
        shape = struct.unpack_from(f"<{n_dims}q", self.data, start)
        code = self._unpack("<i", fields[2])
        if code not in _DTYPES:
            raise _MalformedError(f"{name}: has ONNX type {code}, which no adapter uses")
        dtype = _DTYPES[code]
        start, size = self._vector(fields[3], item_bytes=1)
        if min(shape, default=0) < 0 or math.prod(shape) * _ITEM_BYTES[dtype] != size:
            raise _MalformedError(f"{name}: shape {shape} of {dtype} does not fit {size} bytes")
        return name, TensorInfo(shape=shape, dtype=dtype), (start, size)

    def _unpack(self, kind: str, at: int) -> int:
        if not 0 <= at <= len(self.data) - struct.calcsize(kind):
            raise _MalformedError(f"points to byte {at} of {len(self.data)}")
        return int(struct.unpack_from(kind, self.data, at)[0])

    def _fields(self, table: int) -> list[int]:
        """Absolute positions of a table's fields; 0 for an absent one."""
        vtable = table - self._unpack("<i", table)
        n_fields = max(0, self._unpack("<H", vtable) - 4) // 2
        offsets = [self._unpack("<H", vtable + 4 + 2 * index) for index in range(n_fields)]
        return [table + offset if offset else 0 for offset in offsets]

    def _vector(self, at: int, *, item_bytes: int) -> tuple[int, int]:
        """Where a vector's items start and how many there are."""
        vector = at + self._unpack("<I", at)
        count = self._unpack("<I", vector)
        if vector + 4 + count * item_bytes > len(self.data):
            raise _MalformedError(f"a list at byte {vector} runs over the end of the file")
        return vector + 4, count
