"""Passes over a static graph: defaults for its LoRA inputs, and its twin with float32 compute."""

from pathlib import Path

import numpy as np

from edgekit.building.qnn.weight_file import WeightFile
from edgekit_runtime.contract import LORA_A, LORA_B

ZEROS_FILE = "zeros.data"


def give_defaults(graph: Path, to: Path) -> None:
    """Write a graph whose LoRA inputs are zero unless an adapter is active.

    All the zeros lie in one place of one small file beside it. Before compiling this must not
    be done: the compiler would make constants of them.

    Args:
        graph: With LoRA inputs that must be given.
        to: Where to write; external data and contexts are read from this directory.
    """
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load(graph, load_external_data=False)
    longest = 0
    for value in model.graph.input:
        if not value.name.endswith((f".{LORA_A}", f".{LORA_B}")):
            continue
        kind = value.type.tensor_type
        shape = [dim.dim_value for dim in kind.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        n_bytes = int(np.prod(shape)) * dtype.itemsize
        tensor = TensorProto(
            name=value.name,
            data_type=kind.elem_type,
            dims=shape,
            data_location=TensorProto.EXTERNAL,
        )
        for key, entry in (("location", ZEROS_FILE), ("offset", 0), ("length", n_bytes)):
            tensor.external_data.add(key=key, value=str(entry))
        model.graph.initializer.append(tensor)
        longest = max(longest, n_bytes)
    zeros = to.parent / ZEROS_FILE
    if not zeros.is_file() or zeros.stat().st_size < longest:
        zeros.write_bytes(bytes(longest))
    to.write_bytes(model.SerializeToString(deterministic=True))


def write_float32_twin(graph: Path, to: Path, file: WeightFile) -> None:
    """Write a graph with the same numbers that computes in float32.

    Quantized weights stay in their file, which must lie beside ``to`` as well; float16 values
    become float32 ones in ``file``.
    """
    import onnx
    from onnx import TensorProto, numpy_helper

    model = onnx.load(graph, load_external_data=False)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            values = numpy_helper.to_array(tensor, base_dir=str(graph.parent))
            tensor.CopyFrom(file.tensor(tensor.name, values.astype(np.float32)))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    to.write_bytes(model.SerializeToString(deterministic=True))
