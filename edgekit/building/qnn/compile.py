"""Compile static graphs to QNN contexts, offline, into a content-addressed cache."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from filelock import FileLock

from edgekit.building.export import DIGESTS_FILE, digests_of, is_intact
from edgekit.errors import BuildError
from edgekit_runtime.digests import sha256_of_file
from edgekit_runtime.providers import BY_NAME, is_simulated
from edgekit_runtime.static_graph import QNN

QNN_PACKAGE = BY_NAME[QNN].package
_REASON = re.compile(r"Node name: (?P<node>\S+) .*\n\s*REASON : (?P<reason>[^\n]+)")
_ERROR = re.compile(r"\[E:onnxruntime:[^\]]*\] ?(?P<text>[^\n\x1b]+)")


def compile_contexts(
    source: Path,
    graphs: Mapping[str, str],
    provider_options: Mapping[str, str],
    *,
    cache_dir: Path,
    on_message: Callable[[str], None] = lambda _: None,
) -> Path:
    """Compile graphs one by one, each to a context binary of its own.

    Args:
        source: Directory of the graphs, their weights beside them.
        graphs: Name of each context to the file name of its graph.
        provider_options: ``htp_arch`` and ``soc_model`` of the chip.
        cache_dir: The user's cache.
        on_message: Called with a line of progress.

    Returns:
        A directory with ``<name>.onnx``, which holds one EPContext node, and its binary.

    Raises:
        BuildError: If the package is missing, the compiler fails, or nodes would fall back to
            the processor (each with the reason that the compiler gives).
    """
    compiler_version()
    contexts = cache_dir / "contexts"
    contexts.mkdir(parents=True, exist_ok=True)
    target = contexts / _key(source, graphs, provider_options)
    with FileLock(contexts / f"{target.name}.lock"):
        if is_intact(target):
            on_message("compiled contexts found in the cache")
            return target
        shutil.rmtree(target, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=contexts, prefix=f".{target.name}-") as temporary:
            out = Path(temporary) / "contexts"
            out.mkdir()
            for name, graph in graphs.items():
                on_message(f"compiling {name} for the NPU (minutes)")
                _compile(source / graph, out / f"{name}.onnx", provider_options)
            (out / DIGESTS_FILE).write_text(json.dumps(digests_of(out)), encoding="utf-8")
            out.replace(target)
    return target


def compiler_version() -> str:
    """Version of the QNN package.

    Raises:
        BuildError: If it is not installed.
    """
    try:
        return version(QNN_PACKAGE)
    except PackageNotFoundError as err:
        raise BuildError(
            f"a qnn target is compiled by the package {QNN_PACKAGE}, which is not installed",
            hint="pip install 'edgekit[qnn]', on Linux x86-64 or aarch64, or on Windows x64 or "
            "arm64; no SDK is needed. A bundle that is built there runs on the device.",
        ) from err


def qnn_device() -> str:
    """What runs compiled graphs on this machine, and by which library."""
    place = "HTP simulator (x86-64)" if is_simulated(BY_NAME[QNN]) else "NPU"
    return f"{QNN} {place}, {QNN_PACKAGE} {compiler_version()}"


def _compile(graph: Path, context: Path, provider_options: Mapping[str, str]) -> None:
    """Compile one graph in a child process and check what came out."""
    command = [
        *(sys.executable, "-m", "edgekit.building.qnn.compile_child"),
        *(
            os.fspath(graph.resolve()),
            os.fspath(context.resolve()),
            json.dumps(dict(provider_options)),
        ),
    ]
    environment = os.environ | {"ORT_DISABLE_TELEMETRY": "1"}
    with tempfile.TemporaryFile() as log:  # as long as the graph is large
        done = subprocess.run(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment, check=False
        )
        log.seek(0)
        said = log.read().decode(errors="replace")
    if done.returncode != 0 or not context.is_file():
        raise BuildError(
            f"the QNN compiler failed on {graph.name} ({_exit(done.returncode)})",
            problems=_last_errors(said),
            hint=f"It was asked for {json.dumps(dict(provider_options))}: check htp_arch and "
            "soc_model in the profile against the chip; both must be known to the compiler.",
        )
    if wrong := other_chip(context, provider_options):
        raise BuildError(
            f"the QNN compiler does not know the chip of {graph.name}",
            problems=wrong,
            hint="Qualcomm's QNN SDK lists its chips under 'Supported Snapdragon devices'; "
            "targets/qnn.yaml names some.",
        )
    if left := fallen_back(context, said):
        raise BuildError(
            f"{len(left)} nodes of {graph.name} would run on the processor, not on the NPU",
            problems=left,
            hint="Write them with operators that the NPU has (edgekit/building/qnn/graph.py), "
            "or ask for a newer htp_arch.",
        )


def other_chip(context: Path, provider_options: Mapping[str, str]) -> list[str]:
    """For what chip a graph was compiled, where it is not the one that was asked for.

    The compiler takes an unknown one in silence, and compiles for any.

    Source: the provider's own note in the context, ``v2:…:<htp_arch>:<soc_model>:…``.
    """
    import onnx

    notes = onnx.load(context, load_external_data=False).metadata_props
    note = next((n.value for n in notes if n.key.startswith("ep_compatibility_info.")), "")
    got = dict(zip(("htp_arch", "soc_model"), note.split(":")[4:6], strict=False))
    return [
        f"{key}: asked for {asked}, the context is for {got.get(key, 'none')}"
        for key in ("htp_arch", "soc_model")
        if (asked := provider_options.get(key, "missing")) != got.get(key)
    ]


def fallen_back(context: Path, log: str) -> list[str]:
    """What a compiled graph leaves to other providers; empty if it is one EPContext node.

    Args:
        context: The compiled ONNX file.
        log: What the compiler said, at its most talkative.
    """
    import onnx

    nodes = onnx.load(context, load_external_data=False).graph.node
    reasons = {match["node"]: match["reason"] for match in _REASON.finditer(log)}
    left = [node for node in nodes if node.op_type != "EPContext"]
    lines = [
        f"{node.name}: {node.op_type}: {reasons.get(node.name, 'the compiler gives no reason')}"
        for node in left
    ]
    n_contexts = len(nodes) - len(left)
    if not left and n_contexts != 1:
        lines = [f"expected one EPContext node, got {n_contexts}"]
    return lines


def _last_errors(log: str) -> list[str]:
    lines = [match["text"].strip() for match in _ERROR.finditer(log)]
    lines = lines or [line.strip() for line in log.splitlines() if line.strip()]
    return list(dict.fromkeys(lines))[-6:]


def _exit(code: int) -> str:
    return f"crashed: {signal.Signals(-code).name}" if code < 0 else f"exit {code}"


def _key(source: Path, graphs: Mapping[str, str], provider_options: Mapping[str, str]) -> str:
    facts = {
        "graphs": dict(graphs),
        "files": {file.name: sha256_of_file(file) for file in _read_by(source, graphs.values())},
        "options": dict(provider_options),
        "versions": [version("onnxruntime"), compiler_version()],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


def _read_by(source: Path, graphs: Iterable[str]) -> list[Path]:
    """The graphs and the weight files that they name."""
    import onnx

    files: dict[str, None] = {}
    for graph in graphs:
        files[graph] = None
        model = onnx.load(source / graph, load_external_data=False)
        for tensor in model.graph.initializer:
            files |= {
                entry.value: None for entry in tensor.external_data if entry.key == "location"
            }
    return [source / name for name in files]
