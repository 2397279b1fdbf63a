"""Nodes, values and constants of a float16 graph under construction."""

from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.building.qnn.weight_file import WeightFile
from edgekit.errors import BuildError

OPSET = 23
# Smaller constants lie in the graph itself, where compilers look for shapes.
_SMALL_BYTES = 64


class GraphWriter:
    """Collects what a graph consists of; every method returns the name of what it adds.

    Args:
        file: Where weights are stored.
    """

    def __init__(self, file: WeightFile) -> None:
        self._file = file
        self._nodes: list[Any] = []
        self._inputs: dict[str, Any] = {}
        self._outputs: list[Any] = []
        self._initializers: dict[str, Any] = {}

    def _finished(self, name: str) -> Any:
        """The ONNX model of what was collected."""
        from onnx import helper

        graph = helper.make_graph(
            self._nodes,
            name,
            list(self._inputs.values()),
            self._outputs,
            list(self._initializers.values()),
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def _split(self, x: str, sizes: list[int], path: str) -> list[str]:
        from onnx import helper

        names = [f"{path}/output_{index}" for index in range(len(sizes))]
        shape = self._stored("split." + ".".join(map(str, sizes)), np.array(sizes, np.int64))
        self._nodes.append(helper.make_node("Split", [x, shape], names, name=path, axis=-1))
        return names

    def _reshape(self, x: str, shape: tuple[int, ...], path: str) -> str:
        target = self._stored("shape." + ".".join(map(str, shape)), np.array(shape, np.int64))
        return self._node("Reshape", [x, target], path)

    def _node(self, kind: str, inputs: list[str], path: str, output: str = "", **more: Any) -> str:
        from onnx import helper

        output = output or f"{path}/output_0"
        self._nodes.append(helper.make_node(kind, inputs, [output], name=path, **more))
        return output

    def _scalar(self, value: float) -> str:
        return self._float(f"scalar.{value!r}", np.array(value))

    def _float(self, name: str, array: npt.NDArray[Any]) -> str:
        """A constant in float16; what does not fit is refused."""
        half = array.astype(np.float16)
        if not np.isfinite(half).all():
            raise BuildError(f"{name}: holds values that float16 does not, which this target needs")
        return self._stored(name, half)

    def _stored(self, name: str, array: npt.NDArray[Any]) -> str:
        """An initializer, written once."""
        from onnx import numpy_helper

        if name not in self._initializers:
            self._initializers[name] = (
                numpy_helper.from_array(np.asarray(array), name)
                if array.nbytes <= _SMALL_BYTES
                else self._file.tensor(name, array)
            )
        return name

    def _input(self, name: str, shape: tuple[int, ...]) -> str:
        if name not in self._inputs:
            self._inputs[name] = _value(name, shape)
        return name

    def _output(self, name: str, shape: tuple[int, ...]) -> None:
        self._outputs.append(_value(name, shape))


def _value(name: str, shape: tuple[int, ...]) -> Any:
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, TensorProto.FLOAT16, shape)
