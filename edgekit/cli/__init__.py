"""The command ``edgekit``."""

import os
from collections.abc import Sequence
from typing import Any

from edgekit_runtime.cli import run_app


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``edgekit`` and return its exit code: 0 ok, 1 failed, 2 usage, 130 Ctrl-C."""
    # Read by OpenMP when torch is first imported. Its threads spin for milliseconds while they
    # wait, which on a busy machine makes every step many times slower; asleep at once, a quiet
    # machine is idle for a third of the time. Some microseconds are good for both.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")

    def load() -> Any:
        from edgekit.cli.commands import app

        return app

    return run_app(load, "edgekit", argv)
