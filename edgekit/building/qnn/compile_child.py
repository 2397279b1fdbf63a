"""Compile one graph to a QNN context binary; a program of its own, since the compiler may crash.

Usage: python -m edgekit.building.qnn.compile_child GRAPH CONTEXT PROVIDER_OPTIONS_AS_JSON

Source: ONNX Runtime's EPContext design (``ep.context_*`` session options); the QNN execution
provider's documentation.
"""

import json
import os
import sys
from pathlib import Path


def main() -> None:
    """Write ``CONTEXT`` (ONNX) and the binary beside it; what ONNX Runtime says goes to stderr."""
    import onnxruntime

    from edgekit_runtime.static_graph import add_qnn

    graph, context, provider_options = sys.argv[1:4]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 0  # says why a node is not taken
    for key, value in (
        ("ep.context_enable", "1"),
        ("ep.context_file_path", context),
        ("ep.context_embed_mode", "0"),
    ):
        options.add_session_config_entry(key, value)
    # The path by which a graph is loaded goes into the names inside the binary.
    os.chdir(Path(graph).parent)
    add_qnn(options, json.loads(provider_options))
    onnxruntime.InferenceSession(Path(graph).name, options)


if __name__ == "__main__":
    main()
