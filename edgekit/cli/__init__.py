"""The command ``edgekit``."""

from collections.abc import Sequence
from typing import Any

from edgekit_runtime.cli import run_app


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``edgekit`` and return its exit code: 0 ok, 1 failed, 2 usage, 130 Ctrl-C."""

    def load() -> Any:
        from edgekit.cli.commands import app

        return app

    return run_app(load, "edgekit", argv)
