"""What a training loop takes of the machine: processor, GPU, memory."""

import time
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import psutil
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from edgekit_runtime.meters import peak_rss_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What the loop took, since the resume if it was resumed.

    Attributes:
        steps_per_s: Optimizer steps by the loop's seconds, evaluations included.
        cpu_cores: Cores that this process kept busy, on average: its processor time by seconds.
        cpu_count: Cores of the machine.
        peak_rss_bytes: Most memory that the process had held when the loop ended.
        gpu: The GPU's name; None on a CPU, and so are the next two.
        gpu_percent: Mean of the driver's figure after each step: the share of time in which
            some kernel ran. None where nvidia-ml-py is not installed.
        gpu_peak_bytes: Most memory that PyTorch held there.
    """

    steps_per_s: float
    cpu_cores: float
    cpu_count: int
    peak_rss_bytes: int
    gpu: str | None = None
    gpu_percent: float | None = None
    gpu_peak_bytes: int | None = None


class UsageMeter(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Measures from the first step on: processor time by its clock, the GPU after each step."""

    def __init__(self) -> None:
        self._started = self._cpu_s = 0.0
        self._first_step = 0
        self._gpu_percents: list[float] = []
        self._device: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Start the clocks."""
        self._device = args.device
        self._first_step = state.global_step
        if self._device.type == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats(self._device)
        self._started, self._cpu_s = time.perf_counter(), _cpu_seconds()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Ask the GPU's driver."""
        if self._device.type == "cuda" and (percent := _gpu_percent(self._device)) is not None:
            self._gpu_percents.append(percent)

    def measured(self, step: int) -> Usage:
        """Stop the clocks.

        Args:
            step: The last one.
        """
        seconds = time.perf_counter() - self._started
        gpu, gpu_peak = None, None
        if self._device is not None and self._device.type == "cuda":
            import torch

            gpu = torch.cuda.get_device_name(self._device)
            gpu_peak = int(torch.cuda.max_memory_allocated(self._device))
        return Usage(
            steps_per_s=round((step - self._first_step) / seconds, 3),
            cpu_cores=round((_cpu_seconds() - self._cpu_s) / seconds, 2),
            cpu_count=psutil.cpu_count() or 1,
            peak_rss_bytes=peak_rss_bytes(),
            gpu=gpu,
            gpu_percent=round(fmean(self._gpu_percents), 1) if self._gpu_percents else None,
            gpu_peak_bytes=gpu_peak,
        )


def _cpu_seconds() -> float:
    times = psutil.Process().cpu_times()
    return float(times.user + times.system)


def _gpu_percent(device: Any) -> float | None:
    """The driver's figure through nvidia-ml-py; None where that, or the figure, is not there.

    A slice of a GPU (MIG) has none.
    """
    try:
        import pynvml
        import torch

        return float(torch.cuda.utilization(device))
    except ImportError:
        return None
    except (RuntimeError, pynvml.NVMLError):
        return None
