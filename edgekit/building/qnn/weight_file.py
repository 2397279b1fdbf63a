"""One file of weights under several graphs."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

# A page: what is mapped into memory starts on one.
_ALIGNMENT_BYTES = 4096


class WeightFile:
    """Writes each weight once, whichever graph asks first.

    Args:
        path: The file, beside the graphs.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[str, tuple[int, int]] = {}
        self._file = path.open("wb")

    def tensor(self, name: str, array: npt.NDArray[np.generic], stored_as: str = "") -> Any:
        """An ONNX tensor that lies in the file.

        Args:
            name: The initializer's name.
            array: Its values; written on the first call for ``stored_as``.
            stored_as: The weight's name in the file, where two initializers share one.
        """
        from onnx import TensorProto, helper

        key = stored_as or name
        if key not in self._places:
            self._file.write(b"\0" * (-self._file.tell() % _ALIGNMENT_BYTES))
            offset = self._file.tell()
            self._file.write(np.ascontiguousarray(array).tobytes())
            self._places[key] = (offset, array.nbytes)
        offset, length = self._places[key]
        tensor = TensorProto(
            name=name,
            data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
            dims=array.shape,
            data_location=TensorProto.EXTERNAL,
        )
        for entry, value in (("location", self.path.name), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=entry, value=str(value))
        return tensor

    def close(self) -> None:
        """Finish the file."""
        self._file.close()
