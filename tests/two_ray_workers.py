"""Ray on this machine with room for two tasks, however many cores it has."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# A loss that ends its process in the middle of a run, as the system does where memory runs out:
# once, or always where there is a file `always`; never in the process whose number is in `spared`.
KILLING_LOSS = """
import os, signal
from pathlib import Path
from edgekit.training.losses import completion_loss

HERE = Path(__file__).parent

class Loss:
    calls = 0

    def __call__(self, model, batch, outputs):
        self.calls += 1
        is_spared = str(os.getpid()) == (HERE / "spared").read_text()
        if self.calls == 5 and not is_spared and not (HERE / "killed").exists():
            if not (HERE / "always").exists():
                (HERE / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return completion_loss(batch, outputs)
"""


def write_killing_loss(folder: Path) -> str:
    """Write it; returns what a recipe's ``loss`` says."""
    (folder / "loss.py").write_text(KILLING_LOSS, encoding="utf-8")
    (folder / "spared").write_text(str(os.getpid()), encoding="utf-8")
    return f"{folder / 'loss.py'}:Loss"


@contextmanager
def two_ray_workers() -> Iterator[None]:
    """Start Ray; tests are skipped where it is not installed."""
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=100 * 1024**2,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        try:
            yield
        finally:
            ray.shutdown()
