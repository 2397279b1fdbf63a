"""An int4 ONNX model that somebody else built, as the base of a bundle.

It is a folder as onnxruntime-genai reads it: ``genai_config.json``, one decoder graph whose linear
layers are MatMulNBits nodes, its external data, and the tokenizer. Nothing here needs torch.

Source: ONNX external data; onnxruntime-genai's config; contrib operator MatMulNBits.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import onnx_ir as ir

from edgekit.adapters.peft_dir import base_linear_shapes
from edgekit.bases import ONNX_SOURCE, Base, license_of, read_object
from edgekit.building.prebuilt_checks import (
    CONFIG_FILE,
    DTYPES,
    config_problems,
    data_problems,
    decoder_of,
    external_files,
    graph_problems,
    has_input,
    load_decoder,
    matmuls,
    number_of,
)
from edgekit.building.sockets import find_sockets, is_layer_matmul
from edgekit.errors import BaseModelError, BuildError
from edgekit.targets import TargetProfile
from edgekit_runtime.digests import sha256_of_file

# Where Olive puts the model in its output folder.
_OLIVE = "model"
_WAYS_OUT = (
    "Name the folder that onnxruntime-genai loads: one decoder with int4 weights (MatMulNBits), "
    "its data files and tokenizer beside it. Or build from the model's own weights with --base."
)


def resolve_prebuilt(directory: Path) -> Base:
    """Check somebody's ONNX model and describe it as a base.

    Args:
        directory: What onnxruntime-genai loads, or the folder that Olive wrote it in.

    Raises:
        BaseModelError: With every problem.
    """
    if not directory.is_dir():
        raise BaseModelError(f"there is no folder '{directory}'", hint=_WAYS_OUT)
    directory = directory.resolve()
    name = directory.name
    if not (directory / CONFIG_FILE).is_file() and (directory / _OLIVE / CONFIG_FILE).is_file():
        directory /= _OLIVE
    problems: list[str] = []
    config = read_object(directory / CONFIG_FILE, problems)
    if not (directory / "tokenizer.json").is_file():
        problems.append("no tokenizer.json")
    if config is not None:
        problems += config_problems(config)
    model = None if problems else load_decoder(directory / decoder_of(config)["filename"], problems)
    if model is not None:
        try:
            problems += data_problems(model, directory) or graph_problems(model)
        except Exception as err:  # names that are no text, nodes without their inputs, and so on
            problems.append(f"the graph is malformed: {str(err) or type(err).__name__:.200}")
    if problems or config is None or model is None:
        raise BaseModelError(
            f"the ONNX model in '{directory}' cannot be used", problems=problems, hint=_WAYS_OUT
        )
    return Base(
        name=name,
        source=f"{ONNX_SOURCE}{name}",
        path=directory,
        fingerprint=_fingerprint(directory),
        architecture=str(config["model"]["type"]),
        license=license_of(directory),
    )


def decoder_graph(directory: Path) -> Path:
    """The decoder's graph file in a folder that onnxruntime-genai loads."""
    return directory / str(decoder_config(directory)["filename"])


def decoder_config(directory: Path) -> dict[str, Any]:
    """``model.decoder`` of a folder's genai configuration."""
    config = json.loads((directory / CONFIG_FILE).read_text(encoding="utf-8"))
    return decoder_of(config)


def graph_files(directory: Path) -> list[Path]:
    """The decoder's graph file and its files of external data, sorted by name."""
    graph = decoder_graph(directory)
    names = {graph.name, *external_files(ir.load(graph))}
    return [directory / name for name in sorted(names)]


def linear_shapes(base: Base) -> dict[str, tuple[int, int]]:
    """Shapes (out, in) of a base's decoder linears by PEFT's module path."""
    if not base.is_prebuilt:
        return base_linear_shapes(base.path)
    model = ir.load(decoder_graph(base.path))
    contract = find_sockets(model, max_rank=1, dtype="float32", prefused=base.is_prefused)
    shapes: dict[str, tuple[int, int]] = {}
    for socket in contract.sockets:
        for part in socket.parts:
            known, _ = shapes.get(part.module, (0, 0))
            shapes[part.module] = (max(known, part.start + part.n), socket.k)
    return shapes


def profile_of(base: Base, profile: TargetProfile) -> TargetProfile:
    """A target profile whose adapters have the type of this model's activations.

    Raises:
        BuildError: If the profile bounds what quantization may cost, which cannot be known, or
            takes other graphs than the model has.
    """
    if profile.adapters.mechanism != "ort_inputs":
        raise BuildError(
            f"target '{profile.name}' takes graphs of fixed shapes ({profile.adapters.mechanism}), "
            f"which edgekit writes from float weights, and '{base.name}' came as int4",
            hint="Leave the target out, or build from the model's own weights with --base.",
        )
    if profile.parity.max_nll_increase is not None:
        raise BuildError(
            f"target '{profile.name}' bounds what quantization costs (max_nll_increase), and that "
            f"cannot be measured: '{base.name}' came as int4, without the float model",
            hint="Leave the bound out, or build from the model's own weights with --base.",
        )
    layers = (node for node in _matmuls(base) if is_layer_matmul(node))
    return profile.model_copy(update={"io_dtype": _dtype(next(layers))})


def quantization_of(base: Base) -> dict[str, str]:
    """How a prebuilt model is quantized, read from its graph; several values by comma."""
    nodes = list(_matmuls(base))
    layers = [node for node in nodes if is_layer_matmul(node)]
    others = [node for node in nodes if not is_layer_matmul(node)]
    return {
        "algorithm": "prebuilt",
        "bits": _all(number_of(node, "bits", 4) for node in layers),
        "head_bits": _all(number_of(node, "bits", 4) for node in others) or "float",
        "block_size": _all(number_of(node, "block_size", 32) for node in layers),
        "is_symmetric": _all("false" if has_input(node, 3) else "true" for node in layers),
        "accuracy_level": _all(number_of(node, "accuracy_level", 0) for node in layers),
    }


def context_limits(base: Base) -> list[int]:
    """Tokens that a prebuilt model takes: its own limit, and where longrope changes its factors."""
    config = json.loads((base.path / CONFIG_FILE).read_text(encoding="utf-8"))
    model = ir.load(decoder_graph(base.path))
    limits = [int(config["model"]["context_length"])]
    for node in model.graph:
        if node.op_type == "If" and (condition := node.inputs[0]) is not None:
            limits += list(_compared_with(condition))
    return limits


def _compared_with(condition: ir.Value) -> Iterator[int]:
    """The constant of ``Greater(length, constant)``, on which rotary tables are chosen."""
    node = condition.producer()
    if node is not None and node.op_type in {"Greater", "GreaterOrEqual"}:
        limit = node.inputs[1]
        if limit is not None and (value := ir.convenience.get_const_tensor(limit)) is not None:
            yield int(value.numpy().reshape(-1)[0])


def _fingerprint(directory: Path) -> str:
    """Hash of the graph file and its data files, by a sorted list of ``<sha256> <name>`` lines."""
    lines = [
        f"{sha256_of_file(path)} {path.relative_to(directory).as_posix()}"
        for path in graph_files(directory)
    ]
    return "sha256:" + hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _dtype(node: ir.Node) -> str:
    scales = node.inputs[2]
    assert scales is not None and scales.dtype is not None  # _matmul_problems saw to it
    return DTYPES[scales.dtype]


def _matmuls(base: Base) -> list[ir.Node]:
    return list(matmuls(ir.load(decoder_graph(base.path))))


def _all(values: Iterable[object]) -> str:
    """Every value that occurs, once, by comma."""
    return ",".join(dict.fromkeys(str(value) for value in values))
