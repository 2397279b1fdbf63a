"""A user's own class or function, by file or by entry point; its errors are told in our words."""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from edgekit.errors import EdgekitError, RecipeError
from edgekit_runtime.digests import sha256_of_file
from edgekit_runtime.errors import nearest


@dataclass(frozen=True, kw_only=True, slots=True)
class UserObject:
    """What a recipe named.

    Attributes:
        reference: As typed: ``path/to/file.py:Name``, or the name of an entry point.
        value: The class or function.
        identity: Says which code it is: the file's digest, or the package and its version.
    """

    reference: str
    value: Any
    identity: str


def load_user_object(reference: str, *, key: str, group: str) -> UserObject:
    """Find what a recipe's key names.

    Args:
        reference: ``path/to/file.py:Name``, or the name of an entry point.
        key: The recipe's key, for messages.
        group: Of entry points.

    Raises:
        RecipeError: If it is not there, or its file cannot be run.
    """
    path, colon, name = reference.rpartition(":")
    if colon and path.endswith(".py"):
        return _from_file(reference, Path(path), name, key)
    installed = {point.name: point for point in entry_points(group=group)}
    if reference not in installed:
        known = f"; {nearest(reference, installed)}" if installed else ""
        raise RecipeError(
            f"{key}: '{reference}' is neither path/to/file.py:Name nor an installed entry point "
            f"of {group}{known}",
            hint="Name a file and, behind a colon, the class in it.",
        )
    return _from_entry_point(reference, installed[reference], key)


@contextmanager
def user_code(reference: str, key: str) -> Iterator[None]:
    """Tell what a user's code raises with its file and line, without a traceback.

    Raises:
        RecipeError: For any error of the code.
    """
    try:
        yield
    except EdgekitError:
        raise
    except Exception as err:  # somebody else's code may raise anything
        frames = traceback.extract_tb(err.__traceback__)
        file = Path(reference.rpartition(":")[0]).resolve()
        own = [frame for frame in frames if Path(frame.filename).resolve() == file]
        frame = own[-1] if own else frames[-1]
        place = f"{frame.filename}:{frame.lineno}"
        if isinstance(err, SyntaxError):
            place = f"{err.filename}:{err.lineno}"
        raise RecipeError(
            f"{key}: {reference} failed: {type(err).__name__}: {err}",
            problems=[f"at {place}" + (f": {frame.line}" if frame.line else "")],
        ) from err


def _from_file(reference: str, path: Path, name: str, key: str) -> UserObject:
    if not path.is_file():
        raise RecipeError(f"{key}: there is no file '{path}'", hint="Paths are relative to here.")
    module_name = f"edgekit_user_{path.stem}"
    spec = spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise RecipeError(f"{key}: '{path}' is no Python file")
    module = module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look their module up there
    with user_code(reference, key):
        spec.loader.exec_module(module)
    if not hasattr(module, name):
        public = [word for word in vars(module) if not word.startswith("_")]
        raise RecipeError(f"{key}: '{path}' has no '{name}'; {nearest(name, public)}")
    return UserObject(
        reference=reference, value=getattr(module, name), identity=sha256_of_file(path)
    )


def _from_entry_point(reference: str, point: EntryPoint, key: str) -> UserObject:
    with user_code(reference, key):
        value = point.load()
    package = f"{point.dist.name}=={point.dist.version}" if point.dist else point.value
    return UserObject(reference=reference, value=value, identity=package)
