r"""The light runtime: opens a bundle, loads the base once, swaps adapters per request.

Example:
    >>> from edgekit_runtime import Bundle
    >>> with Bundle.open("support-assistant").engine() as engine:
    ...     print(engine.generate("Query: my card is lost\nIntent:", adapter="banking"))
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

# onnxruntime-genai's wheels report usage unless this is set before their import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

__version__ = "0.1.0"

if TYPE_CHECKING:
    from edgekit_runtime.adapters import AdapterStatus
    from edgekit_runtime.bundle import Bundle
    from edgekit_runtime.card import AdapterCard
    from edgekit_runtime.classifying import Classification
    from edgekit_runtime.engine import Engine
    from edgekit_runtime.errors import (
        AdapterError,
        BundleError,
        ContextLengthError,
        EdgekitRuntimeError,
        GenerationError,
        GraphError,
        ServeError,
        TargetError,
    )
    from edgekit_runtime.generation import Generation, GenerationStream, Timings, Usage
    from edgekit_runtime.routing import Route, Router
    from edgekit_runtime.scoring import Score
    from edgekit_runtime.session import Session, SessionStats

_HOMES = {
    "AdapterCard": "card",
    "AdapterError": "errors",
    "AdapterStatus": "adapters",
    "Bundle": "bundle",
    "BundleError": "errors",
    "Classification": "classifying",
    "ContextLengthError": "errors",
    "EdgekitRuntimeError": "errors",
    "Engine": "engine",
    "Generation": "generation",
    "GenerationError": "errors",
    "GenerationStream": "generation",
    "GraphError": "errors",
    "Route": "routing",
    "Router": "routing",
    "Score": "scoring",
    "ServeError": "errors",
    "Session": "session",
    "SessionStats": "session",
    "TargetError": "errors",
    "Timings": "generation",
    "Usage": "generation",
}

__all__ = [
    "AdapterCard",
    "AdapterError",
    "AdapterStatus",
    "Bundle",
    "BundleError",
    "Classification",
    "ContextLengthError",
    "EdgekitRuntimeError",
    "Engine",
    "Generation",
    "GenerationError",
    "GenerationStream",
    "GraphError",
    "Route",
    "Router",
    "Score",
    "ServeError",
    "Session",
    "SessionStats",
    "TargetError",
    "Timings",
    "Usage",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use, so that importing costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
