"""The reference says what the code has: options, keys, defaults, names, fields."""

import dataclasses
import importlib
import inspect
import re
from typing import Any

import pytest
from pydantic import BaseModel

import edgekit
import edgekit.errors
import edgekit_runtime
from edgekit import data_recipe, method_recipes, recipes, targets
from edgekit.doctor import examine
from edgekit.evaluating.metrics import METRICS, default_metrics
from edgekit.evaluating.report import EvaluationReport
from edgekit.quantizing import options as quantization
from edgekit.scaling.jobs import Outcome
from edgekit.tuning import search_file
from edgekit.tuning.report import SearchReport
from edgekit_runtime import card, manifest
from edgekit_runtime.bench_report import BenchReport
from edgekit_runtime.cli import batch
from edgekit_runtime.cli.chat_commands import COMMANDS as SLASH_COMMANDS
from edgekit_runtime.errors import EdgekitRuntimeError
from edgekit_runtime.generation import Generation
from edgekit_runtime.sampling import GenerateOptions
from edgekit_runtime.serving.fields import CHAT, COMPLETION
from tests.docs.option_tables import COMMAND_PAGES, is_of_bundle, page_of
from tests.docs.pages import ROOT, Page, all_blocks, page
from tests.docs.programs import PROGRAMS, every_command, option_table

ALL_COMMANDS = every_command()
OWN_COMMANDS = {
    name: command
    for name, command in ALL_COMMANDS.items()
    if not name.startswith("edgekit-run ") and not hasattr(command, "commands")
}
MODELS: dict[str, type[BaseModel]] = {
    model.__name__: model
    for model in (
        recipes.TrainRecipe,
        recipes.EarlyStopping,
        data_recipe.DataRecipe,
        method_recipes.LoraRecipe,
        method_recipes.BottleneckRecipe,
        data_recipe.DataSource,
        recipes.BundleRecipe,
        recipes.AdapterSource,
        recipes.ParityRecipe,
        targets.TargetProfile,
        quantization.Quantization,
        quantization.Calibration,
        targets.AdapterSupport,
        targets.StaticGraphs,
        targets.ParityBounds,
        targets.Verification,
        search_file.SearchFile,
        search_file.Parameter,
        search_file.Strategy,
        search_file.Objective,
    )
}
PAGES_OF_KEYS = {
    "edgekit.targets": "targets",
    "edgekit.quantizing.options": "targets",
    "edgekit.tuning.search_file": "search-files",
}
RUNTIME_PAGE = page("docs/reference/python-runtime.md")


def names_in(cell: str) -> list[str]:
    """The names in a table's first cell: ``a`` or ``a`, `b``."""
    return re.findall(r"[\w-]+", cell)


def table_names(of: Page, name: str) -> list[str]:
    return [found for cell in of.table(name) for found in names_in(cell)]


@pytest.mark.parametrize("name", ALL_COMMANDS)
def test_every_command_has_a_page_that_begins_with_its_name(name: str) -> None:
    of = page_of(name)
    first, *_ = of.text.splitlines()
    shared = name.replace("edgekit-run", "edgekit bundle" if is_of_bundle(name) else "edgekit")
    assert first == f"# {shared}"


@pytest.mark.parametrize("name", ALL_COMMANDS)
def test_every_command_has_an_example_on_its_page(name: str) -> None:
    of = Page(COMMAND_PAGES / "edgekit-run.md") if "-run " in name else page_of(name)
    lines = [line for block in of.blocks for line in block.commands()]
    told = [*lines, *(of.table("runtime commands") if "-run " in name else [])]
    assert any(re.match(rf"(.*\| )?{name}\b", line) for line in told)


@pytest.mark.parametrize("name", OWN_COMMANDS)
def test_the_option_table_is_the_command_lines_own(name: str) -> None:
    again = "write it again: python -m tests.docs.option_tables"
    assert page_of(name).between(f"options: {name}") == option_table(OWN_COMMANDS[name]), again


# What only a builder can answer.
BUILDERS_OWN = ("| `--rebuild` |",)


def test_the_devices_commands_take_the_same_options() -> None:
    for name, command in ALL_COMMANDS.items():
        if name.startswith("edgekit-run ") and not hasattr(command, "commands"):
            program = "edgekit bundle" if is_of_bundle(name) else "edgekit"
            same = OWN_COMMANDS[name.replace("edgekit-run", program)]
            lines = option_table(same).splitlines(keepends=True)
            shared = "".join(line for line in lines if not line.startswith(BUILDERS_OWN))
            assert option_table(command) == shared


def test_no_page_is_left_of_a_command_that_is_gone() -> None:
    pages = {path.stem for path in COMMAND_PAGES.glob("*.md")} - {"edgekit-run"}
    assert pages == {page_of(name).path.stem for name in ALL_COMMANDS}


@pytest.mark.parametrize("name", MODELS)
def test_the_keys_of_a_file_that_people_type(name: str) -> None:
    of = page(f"docs/reference/{PAGES_OF_KEYS.get(MODELS[name].__module__, 'recipes')}.md")
    told = {key: cells[1] for key, cells in of.table(f"keys: {name}").items()}
    fields = MODELS[name].model_fields
    assert list(told) == list(fields)
    # Where the default is the task's or another section's, the page says it in words.
    in_words = {"those of the task", "see below", "the file's name without `.yaml`"}
    wrong = {
        key: (told[key], _default(fields[key]))
        for key in told
        if told[key] not in in_words and told[key] != _default(fields[key])
    }
    assert not wrong


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    default = field.default
    if default is None:
        return "none"
    if default in ({}, (), ""):
        return "empty"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default[0] if isinstance(default, tuple) else default}`"


def test_the_shown_target_profile_is_the_file() -> None:
    block = next(b for b in all_blocks("yaml") if "same as: targets/cpu.yaml" in b.marks)
    assert block.text == (ROOT / "targets" / "cpu.yaml").read_text(encoding="utf-8")


def test_the_shown_report_of_the_doctor_has_its_lines() -> None:
    """Its words are those of one machine; its lines are the doctor's, all targets among them."""
    block = next(b for b in all_blocks("text") if "same structure: edgekit doctor" in b.marks)
    shown = re.findall(r"(?m)^ (?:ok|warn|FAIL) +(\S+(?: \S+)?)(?:  |$)", block.text)
    checks = [check.name for check in examine()]
    assert [name for name in checks if name in shown] == shown
    assert {name for name in checks if name.startswith("target ")} <= set(shown)
    assert {"python", "memory", "providers", "devices", "cache"} <= set(shown)


def test_the_metrics() -> None:
    of = page("docs/reference/metrics.md")
    assert list(of.table("metrics")) == list(METRICS)
    for task, (cell,) in of.table("defaults").items():
        assert tuple(names_in(cell)) == default_metrics(task)


def test_every_error_class_and_no_other() -> None:
    told = set(page("docs/reference/errors.md").table("errors"))
    defined = {
        name
        for module in (edgekit.errors, importlib.import_module("edgekit_runtime.errors"))
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, EdgekitRuntimeError)
    }
    assert told == defined


@pytest.mark.parametrize("package", ["edgekit", "edgekit_runtime"])
def test_the_public_names(package: str) -> None:
    of = {"edgekit": page("docs/reference/python-edgekit.md"), "edgekit_runtime": RUNTIME_PAGE}
    public = set(importlib.import_module(package).__all__) - {"__version__"}
    assert set(of[package].table(f"names: {package}")) == public


@pytest.mark.parametrize("function", ["resolve_base", "train", "build", "evaluate"])
def test_the_parameters_of_a_function(function: str) -> None:
    told = page("docs/reference/python-edgekit.md").table(f"parameters: edgekit.{function}")
    parameters = inspect.signature(getattr(edgekit, function)).parameters
    expected = {name: _parameter_default(p) for name, p in parameters.items()}
    assert {name: cells[0] for name, cells in told.items()} == expected


def _parameter_default(parameter: inspect.Parameter) -> str:
    if parameter.default is inspect.Parameter.empty:
        return "required"
    return "no-op" if callable(parameter.default) else f"`{parameter.default!r}`"


@pytest.mark.parametrize("name", ["Bundle", "Engine", "Session"])
def test_the_members_of_a_class(name: str) -> None:
    public = {member for member in vars(getattr(edgekit_runtime, name)) if member[0] != "_"}
    attributes = {"Bundle": {"path", "manifest", "cache_dir"}, "Engine": {"bundle"}}
    assert set(table_names(RUNTIME_PAGE, f"members: {name}")) == public | attributes.get(
        name, set()
    )


@pytest.mark.parametrize(
    "name",
    [
        "Generation",
        "Usage",
        "Timings",
        "SessionStats",
        "Score",
        "Classification",
        "AdapterStatus",
    ],
)
def test_the_fields_of_a_dataclass(name: str) -> None:
    fields = [field.name for field in dataclasses.fields(getattr(edgekit_runtime, name))]
    assert table_names(RUNTIME_PAGE, f"dataclass: {name}") == fields


def test_the_generation_options() -> None:
    told = list(RUNTIME_PAGE.table("generation options"))
    assert told == list(GenerateOptions.__annotations__)


@pytest.mark.parametrize(
    ("where", "name", "reported"),
    [
        ("run", "generation", Generation),
        ("eval", "evaluation", EvaluationReport),
        ("bench", "bench", BenchReport),
        ("tune", "search", SearchReport),
        ("train", "outcome", Outcome),
    ],
)
def test_the_fields_of_json(where: str, name: str, reported: Any) -> None:
    told = table_names(page(f"docs/reference/commands/{where}.md"), f"fields: {name}")
    assert set(told) == {field.name for field in dataclasses.fields(reported)}


def test_the_fields_of_a_servers_request() -> None:
    told = table_names(page("docs/how-to/serve.md"), "request fields")
    assert set(told) == {*CHAT, *COMPLETION}


def test_the_slash_commands() -> None:
    told = page("docs/reference/commands/chat.md").table("slash commands")
    assert told == {c.usage: [c.summary] for c in SLASH_COMMANDS.values()} and told


def test_the_keys_of_a_batch_line() -> None:
    told = list(page("docs/how-to/batch-runs.md").table("batch keys"))
    assert told == ["id", *batch._OVERRIDES]


@pytest.mark.parametrize(
    ("name", "record", "extra"),
    [
        ("manifest", manifest.Manifest, {"digest"}),
        ("base", manifest.BaseRecord, set()),
        ("target", manifest.TargetRecord, set()),
        ("adapter", manifest.AdapterRecord, set()),
        ("file", manifest.FileRecord, set()),
        ("card", card.AdapterCard, {"schema_version"}),
    ],
)
def test_the_fields_of_the_format(name: str, record: Any, extra: set[str]) -> None:
    told = page("docs/bundle-format.md").table(f"fields: {name}")
    assert set(told) == {field.name for field in dataclasses.fields(record)} | extra


def test_the_programs_are_those_of_the_packages() -> None:
    scripts = [
        line.split(" = ")[0]
        for file in ("pyproject.toml", "runtime/pyproject.toml")
        for line in (ROOT / file).read_text(encoding="utf-8").partition("scripts]\n")[2].split("\n")
        if line.startswith("edgekit")
    ]
    assert set(scripts) == set(PROGRAMS)
