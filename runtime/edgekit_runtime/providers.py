"""Execution providers: what each is called, where it comes from, and whether it works here."""

import ctypes
import importlib
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any, Final


@dataclass(frozen=True, kw_only=True, slots=True)
class Provider:
    """One execution provider of ONNX Runtime.

    Attributes:
        name: ONNX Runtime's name, ``CUDAExecutionProvider``.
        key: genai's name for it in ``provider_options``; empty for the CPU, which needs none.
        check: genai's function that says whether this build of genai has it.
        plugin: Module of the package that brings it as a plug-in library.
        package: What to install where it is missing.
        platforms: Prefixes of ``<system>-<machine>`` where the package exists; empty for all.
        replaces: Packages that fill the same modules and cannot stay beside it.
        device: What it needs, in words.
    """

    name: str
    key: str
    package: str
    device: str
    check: str | None = None
    plugin: str | None = None
    platforms: tuple[str, ...] = ()
    replaces: tuple[str, ...] = ()

    @property
    def install_command(self) -> str:
        """The command that brings it; packages with the same modules go first."""
        install = f"pip install {self.package}"
        gone = " ".join(self.replaces)
        return f"pip uninstall -y {gone} && {install}" if gone else install


# The fastest first: the order in which an engine tries a bundle's targets.
PROVIDERS: Final[tuple[Provider, ...]] = (
    Provider(
        name="CUDAExecutionProvider",
        key="cuda",
        package="onnxruntime-genai-cuda",
        device="an NVIDIA GPU with its driver",
        check="is_cuda_available",
        replaces=("onnxruntime-genai", "onnxruntime"),  # it brings onnxruntime-gpu
        platforms=("linux-x86_64", "windows-amd64"),
    ),
    Provider(
        name="DmlExecutionProvider",
        key="dml",
        package="onnxruntime-genai-winml",
        device="Windows and a GPU with DirectX 12",
        check="is_dml_available",
        replaces=("onnxruntime-genai",),
        platforms=("windows",),
    ),
    Provider(
        name="QNNExecutionProvider",
        key="qnn",
        package="onnxruntime-qnn",
        device="a Snapdragon with a Hexagon NPU",
        plugin="onnxruntime_qnn",
        platforms=("windows", "linux-aarch64", "linux-x86_64"),
    ),
    Provider(
        name="WebGpuExecutionProvider",
        key="webgpu",
        package="onnxruntime-ep-webgpu",
        device="a GPU with Vulkan, Metal or Direct3D 12",
        plugin="onnxruntime_ep_webgpu",
    ),
    Provider(
        name="OpenVINOExecutionProvider",
        key="OpenVINO",
        package="onnxruntime-ep-openvino",
        device="an Intel CPU, GPU or NPU",
        plugin="onnxruntime_ep_openvino",
        platforms=("linux-x86_64", "windows-amd64"),
    ),
    Provider(
        name="CPUExecutionProvider",
        key="",
        package="onnxruntime-genai",
        device="any CPU",
    ),
)
BY_NAME: Final[Mapping[str, Provider]] = {provider.name: provider for provider in PROVIDERS}
_SHORT: Final[Mapping[str, Provider]] = {
    provider.name.removesuffix("ExecutionProvider").lower(): provider for provider in PROVIDERS
}


def load_genai() -> Any:
    """Import onnxruntime-genai with its telemetry off."""
    import onnxruntime_genai

    # The environment variable comes too late where the program imported genai before us.
    onnxruntime_genai.disable_telemetry_events()
    return onnxruntime_genai


def find_provider(name: str) -> Provider | None:
    """A provider by ONNX Runtime's name, or by that without its ending, in any case."""
    return _SHORT.get(name.removesuffix("ExecutionProvider").lower())


def this_platform() -> str:
    """Operating system and processor, as profiles name them: ``linux-x86_64``."""
    return f"{platform.system()}-{platform.machine()}".lower()


def provider_problem(provider: Provider) -> str | None:
    """Say what keeps a provider from working on this machine, and what would help."""
    if provider.plugin is not None:
        return _plugin_problem(provider)
    if provider.check is None:
        return None
    if not getattr(load_genai(), provider.check)():
        return _lacking(provider, f"this build of onnxruntime-genai has no {provider.name}")
    if provider.key == "cuda" and not cuda_device_count():
        return f"no device: {provider.name} needs {provider.device}, and the driver reports none"
    return None


def is_simulated(provider: Provider) -> bool:
    """Whether a provider that works here computes on the CPU what it is made for a GPU or NPU."""
    if provider.key == "qnn":
        return platform.machine().lower() in {"x86_64", "amd64"}
    if provider.key == "webgpu" and provider_problem(provider) is None:
        return all(device.device.type.name == "CPU" for device in plugin_devices(provider))
    return False


@cache
def register_plugin(name: str) -> None:
    """Make genai know a provider that comes as a plug-in; later calls do nothing.

    Raises:
        RuntimeError: As genai does, for a library that it cannot load.
    """
    provider = find_provider(name)
    if provider is not None and provider.plugin is not None:
        library = importlib.import_module(provider.plugin).get_library_path()
        load_genai().register_execution_provider_library(provider.name, os.fspath(library))


@cache
def plugin_devices(provider: Provider) -> tuple[Any, ...]:
    """Devices that ONNX Runtime finds with a plug-in provider, whose package is installed.

    Raises:
        RuntimeError: If ONNX Runtime cannot load the plug-in.
    """
    import onnxruntime as ort

    assert provider.plugin is not None
    library = importlib.import_module(provider.plugin).get_library_path()
    known = {device.ep_name for device in ort.get_ep_devices()}
    if provider.name not in known:
        ort.register_execution_provider_library(provider.name, os.fspath(library))
    return tuple(device for device in ort.get_ep_devices() if device.ep_name == provider.name)


def _plugin_problem(provider: Provider) -> str | None:
    assert provider.plugin is not None
    if find_spec(provider.plugin) is None:
        return _lacking(provider, f"{provider.package} is not installed")
    try:
        devices = plugin_devices(provider)
    except (RuntimeError, ImportError, OSError) as err:
        return f"{provider.package} cannot be loaded: {str(err).strip()}"
    if not devices:
        return f"no device: {provider.name} needs {provider.device}"
    return None


def _lacking(provider: Provider, what: str) -> str:
    """What is missing, with the command that brings it where there is one."""
    here = this_platform()
    if provider.platforms and not here.startswith(provider.platforms):
        return f"{what}; it exists for {', '.join(provider.platforms)}, and this is {here}"
    return f"{what}: {provider.install_command} (it needs {provider.device})"


@cache
def cuda_device_count() -> int:
    """Number of GPUs that the NVIDIA driver reports; 0 without a driver."""
    name = "nvcuda.dll" if platform.system() == "Windows" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value
