"""``edgekit build --dry-run``: a plan for people."""

from typing import TYPE_CHECKING

from edgekit_runtime.cli.console import add_row, console, new_table, show_size

if TYPE_CHECKING:
    from edgekit.building.plan import BuildPlan
    from edgekit.building.planned_target import PlannedTarget

_NOT_COUNTED = "A GPU's or NPU's memory is weights, cache, adapters and activations; what its "
_NOT_COUNTED += "driver takes beside them is not counted."


def show_plan(plan: "BuildPlan") -> None:
    """Print steps, sizes, memory and time of a build that was not done."""
    from edgekit.building.plan import TIMED_ON
    from edgekit.building.planned_target import about

    screen = console()
    screen.print(f"{plan.name} of base {plan.base} -> {plan.output}", markup=False, soft_wrap=True)
    for target in plan.targets:
        screen.print()
        _show_target(target)
    screen.print()
    screen.print(_sizes_table(plan))
    screen.print(_memory_table(plan))
    if any(target.memory.runtime_bytes == 0 for target in plan.targets):
        screen.print(_NOT_COUNTED)
    screen.print(
        f"Bundle: at most {show_size(plan.bundle_bytes)}. This machine: "
        f"{show_size(plan.disk_bytes)} of disk, {show_size(plan.build_memory_bytes)} of memory, "
        f"{about(plan.seconds)} ({TIMED_ON})."
    )
    screen.print("Nothing was built.")


def _show_target(target: "PlannedTarget") -> None:
    screen = console()
    screen.print(f"target {target.name}", style="bold", markup=False)
    for number, step in enumerate(target.steps, start=1):
        screen.print(f"  {number}. {step}", markup=False, soft_wrap=True)
    check = target.check
    if check.verify_note:
        screen.print(f"  note: {check.verify_note}", markup=False, soft_wrap=True)
    for problem in check.build_problems:
        screen.print(f"  cannot be built here: {problem}", markup=False, soft_wrap=True)
    if check.run_problem:
        screen.print(f"  does not run here: {check.run_problem}", markup=False, soft_wrap=True)


def _sizes_table(plan: "BuildPlan") -> object:
    from edgekit.building.planned_target import about

    numbers = ["weights", "adds to the bundle", "time"]
    table = new_table("Sizes on the disk, time here", ["target", *numbers], numbers)
    for target in plan.targets:
        sizes = (target.weights_bytes, target.added_bytes)
        time = about(target.seconds)
        add_row(table, target.name, *(show_size(size) for size in sizes), time)
    return table


def _memory_table(plan: "BuildPlan") -> object:
    numbers = ["needs", "of", "weights", "cache", "adapters", "other"]
    title = "Memory on the device: needed, of what the profile allows, for"
    table = new_table(title, ["target", *numbers], numbers)
    for target in plan.targets:
        need = target.memory
        cells = (
            need.total_bytes,
            target.memory_budget_bytes,
            need.weights_bytes,
            need.cache_bytes,
            need.adapter_bytes,
            need.activation_bytes + need.runtime_bytes,
        )
        add_row(table, target.name, *(show_size(size) for size in cells))
    return table
