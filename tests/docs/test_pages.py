"""Links lead somewhere, programs compile, recipes load, commands parse."""

import ast
import importlib
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgekit.recipes import BundleRecipe, TrainRecipe, parse_recipe
from edgekit.targets import load_target
from edgekit.tuning.search_file import SearchFile
from tests.docs.pages import ROOT, Block, Page, all_blocks, all_pages
from tests.docs.programs import PROGRAMS, parse_error

PAGES = all_pages()
SHELL = ("bash", "console", "bat")
_SMALLEST_TRAIN = {
    "base": "b",
    "output": "o",
    "data": {"train": "t.csv", "prompt": "{a}", "completion": "{b}"},
}


def _ids(found: list[Any]) -> list[str]:
    return [getattr(item, "place", None) or item.name for item in found]


@pytest.mark.parametrize("page", PAGES, ids=_ids(PAGES))
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Page) -> None:
    broken = []
    for link in page.links:
        if link.startswith(("https://", "http://")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.path.parent / name).resolve() if name else page.path
        is_there = target.exists() and (not anchor or anchor in Page(target).anchors)
        if not is_there:
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=_ids(PAGES))
def test_every_page_begins_with_a_heading_and_a_sentence(page: Page) -> None:
    lines = [line for line in page.prose.splitlines() if line.strip()]
    assert lines[0].startswith("# ")
    assert lines[1][0] not in "#|-<"


def test_every_page_is_reached_from_the_index() -> None:
    docs = {page.path for page in PAGES if page.path.is_relative_to(ROOT / "docs")}
    index = Page(ROOT / "docs" / "index.md")
    linked = {(index.path.parent / link.partition("#")[0]).resolve() for link in index.links}
    assert docs - linked == {index.path}


def _command_lines() -> list[tuple[Block, str]]:
    return [(block, line) for block in all_blocks(*SHELL) for line in block.commands()]


@pytest.mark.parametrize(
    ("block", "line"),
    _command_lines(),
    ids=[f"{block.place} {line[:40]}" for block, line in _command_lines()],
)
def test_every_command_parses(block: Block, line: str) -> None:
    for part in _parts(line):
        if part[0] == "make":
            assert {word for word in part[1:] if "=" not in word} <= set(_phony())
        elif part[0] in PROGRAMS:
            assert parse_error(shlex.join(part)) is None


def _parts(line: str) -> list[list[str]]:
    """The commands of a line, without pipes and redirections."""
    is_windows = "\\" in line  # a path such as .venv\Scripts\activate
    lexer = shlex.shlex(line, posix=not is_windows, punctuation_chars="|>&;")
    lexer.whitespace_split = True
    parts: list[list[str]] = [[]]
    skip = False
    for word in lexer:
        if skip:
            skip = False
        elif word in {"|", "&&", ";"}:
            parts.append([])
        elif word == ">":
            skip = True
        else:
            parts[-1].append(word)
    return [part for part in parts if part]


def _phony() -> list[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    line = next(line for line in makefile.splitlines() if line.startswith(".PHONY:"))
    return line.removeprefix(".PHONY:").split()


@pytest.mark.parametrize("block", all_blocks("python"), ids=_ids(all_blocks("python")))
def test_every_program_compiles_and_imports_what_exists(block: Block) -> None:
    tree = ast.parse(block.text, filename=block.place)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("edgekit"):
            module = importlib.import_module(node.module or "")
            missing = [name.name for name in node.names if not hasattr(module, name.name)]
            assert not missing


@pytest.mark.parametrize("block", all_blocks("yaml"), ids=_ids(all_blocks("yaml")))
def test_every_recipe_loads(block: Block, tmp_path: Path) -> None:
    values = yaml.safe_load(block.text)
    if {"execution_provider", "extends"} & set(values):
        own = tmp_path / "own.yaml"
        own.write_text(block.text, encoding="utf-8")
        load_target(str(own))
    elif "doc_to_text" in values:
        assert values["task"]  # of lm-evaluation-harness; tests/evaluating/test_harness.py runs it
    elif "search_space" in values:
        SearchFile.model_validate(values)
    elif set(values) <= set(TrainRecipe.model_fields):
        parse_recipe(_SMALLEST_TRAIN | values, TrainRecipe)
    else:
        parse_recipe(values, BundleRecipe)


def test_every_block_says_its_language() -> None:
    unnamed = [block.place for page in PAGES for block in page.blocks if not block.language]
    assert not unnamed


def test_a_block_that_is_to_be_run_can_be() -> None:
    runnable = {"bash", "python"}
    wrong = [
        block.place
        for page in PAGES
        for block in page.blocks
        if block.is_run and block.language not in runnable
    ]
    assert not wrong
