"""Errors of the build-time toolkit, in the runtime's four parts."""

from collections.abc import Sequence

from edgekit_runtime.errors import EdgekitRuntimeError

_MAX_SHOWN = 20


class EdgekitError(EdgekitRuntimeError):
    """Base of the errors that training, building and evaluating raise on purpose."""


class BaseModelError(EdgekitError):
    """A base that cannot be resolved, read, or built."""


class RecipeError(EdgekitError):
    """A recipe or target profile that cannot be read or does not make sense."""


class DataError(EdgekitError):
    """Training or evaluation data that cannot be used."""


class PeftAdapterError(EdgekitError):
    """A PEFT adapter that does not fit, or that sockets cannot express exactly."""


class BuildError(EdgekitError):
    """A build that could not be finished."""


class ParityError(BuildError):
    """A built target that does not agree with the PyTorch original."""


def first_of(problems: Sequence[str]) -> list[str]:
    """The first twenty of many problems, and how many more there are."""
    more = len(problems) - _MAX_SHOWN
    return [*problems[:_MAX_SHOWN], *([f"… and {more} more"] if more > 0 else [])]
