"""The options that say where trainings run: here, or on a Ray cluster."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edgekit.scaling.ray_cluster import RayOptions

_PANEL = "Scale-out"


class Engine(StrEnum):
    """Where trainings run."""

    LOCAL = "local"
    RAY = "ray"


RayAddressOption = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        metavar="ADDRESS",
        help="Ray cluster; RAY_ADDRESS by default, else Ray is started on this machine.",
        rich_help_panel=_PANEL,
    ),
]
TaskCpusOption = Annotated[
    int | None,
    typer.Option(
        "--task-cpus",
        metavar="N",
        min=1,
        help="With Ray: cores, and so threads, of each training; 1 by default.",
        rich_help_panel=_PANEL,
    ),
]
TaskGpusOption = Annotated[
    float | None,
    typer.Option(
        "--task-gpus",
        metavar="N",
        min=0,
        help="With Ray: GPUs of each training; 1 by default where the cluster has any.",
        rich_help_panel=_PANEL,
    ),
]


def ray_options(
    engine: Engine | None, address: str | None, cpus: int | None, gpus: float | None
) -> "RayOptions | None":
    """What was said about Ray; None where trainings run here. The rest is a usage error."""
    if engine is not Engine.RAY:
        given = {"--ray-address": address, "--task-cpus": cpus, "--task-gpus": gpus}
        for option, value in given.items():
            if value is not None:
                raise typer.BadParameter("goes with --engine ray", param_hint=option)
        return None
    from edgekit.scaling.ray_cluster import RayOptions

    return RayOptions(address=address, cpus=cpus or 1, gpus=gpus)
