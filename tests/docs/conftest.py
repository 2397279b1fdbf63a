"""A directory such as a reader has who ran the demo, with a tiny base in place of SmolLM2."""

import json
import shutil
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Page
from tests.docs.shell import run_line, run_python

REAL_BASE = "smollm2-135m"
TINY_BASE = "tiny-llama"
_TEMPLATES = {
    "tone": ("Phrase: {text}\nTone:", " {tone}", "classification", ["accuracy", "f1"]),
    "appointment": ("Message: {text}\nJSON:", " {json}", "extraction", ["exact_match"]),
}


@pytest.fixture(scope="session")
def demo_directory(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``edgekit demo`` leaves, made of random adapters on a tiny base; read only."""
    from edgekit.building.build import build
    from edgekit.bundling.adapters import AdapterSource
    from tests.peft_adapters import make_peft_adapter

    root = tmp_path_factory.mktemp("docs")
    shutil.copytree(tiny_base, root / TINY_BASE)
    adapters = {}
    for seed, task in enumerate(_TEMPLATES, start=1):
        path = root / "edgekit-demo" / "adapters" / task
        make_peft_adapter(root / TINY_BASE, path, seed=seed, r=2 * seed)
        (path / "edgekit.json").write_text(json.dumps(_record(task, root / TINY_BASE)))
        adapters[task] = AdapterSource(path=path)
    build(
        name="demo",
        base=str(root / TINY_BASE),
        output=root / "edgekit-demo" / "bundle",
        adapters=adapters,
        parity=False,
    )
    return root


def _record(task: str, base: Path) -> dict[str, object]:
    from edgekit.bases import fingerprint_of

    prompt, completion, kind, metrics = _TEMPLATES[task]
    labels = ["anger", "fear", "joy", "sadness", "surprise"] if task == "tone" else None
    return {
        "schema_version": "1.0",
        "base": {"name": TINY_BASE, "source": "test", "fingerprint": fingerprint_of(base)},
        "task": kind,
        "prompt": prompt,
        "completion": completion,
        "messages": None,
        "text_template": None,
        "system": None,
        "metrics": metrics,
        "labels": labels,
        "max_new_tokens": 8,
        "examples": ["Phrase: We won!\nTone:"],
        "license": "apache-2.0",
        "validation": {"n_rows": 2, "metrics": {}},
    }


@pytest.fixture
def reader_directory(demo_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a reader; a copy of the demo's."""
    shutil.copytree(demo_directory, tmp_path, dirs_exist_ok=True)
    shutil.copytree(ROOT / "bundles", tmp_path / "bundles")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def follow(page: Page, directory: Path, *, base: str) -> None:
    """Do what a page says: save its files, run its commands and programs, in its order."""
    for block in page.blocks:
        text = block.text.replace(REAL_BASE, base)
        if block.file_name:
            (directory / block.file_name).write_text(text, encoding="utf-8")
        if not block.is_run:
            continue
        if block.language == "python":
            program = directory / f"block-{block.line}.py"
            program.write_text(text, encoding="utf-8")
            run_python(program)
            continue
        for command in block.commands():
            print(f"{block.place}: {command}")
            run_line(command.replace(REAL_BASE, base))
