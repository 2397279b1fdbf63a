"""edgekit: one small language model, many skills, every device.

The functions behind the commands, imported on first use so that ``import edgekit`` stays light.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit.bases import resolve_base
    from edgekit.building.build import build
    from edgekit.evaluating.evaluate import evaluate
    from edgekit.training.train import train

__version__ = "0.1.0"
__all__ = ["__version__", "build", "evaluate", "resolve_base", "train"]

_HOMES = {
    "resolve_base": "edgekit.bases",
    "train": "edgekit.training.train",
    "build": "edgekit.building.build",
    "evaluate": "edgekit.evaluating.evaluate",
}


def __getattr__(name: str) -> Any:
    """Import a public function on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'edgekit' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
