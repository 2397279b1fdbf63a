"""Execution providers that come as a plug-in library of their own package."""

import importlib.util
import platform
from functools import cache
from typing import Any, Final

from edgekit_runtime.errors import TargetError

QNN: Final = "QNNExecutionProvider"
QNN_PACKAGE: Final = "onnxruntime-qnn"


def is_qnn_simulated() -> bool:
    """Whether QNN would run on a simulator: on x86-64 there is no NPU that it knows."""
    return platform.machine().lower() in {"x86_64", "amd64"}


def add_qnn(options: Any, provider_options: dict[str, str]) -> None:
    """Make a session run on Qualcomm's NPU, or its simulator on x86-64 Linux.

    Args:
        options: ONNX Runtime's SessionOptions, changed in place.
        provider_options: ``htp_arch``, ``soc_model`` and others of the QNN provider.

    Raises:
        TargetError: If the package is missing or finds no device.
    """
    devices, backend = _qnn_devices()
    if not devices:
        raise TargetError(
            f"{QNN_PACKAGE} finds no device that it can use on this machine",
            hint="An NPU needs Qualcomm's driver; on x86-64, Linux alone has a simulator.",
        )
    options.add_provider_for_devices(devices[:1], {"backend_path": backend, **provider_options})


@cache
def _qnn_devices() -> tuple[list[Any], str]:
    """Register the plug-in, once in a process; its devices, and the path of its HTP backend."""
    if importlib.util.find_spec("onnxruntime_qnn") is None:
        raise TargetError(
            f"the package {QNN_PACKAGE} is not installed, which runs graphs on Qualcomm's NPU",
            hint="pip install 'edgekit-runtime[qnn]' (Windows x64 and arm64, Linux x86-64 and "
            "aarch64).",
        )
    import onnxruntime
    import onnxruntime_qnn

    try:
        onnxruntime.register_execution_provider_library(QNN, onnxruntime_qnn.get_library_path())
    except RuntimeError as err:
        raise TargetError(f"{QNN_PACKAGE} cannot be loaded", problems=[str(err).strip()]) from err
    devices = [d for d in onnxruntime.get_ep_devices() if d.ep_name == QNN]
    return devices, str(onnxruntime_qnn.get_qnn_htp_path())
