"""What can be wrong with an ONNX model that somebody else built, said before any work is done."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from edgekit.building.passes import head_matmul
from edgekit.building.sockets import find_sockets, is_layer_matmul
from edgekit.errors import BuildError

CONFIG_FILE = "genai_config.json"
DTYPES = {ir.DataType.FLOAT: "float32", ir.DataType.FLOAT16: "float16"}
_SIZES = ("head_size", "hidden_size", "num_hidden_layers", "num_key_value_heads")


def decoder_of(config: Mapping[str, Any] | None) -> dict[str, Any]:
    """``model.decoder`` of genai's configuration, or nothing."""
    model = (config or {}).get("model")
    decoder = model.get("decoder") if isinstance(model, dict) else None
    return decoder if isinstance(decoder, dict) else {}


def config_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """What the configuration lacks, or has too much of."""
    model, decoder = config.get("model"), decoder_of(config)
    if not isinstance(model, dict) or not decoder:
        yield f"{CONFIG_FILE}: no model.decoder"
        return
    others = [key for key, part in model.items() if isinstance(part, dict) and "filename" in part]
    if len(others) > 1 or "pipeline" in decoder:
        parts = others if len(others) > 1 else ["decoder.pipeline"]
        yield f"{CONFIG_FILE}: several models ({', '.join(parts)}), expected one decoder"
    for key in _SIZES:
        if not isinstance(decoder.get(key), int):
            yield f"{CONFIG_FILE}: model.decoder.{key}: expected a count, got {decoder.get(key)!r}"
    for key in ("context_length", "vocab_size"):
        if not isinstance(model.get(key), int):
            yield f"{CONFIG_FILE}: model.{key}: expected a count, got {model.get(key)!r}"
    for where, value in (
        ("type", model.get("type")),
        ("decoder.filename", decoder.get("filename")),
    ):
        if not isinstance(value, str) or not value or Path(value).name != value:
            yield f"{CONFIG_FILE}: model.{where}: expected a name, got {value!r}"
    if not isinstance(config.get("search"), dict):
        yield f"{CONFIG_FILE}: no search"


_LONGEST_PATH = 1024


def load_decoder(path: Path, problems: list[str]) -> ir.Model | None:
    """The graph, or None and a problem."""
    try:
        if path.is_file():
            return ir.load(path)
        problems.append(f"no {path.name}, which {CONFIG_FILE} names")
    except Exception as err:  # protobuf's, onnx_ir's own, and what a strange graph leads these to
        reason = next(iter(str(err).splitlines()), type(err).__name__)
        problems.append(f"{path.name:.200} cannot be read: {reason:.200}")
    return None


def external_files(model: ir.Model) -> dict[str, int]:
    """Location of each file of external data, and the bytes that it needs to have."""
    files: dict[str, int] = {}
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor):
            end = (tensor.offset or 0) + (tensor.length or tensor.nbytes)
            files[str(tensor.location)] = max(files.get(str(tensor.location), 0), end)
    return files


def data_problems(model: ir.Model, directory: Path) -> list[str]:
    """External data that is missing, cut short, or outside of the folder."""
    problems = []
    for location, size in sorted(external_files(model).items()):
        path = directory / location
        if not location.isprintable() or len(location) > _LONGEST_PATH:
            problems.append(f"external data {location[:80]!r}: this is no path")
        elif not path.resolve().is_relative_to(directory):
            problems.append(f"external data '{location}' lies outside of the folder")
        elif not path.is_file():
            problems.append(f"external data '{location}' is missing")
        elif path.stat().st_size < size:
            got = path.stat().st_size
            problems.append(f"external data '{location}': expected {size} bytes, got {got}")
    return problems


def graph_problems(model: ir.Model) -> Iterator[str]:
    """What keeps sockets out of a graph, or keeps the gate from computing it."""
    inputs = {str(value.name): value for value in model.graph.inputs}
    if "input_ids" not in inputs:
        yield f"the graph takes {', '.join(list(inputs)[:3])} and no input_ids"
    if sockets := [name for name in inputs if "lora" in name.lower()]:
        yield (
            f"the graph has {len(sockets)} inputs for adapters already ({sockets[0]}): have it "
            "built without an adapter, edgekit puts its own sockets in"
        )
    caches = {value.dtype for name, value in inputs.items() if name.startswith("past_key_values.")}
    if not caches or not caches <= set(DTYPES):
        kinds = ", ".join(sorted(str(kind) for kind in caches)) or "none"
        yield f"past_key_values: expected float32 or float16, got {kinds}"
    try:
        head = head_matmul(model)
    except BuildError as err:
        head = None
        yield err.what
    if head is not None and _is_pruned(head):
        yield "the head sees the last position only (prune_lm_head), so answers cannot be scored"
    nodes = list(matmuls(model))
    layers = [node for node in nodes if is_layer_matmul(node)]
    if not layers:
        yield _why_no_matmul(model)
        return
    yield from _matmul_problems(layers)
    for node in nodes:
        if node not in layers and node is not head:
            yield f"{node.name}: a quantized matmul that is in no known place of a decoder layer"
    try:
        find_sockets(model, max_rank=1, dtype="float32")
    except BuildError as err:
        yield err.what


def _matmul_problems(layers: Iterable[ir.Node]) -> Iterator[str]:
    for node in layers:
        if node.inputs[2] is None or node.inputs[2].dtype not in DTYPES:
            kind = node.inputs[2].dtype if node.inputs[2] is not None else None
            yield f"{node.name}: scales: expected float32 or float16, got {kind}"
        if has_input(node, 4):
            yield f"{node.name}: has a g_idx (weights in another order), which is not read back"
        if any(number_of(node, key, 0) for key in ("weight_prepacked", "prepacked")):
            yield f"{node.name}: its weights are packed for one kind of GPU and not read back"
        if (bits := number_of(node, "bits", 4)) not in {4, 8}:
            yield f"{node.name}: {bits}-bit weights cannot be read back; 4 and 8 can"


def _why_no_matmul(model: ir.Model) -> str:
    kinds = [node.op_type for node in model.graph]
    if "DequantizeLinear" in kinds:
        return (
            "the weights are DequantizeLinear nodes (use_qdq), which a matmul reads like any "
            "float: sockets go beside MatMulNBits, so have it built with use_qdq=false"
        )
    return (
        "no MatMulNBits node in a decoder layer (names like /model/layers.0/attn/q_proj/MatMul "
        f"are read); its matmuls are {kinds.count('MatMul')} of float weights"
    )


def _is_pruned(head: ir.Node) -> bool:
    """Whether only the last row of the hidden states reaches the head."""
    shape = head.outputs[0].shape
    if shape is not None and len(shape) == 3 and shape[1] == 1:
        return True
    producer = head.inputs[0].producer() if head.inputs[0] is not None else None
    return producer is not None and producer.op_type in {"Gather", "Slice", "Unsqueeze"}


def matmuls(model: ir.Model) -> Iterator[ir.Node]:
    """Every quantized matmul."""
    return (node for node in model.graph if node.op_type == "MatMulNBits")


def has_input(node: ir.Node, index: int) -> bool:
    """Whether an optional input is there."""
    return index < len(node.inputs) and node.inputs[index] is not None


def number_of(node: ir.Node, name: str, default: int) -> int:
    """A whole number among a node's attributes."""
    return node.attributes[name].as_int() if name in node.attributes else default
