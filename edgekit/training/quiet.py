"""Keep libraries from writing to the terminal: what matters comes as an event."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence transformers' and datasets' bars and notes inside, as it was before outside."""
    import datasets
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    had_bars = transformers_logging.is_progress_bar_enabled()
    had_dataset_bars = not datasets.are_progress_bars_disabled()
    dataset_verbosity = datasets.logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            # About calls between these libraries, which nobody who types a recipe can change.
            for category in (FutureWarning, DeprecationWarning, UserWarning):
                for module in ("transformers", "peft", "torch", "accelerate"):
                    warnings.filterwarnings("ignore", category=category, module=module)
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        datasets.logging.set_verbosity(dataset_verbosity)
        if had_bars:
            transformers_logging.enable_progress_bar()
        if had_dataset_bars:
            datasets.enable_progress_bars()
