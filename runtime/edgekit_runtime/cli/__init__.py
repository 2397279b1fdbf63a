"""The command ``edgekit-run``: all that a device does with a bundle, without torch.

typer and rich come with the extra ``[cli]``; nothing here imports them before they are needed.
"""

import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from edgekit_runtime.cli.console import printable
from edgekit_runtime.errors import EdgekitRuntimeError

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``edgekit-run`` and return its exit code: 0 ok, 1 failed, 2 usage, 130 Ctrl-C."""
    if importlib.util.find_spec("typer") is None:
        sys.stderr.write("error: this command needs: pip install 'edgekit-runtime[cli]'\n")
        return EXIT_FAILED

    def load() -> Any:
        from edgekit_runtime.cli.commands import app

        return app

    return run_app(load, "edgekit-run", argv)


def run_app(load: Callable[[], Any], prog_name: str, argv: Sequence[str] | None) -> int:
    """Run a typer application; the one place that turns errors into a message and a code.

    Args:
        load: Returns the application; called late so that an interrupt is caught here too.
        prog_name: Name shown in usage lines.
        argv: Arguments, those of the process by default.
    """
    try:
        _use_utf8()
        result = load().main(
            args=list(sys.argv[1:] if argv is None else argv),
            prog_name=prog_name,
            standalone_mode=True,
        )
        code = result if isinstance(result, int) else 0
        sys.stdout.flush()
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 0
    except EdgekitRuntimeError as err:
        sys.stdout.flush()
        sys.stderr.write(f"error: {printable(str(err))}\n")
        code = EXIT_FAILED
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        _drop_stdout()
        code = EXIT_FAILED
    return code


def _use_utf8() -> None:
    """Write what cannot be encoded as ``?`` instead of failing, e.g. on an old Windows console."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


def _drop_stdout() -> None:
    """Send the rest to nowhere, so that the interpreter's last flush stays quiet."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
