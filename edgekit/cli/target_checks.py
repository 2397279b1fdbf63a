"""``targets check``: profiles or a bundle's targets, against this machine."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit_runtime.cli.console import console, write_json

if TYPE_CHECKING:
    from edgekit.target_checks import TargetCheck
    from edgekit_runtime.targets import TargetStatus


def check_profiles(names: Sequence[str], *, as_json: bool) -> bool:
    """Check profiles, all that ship by default; False if a named one cannot be built here."""
    from edgekit.target_checks import check_target
    from edgekit.targets import list_targets, load_target
    from edgekit_runtime.providers import this_platform

    profiles = [load_target(name) for name in names] or list(list_targets().values())
    checks = [check_target(profile) for profile in profiles]
    if as_json:
        write_json(
            {
                "platform": this_platform(),
                "targets": {check.name: check.to_dict() for check in checks},
            }
        )
    else:
        console().print(f"This machine is {this_platform()}.", markup=False)
        for check in checks:
            _show(check)
    return not (names and any(check.build_problems for check in checks))


def check_bundle(path: Path, *, as_json: bool) -> bool:
    """Check a bundle's targets; False if none works here."""
    from edgekit_runtime import Bundle
    from edgekit_runtime.errors import TargetError
    from edgekit_runtime.targets import by_speed, choose_target, target_status

    with Bundle.open(path, verify="sizes") as bundle:
        manifest = bundle.manifest
    statuses = [target_status(name, manifest.targets[name]) for name in by_speed(manifest)]
    try:
        choice = choose_target(manifest, None)
    except TargetError:
        choice = None
    if as_json:
        write_json(
            {
                "bundle": manifest.name,
                "version": manifest.version,
                "targets": {
                    status.name: {
                        "works": not status.problems,
                        "is_simulated": status.is_simulated,
                        "problems": list(status.problems),
                        "verified_on": manifest.targets[status.name].verified_on,
                    }
                    for status in statuses
                },
                "chosen": choice.name if choice else None,
                "reason": choice.reason if choice else None,
            }
        )
        return choice is not None
    screen = console()
    for status in statuses:
        screen.print(f"{status.name}: {_in_words(status)}", markup=False, soft_wrap=True)
        for problem in status.problems:
            screen.print(f"  {problem}", markup=False, soft_wrap=True)
    chosen = f"An engine chooses '{choice.name}'" if choice else "No target works here"
    why = f": {choice.reason.partition(';')[0]}." if choice else "."
    screen.print(f"{chosen}{why}", markup=False, soft_wrap=True)
    return choice is not None


def _in_words(status: "TargetStatus") -> str:
    if status.problems:
        return "does not work here"
    return "works on a simulator: only when asked for" if status.is_simulated else "works here"


def _show(check: "TargetCheck") -> None:
    screen = console()
    screen.print()
    screen.print(f"[bold]{check.name}[/]: {check.can}", soft_wrap=True)
    for line in (check.verify_note, *check.advice.splitlines()):
        if line:
            screen.print(f"  {line}", markup=False, soft_wrap=True)
    if check.install:
        screen.print("  on its device:", markup=False)
        for command in check.install:
            screen.print(f"    {command}", markup=False, soft_wrap=True)
