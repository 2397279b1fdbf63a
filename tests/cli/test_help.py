"""Every command explains itself, quickly."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from typer.core import TyperGroup

from edgekit.cli import main as edgekit
from edgekit.cli.commands import app as edgekit_app
from edgekit_runtime.cli import main as edgekit_run
from edgekit_runtime.cli.commands import app as runtime_app
from edgekit_runtime.cli.mounting import LazyCommand

APPS = {"edgekit": (edgekit, edgekit_app), "edgekit-run": (edgekit_run, runtime_app)}


def paths(group: TyperGroup, *prefix: str) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        yield (*prefix, name)
        if isinstance(command, LazyCommand) and command.mount.source.endswith(":app"):
            yield from paths(command.loaded, *prefix, name)


COMMANDS = [(program, path) for program, (_, app) in APPS.items() for path in [(), *paths(app)]]


def lazy_commands() -> list[tuple[str, LazyCommand]]:
    found: list[tuple[str, Any]] = [*edgekit_app.commands.items(), *runtime_app.commands.items()]
    return [(name, command) for name, command in found if isinstance(command, LazyCommand)]


@pytest.mark.parametrize(
    ("program", "path"), COMMANDS, ids=[" ".join([p, *path]) for p, path in COMMANDS]
)
def test_every_help_has_an_example_that_calls_it_by_its_name(
    program: str, path: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    main, _ = APPS[program]
    assert main([*path, "--help"]) == 0
    help_text = capsys.readouterr().out
    after = help_text.partition("Example")[2]
    assert f"{program} {' '.join(path)}".strip() in after
    assert "{command}" not in help_text


@pytest.mark.parametrize(("name", "command"), lazy_commands())
def test_the_listing_says_what_the_commands_own_help_begins_with(
    name: str, command: LazyCommand
) -> None:
    assert command.loaded.help.splitlines()[0] == command.mount.summary


@pytest.mark.parametrize("program", APPS)
def test_the_version_is_shown(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert APPS[program][0](["--version"]) == 0
    assert "0.1.0" in capsys.readouterr().out


@pytest.mark.parametrize("module", ["edgekit", "edgekit_runtime"])
def test_help_imports_nothing_heavy(module: str) -> None:
    code = (
        f"import json, sys; from {module}.cli import main; code = main(['--help'])\n"
        "print(json.dumps([code, sorted(sys.modules)]), file=sys.stderr)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    exit_code, modules = json.loads(process.stderr.splitlines()[-1])
    assert exit_code == 0
    heavy = {"torch", "transformers", "datasets", "peft", "onnxruntime", "onnxruntime_genai"}
    heavy |= {"numpy", "pydantic", "prompt_toolkit", "psutil", "yaml"}
    assert heavy.isdisjoint(modules)


@pytest.mark.parametrize("module", ["edgekit", "edgekit_runtime"])
def test_an_unknown_command_is_a_usage_error_that_names_the_near_one(
    module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main = {"edgekit": edgekit, "edgekit_runtime": edgekit_run}[module]
    assert main(["chatt"]) == 2
    assert "Did you mean 'chat'?" in capsys.readouterr().err


def test_without_the_cli_extra_it_says_what_to_install() -> None:
    code = (
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name: None if name == 'typer' else find(name)\n"
        "from edgekit_runtime.cli import main; sys.exit(main(['--help']))"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 1
    assert process.stderr == "error: this command needs: pip install 'edgekit-runtime[cli]'\n"
