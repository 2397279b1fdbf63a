"""Small graph passes on a built decoder."""

import numpy as np
import onnx_ir as ir

from edgekit.errors import BuildError

_LAST = "/lm_head/last/Slice"


def keep_last_logits(model: ir.Model) -> None:
    """Compute logits of the last position only, in place.

    A Slice before the head drops the other positions: during prefill the head is by far the
    largest matmul, and only the last row is sampled from.
    """
    graph = model.graph
    head = head_matmul(model)
    bounds = [
        _constant(graph, name, value)
        for name, value in (
            ("last.starts", -1),
            ("last.ends", np.iinfo(np.int64).max),
            ("last.axes", 1),
        )
    ]
    hidden = head.inputs[0]
    last = ir.Node("", "Slice", [hidden, *bounds], name=_LAST)
    last.outputs[0].name = "/lm_head/last/output_0"
    graph.insert_before(head, last)
    head.replace_input_with(0, last.outputs[0])
    _set_sequence_length_to_one(head.outputs[0])


def keep_all_logits(model: ir.Model) -> None:
    """Undo :func:`keep_last_logits`, in place."""
    head = head_matmul(model)
    last = head.inputs[0].producer() if head.inputs[0] is not None else None
    if last is not None and last.name == _LAST:
        head.replace_input_with(0, last.inputs[0])


def set_accuracy_level(model: ir.Model, level: int) -> None:
    """Set the compute precision of every MatMulNBits node, in place; 1 is float32."""
    for node in model.graph:
        if node.op_type == "MatMulNBits":
            node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", level)


def has_float32_norms(model: ir.Model) -> bool:
    """Whether the weights of norms are float32, as the builder leaves Gemma 2's and 3's."""
    return any(
        "norm" in name and value.dtype == ir.DataType.FLOAT
        for name, value in model.graph.initializers.items()
    )


def widen_to_float32(model: ir.Model) -> None:
    """Make float32 of everything that is float16, in place: values, weights, casts.

    Every float16 number is a float32 number, so the weights stay what they are and only the
    compute becomes more precise.
    """
    _widen_graph(model.graph)


def _widen_graph(graph: ir.Graph) -> None:
    for value in (*graph.inputs, *graph.initializers.values()):
        _widen_value(value)
    for node in graph:
        for value in node.outputs:
            _widen_value(value)
        for name, attribute in list(node.attributes.items()):
            if node.op_type == "Cast" and attribute.as_int() == ir.DataType.FLOAT16:
                node.attributes[name] = ir.AttrInt64(name, ir.DataType.FLOAT)
            elif attribute.type == ir.AttributeType.GRAPH:
                _widen_graph(attribute.as_graph())  # the branches of an If
            elif attribute.type == ir.AttributeType.TENSOR:
                tensor = attribute.as_tensor()
                if tensor.dtype == ir.DataType.FLOAT16:
                    wide = ir.tensor(tensor.numpy().astype(np.float32), name=tensor.name)
                    node.attributes[name] = ir.AttrTensor(name, wide)


def _widen_value(value: ir.Value) -> None:
    if value.dtype == ir.DataType.FLOAT16:
        value.dtype = ir.DataType.FLOAT
    tensor = value.const_value
    if tensor is not None and tensor.dtype == ir.DataType.FLOAT16:
        value.const_value = ir.tensor(tensor.numpy().astype(np.float32), name=tensor.name)


def keep_whole_cache(model: ir.Model) -> None:
    """Give sliding-window layers (Gemma 2) a plain key-value cache, in place.

    The builder lets such a layer keep a ring of one window. A ring cannot be rewound once it
    has wrapped, which a session does at every turn; the window itself (``local_window_size``)
    stays.
    """
    for node in model.graph:
        if node.op_type == "GroupQueryAttention":
            node.attributes.pop("sliding_window_cache", None)


def head_matmul(model: ir.Model) -> ir.Node:
    """The matmul that makes the logits, found by walking back from the output."""
    value = next((out for out in model.graph.outputs if out.name == "logits"), None)
    while value is not None and (node := value.producer()) is not None:
        if node.op_type in {"MatMulNBits", "MatMul"}:
            return node
        value = node.inputs[0]
    raise BuildError("the graph has no matmul that makes an output named 'logits'")


def _set_sequence_length_to_one(value: ir.Value) -> None:
    """Correct the shapes from the head to the output: (batch, 1, vocabulary)."""
    if value.shape is not None and len(value.shape) == 3:
        value.shape = ir.Shape([value.shape[0], 1, value.shape[2]])
    for user, _ in tuple(value.uses()):
        _set_sequence_length_to_one(user.outputs[0])


def _constant(graph: ir.Graph, name: str, value: int) -> ir.Value:
    tensor = ir.tensor(np.array([value], np.int64), name=name)
    initializer = ir.Value(
        name=name, shape=ir.Shape([1]), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(initializer)
    return initializer
