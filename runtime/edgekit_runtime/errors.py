"""Errors of the runtime: what, expected and got, where, what to do."""

from collections.abc import Iterable
from typing import Final

# Of one message; `problems` holds all of them.
_MAX_LINES: Final = 200
_MAX_CHARACTERS: Final = 2000


class EdgekitRuntimeError(Exception):
    """Base of every error that edgekit raises on purpose.

    Args:
        what: One sentence: what went wrong, with its place.
        problems: Every problem found in the artifact, one line each.
        hint: What to do next.
    """

    def __init__(self, what: str, *, problems: Iterable[str] = (), hint: str = "") -> None:
        self.what = what
        self.problems = tuple(problems)
        self.hint = hint
        lines = [f"{what}:" if self.problems else what]
        lines += [f"  {problem}" for problem in self.problems[:_MAX_LINES]]
        if len(self.problems) > _MAX_LINES:
            lines.append(f"  and {len(self.problems) - _MAX_LINES} more")
        if hint:
            lines.append(hint)
        super().__init__("\n".join(_printable(line) for line in lines))


def _printable(line: str) -> str:
    """A line that any terminal takes, whatever a broken file brought into it."""
    shown = line if len(line) <= _MAX_CHARACTERS else f"{line[:_MAX_CHARACTERS]}…"
    return shown.encode(errors="backslashreplace").decode()


class BundleError(EdgekitRuntimeError):
    """A bundle that is missing, malformed, changed, or of a version this runtime cannot read."""


class TargetError(EdgekitRuntimeError):
    """No target of the bundle works here, or the one asked for is not in it."""


class AdapterError(EdgekitRuntimeError):
    """An adapter that is unknown, does not fit its base, or cannot be loaded."""


class GenerationError(EdgekitRuntimeError):
    """A request that cannot be run: bad options, a bad constraint, a prompt over the context."""


class ContextLengthError(GenerationError):
    """A prompt that is too long for the context."""


class GraphError(GenerationError):
    """The native code failed at a sound request: no memory, or a graph that does not run."""


class ServeError(EdgekitRuntimeError):
    """A server that cannot be started: bad settings, a port that is taken, a worker that fails."""


class RegistryError(EdgekitRuntimeError):
    """A registry that cannot be reached, refuses, or sends something else than was asked for."""


class InstallError(EdgekitRuntimeError):
    """An installation that cannot be read, or a version that it refused; the old one stays."""


class SignatureError(BundleError):
    """A bundle that nobody signed whom the policy trusts, or a policy that cannot be read."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which known names are near a wrong one, as the tail of an error message.

    Returns:
        "did you mean 'banking'? known: banking, legal" or "known: banking, legal".
    """
    import difflib

    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    listed = f"known: {', '.join(known)}" if known else "none is known"
    guess = " or ".join(repr(match) for match in close)
    return f"did you mean {guess}? {listed}" if guess else listed
