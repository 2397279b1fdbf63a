"""Names of bundles, adapters and targets: they become directories and words on command lines."""

import re
from collections.abc import Iterable

from edgekit.errors import BuildError
from edgekit_runtime.digests import path_problem

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?")
_RESERVED = {"base", "none", "off"}  # what `chat` and `run` call having no adapter


def check_names(bundle: str | None, adapters: Iterable[str]) -> None:
    """Refuse names that are no safe directory, or that mean something else on a command line.

    Args:
        bundle: The bundle's name, if it is a new one.
        adapters: Names of adapters, all of one bundle.

    Raises:
        BuildError: With every bad name.
    """
    adapters = list(adapters)
    problems = [
        f"{name!r}: expected letters, digits, '.', '_', '-', at most 64"
        for name in ([bundle] if bundle is not None else []) + adapters
        if not _NAME.fullmatch(name)
    ]
    problems += [
        f"{name!r}: {problem}"
        for name in adapters
        if _NAME.fullmatch(name) and (problem := path_problem(name))
    ]
    problems += [
        f"{name!r}: means the base without an adapter" for name in adapters if name in _RESERVED
    ]
    folded = [name.casefold() for name in adapters]
    problems += [
        f"{name!r}: differs from another adapter's name in case only"
        for name in adapters
        if folded.count(name.casefold()) > 1
    ]
    if problems:
        raise BuildError("bad bundle or adapter name", problems=problems)
