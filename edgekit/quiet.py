"""Keep libraries from writing to the terminal: what matters comes as an event or an error."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

# They warn about calls between themselves, which nobody who types a recipe can change.
_CHATTY = ("transformers", "peft", "torch", "accelerate")


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence bars, notes and warnings of the machine learning libraries inside.

    Everything is as it was before when the block is left. The settings belong to the whole
    process: use it around calls into libraries, not in threads of their own.
    """
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    with ExitStack() as stack:
        stack.callback(transformers_logging.set_verbosity, verbosity)
        stack.enter_context(_no_bars())
        for name in ("huggingface_hub", "datasets", "gguf"):
            stack.enter_context(errors_only(logging.getLogger(name)))
        stack.enter_context(warnings.catch_warnings())
        for category in (FutureWarning, DeprecationWarning, UserWarning):
            for module in _CHATTY:
                warnings.filterwarnings("ignore", category=category, module=rf"{module}\b")
        yield


@contextmanager
def _no_bars() -> Iterator[None]:
    """Switch off every tqdm bar; some libraries (GGUF reading) have no setting of their own."""
    from tqdm.std import tqdm

    original = tqdm.__init__

    def disabled(self: Any, *args: Any, **options: Any) -> None:
        original(self, *args, **options | {"disable": True})

    tqdm.__init__ = disabled
    try:
        yield
    finally:
        tqdm.__init__ = original


@contextmanager
def errors_only(logger: logging.Logger) -> Iterator[None]:
    """Let a library tell nothing but errors inside."""
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
