"""A target directory of static graphs: run as they are, or compiled for QNN."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from edgekit.bases import Base, default_cache_dir
from edgekit.building.export import DIGESTS_FILE
from edgekit.building.qnn.compile import compile_contexts
from edgekit.building.qnn.export import (
    BARE,
    DECODER_WEIGHTS,
    EXACT,
    FLOAT32_WEIGHTS,
    export_static,
    provider_options_of,
)
from edgekit.building.qnn.passes import give_defaults
from edgekit.building.qnn.read_back import static_contract
from edgekit.building.target_dir import STATIC_GRAPHS
from edgekit.bundling.write import write_json
from edgekit.errors import BuildError
from edgekit.targets import TargetProfile
from edgekit_runtime.contract import SocketContract
from edgekit_runtime.static_graph import QNN

PROFILE_FILE = "profile.json"
# Of the export, not of the target: what only compilers and the gate read.
_NOT_SHIPPED = {DIGESTS_FILE, FLOAT32_WEIGHTS, *BARE.values(), *EXACT.values()} - {
    STATIC_GRAPHS["embed"]
}


def write_static_target(
    directory: Path,
    base: Base,
    profile: TargetProfile,
    on_message: Callable[[str], None] = lambda _: None,
) -> SocketContract:
    """Write a base's static graphs, compiled if the target is QNN.

    Args:
        directory: Made here.
        base: The float base.
        profile: With a ``static`` section; a copy of it goes into the directory, so that an
            adapter that is added later is checked against the same graphs.
        on_message: Called with a line of progress.

    Raises:
        BuildError: If the base has no static form, or the compiler refuses.
    """
    exported = export_static(base, profile, on_message=on_message)
    directory.mkdir(parents=True)
    left_out = _NOT_SHIPPED
    if profile.execution_provider == QNN:
        contexts = compile_contexts(
            exported,
            BARE,
            provider_options_of(profile),
            cache_dir=default_cache_dir(),
            on_message=on_message,
        )
        left_out = {*left_out, *(STATIC_GRAPHS[name] for name in BARE), DECODER_WEIGHTS}
        for file in sorted(contexts.iterdir()):
            if file.name in STATIC_GRAPHS.values():
                give_defaults(file, directory / file.name)
            elif file.name != DIGESTS_FILE:
                shutil.copyfile(file, directory / file.name)
    for file in sorted(exported.iterdir()):
        if file.name not in left_out:
            shutil.copyfile(file, directory / file.name)
    write_json(directory / PROFILE_FILE, profile.model_dump())
    return static_contract(directory)


def stored_profile(directory: Path) -> TargetProfile:
    """The profile that a target was built with.

    Raises:
        BuildError: If it cannot be read.
    """
    path = directory / PROFILE_FILE
    try:
        return TargetProfile.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as err:
        raise BuildError(
            f"'{path}' does not say how the target was built: {err}",
            hint="Build the bundle again with this edgekit.",
        ) from err
