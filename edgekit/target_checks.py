"""What this machine can do with a target: build, verify, run it; and what to install."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import Any, Final

from packaging.requirements import Requirement

from edgekit.targets import TargetProfile
from edgekit_runtime.providers import (
    BY_NAME,
    PROVIDERS,
    Provider,
    is_simulated,
    provider_problem,
    this_platform,
)
from edgekit_runtime.targets import GENAI_BUILDS

# Module to the package that brings it: what every build needs.
_BUILD_MODULES: Final = {
    "torch": "torch",
    "transformers": "transformers",
    "peft": "peft",
    "onnx_ir": "onnx-ir",
    "onnxruntime": "onnxruntime",
    "onnxruntime_genai": "onnxruntime-genai",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetCheck:
    """How a target stands on this machine.

    Attributes:
        name: The target's name.
        build_problems: What keeps it from being built here, with the command that helps.
        verified_on: Execution provider that computes its graphs in the parity gate here.
        verify_note: What that leaves open.
        run_problem: What keeps it from running here, with what would help; None if it runs.
        is_simulated: It runs, on a simulator, far too slowly for use.
        install: Commands that bring what its device installs, where something of it is missing
            and there are packages for this platform.
    """

    name: str
    build_problems: tuple[str, ...]
    verified_on: str
    verify_note: str
    run_problem: str | None
    is_simulated: bool
    install: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "builds": not self.build_problems,
            "build_problems": list(self.build_problems),
            "verified_on": self.verified_on,
            "verify_note": self.verify_note,
            "runs": self.run_problem is None,
            "run_problem": self.run_problem,
            "is_simulated": self.is_simulated,
            "install": list(self.install),
        }

    @property
    def can(self) -> str:
        """All in one line: ``builds; verified on CPU; runs``."""
        builds = "cannot be built" if self.build_problems else "builds"
        runs = "does not run" if self.run_problem else "runs"
        if self.is_simulated and not self.run_problem:
            runs = "runs on a simulator"
        return f"{builds}; verified on {short_name(self.verified_on)}; {runs}"

    @property
    def advice(self) -> str:
        """What keeps it from being built or run, a line for each."""
        return "\n".join([*self.build_problems, *([self.run_problem] if self.run_problem else [])])


def check_target(profile: TargetProfile) -> TargetCheck:
    """Look at this machine for a target; nothing is built, no model is loaded."""
    provider = BY_NAME[profile.execution_provider]
    build_problems = tuple(_build_problems(profile, provider))
    verified_on = profile.verify.execution_provider
    if not build_problems:
        from edgekit.building.sessions import gate_provider

        verified_on = gate_provider(profile)
    return TargetCheck(
        name=profile.name,
        build_problems=build_problems,
        verified_on=verified_on,
        verify_note=profile.verify.note,
        run_problem=_run_problem(provider),
        is_simulated=is_simulated(provider),
        install=install_commands(profile),
    )


def install_commands(profile: TargetProfile) -> tuple[str, ...]:
    """Exact commands that bring what a target's device installs; empty if all of it is here."""
    packages = (profile.packages.get(this_platform()) or "").split()
    if all(_is_installed(Requirement(package)) for package in packages):
        return ()
    names = {Requirement(package).name for package in packages}
    replaced = [
        old for provider in PROVIDERS if provider.package in names for old in provider.replaces
    ]
    commands = [f"pip uninstall -y {' '.join(replaced)}"] if replaced else []
    return (*commands, f"pip install {' '.join(_quoted(package) for package in packages)}")


def _quoted(package: str) -> str:
    """Double quotes: to cmd.exe a bare ``>`` is a redirection, and single ones are letters."""
    return f'"{package}"' if set(package) & set("<>*") else package


def packages_state(profile: TargetProfile) -> str:
    """``installed``, ``missing``, or ``none`` where there are no packages for this platform."""
    if not profile.packages.get(this_platform()):
        return "none"
    return "missing" if install_commands(profile) else "installed"


def short_name(provider: str) -> str:
    """A provider's name without its ending: ``CPU``."""
    return provider.removesuffix("ExecutionProvider")


def _build_problems(profile: TargetProfile, provider: Provider) -> Iterator[str]:
    for module, package in _BUILD_MODULES.items():
        if find_spec(module) is None:
            yield f"{package} is not installed: pip install {package}"
    compiles = profile.builder == "static" and provider.plugin is not None
    if compiles and provider.plugin and find_spec(provider.plugin) is None:
        here = this_platform()
        if provider.platforms and not here.startswith(provider.platforms):
            platforms = ", ".join(provider.platforms)
            yield f"{provider.package} compiles it; it exists for {platforms}, and this is {here}"
        else:
            yield f"{provider.package} compiles it: {provider.install_command}"


def _run_problem(provider: Provider) -> str | None:
    if find_spec("onnxruntime_genai") is None:
        package = provider.package if provider.plugin is None else GENAI_BUILDS[0]
        return f"{package} is not installed: pip install {package}"
    return provider_problem(provider)


def _is_installed(requirement: Requirement) -> bool:
    """Whether a package is here in a version that will do; any build of genai is genai."""
    names = GENAI_BUILDS if requirement.name == GENAI_BUILDS[0] else (requirement.name,)
    for name in names:
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        return requirement.specifier.contains(installed, prereleases=True)
    return False
