"""``cache``: the caches of the toolkit and of the runtime."""

from collections.abc import Sequence
from pathlib import Path

from edgekit_runtime.cli.cache import cache_app


def _both() -> Sequence[Path]:
    from edgekit.bases import default_cache_dir
    from edgekit_runtime.bundle import default_cache_dir as runtime_cache_dir

    return [default_cache_dir(), runtime_cache_dir()]


app = cache_app(_both)
