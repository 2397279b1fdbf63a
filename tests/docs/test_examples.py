"""The programs under docs/examples do what they say."""

import asyncio
import importlib.util
import shutil
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgekit_runtime import Bundle
from tests.docs.pages import ROOT

EXAMPLES = ROOT / "docs" / "examples"
PHRASES = ["We won the cup!", "Not again, the train is late.", "Who is at the door?"]


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """An example as a module, such as its own processes import it again."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def run(name: str, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
    """Run an example; what it writes is bytes, since text would have other line ends."""
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    return subprocess.run(command, capture_output=True, timeout=300)


@pytest.fixture(scope="module")
def demo_bundle(demo_directory: Path) -> Path:
    return demo_directory / "edgekit-demo" / "bundle"


def test_the_script_sorts_every_line_under_its_label(demo_bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "messages.txt"
    file.write_text("\n\n".join(PHRASES))
    done = run("sort_messages.py", str(demo_bundle), "tone", str(file))
    assert done.returncode == 0, done.stderr.decode()
    expected = {}
    with Bundle.open(demo_bundle).engine(threads=1) as engine:
        for phrase in PHRASES:
            expected[phrase] = engine.classify(phrase, adapter="tone").label
    label, found = "", {}
    for line in done.stdout.decode().splitlines():
        if line.startswith("  "):
            found[line.strip()] = label
        else:
            label = line.split(" (")[0]
    assert found == expected


def test_the_script_says_what_is_wrong_in_a_line(demo_bundle: Path) -> None:
    done = run("sort_messages.py", str(demo_bundle), "tune", __file__)
    assert done.returncode == 1
    assert done.stderr.startswith(b"error: bundle 'demo' has no adapter 'tune'")


def test_the_model_in_another_process_answers_as_here(demo_bundle: Path) -> None:
    done = run("in_another_process.py", str(demo_bundle), "Once upon a time")
    assert done.returncode == 0, done.stderr.decode()
    with Bundle.open(demo_bundle).engine() as engine:
        expected = engine.generate("Once upon a time", max_new_tokens=64).text
    assert done.stdout.decode() == expected + "\n"


def test_a_model_process_that_dies_leaves_the_app_alive(
    demo_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    example: Any = load("in_another_process", monkeypatch)
    with (
        pytest.raises(BrokenProcessPool),
        example.model_process(str(demo_bundle)) as pool,
    ):
        pool.submit(os._exit, 9).result()
    with example.model_process(str(demo_bundle)) as pool:
        assert isinstance(pool.submit(example.ask, "Once", None, 4).result(), str)


@pytest.fixture
def service(demo_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("fastapi")
    from starlette.testclient import TestClient

    monkeypatch.setenv("EDGEKIT_BUNDLE", str(demo_bundle))
    example: Any = load("fastapi_app", monkeypatch)
    with TestClient(example.app) as client:
        yield client


def test_the_web_service_answers_at_once_and_as_a_stream(service: Any, demo_bundle: Path) -> None:
    asked = {"text": "We won the cup!", "adapter": "tone", "max_new_tokens": 6}
    answer = service.post("/answer", json=asked).json()
    with Bundle.open(demo_bundle).engine() as engine:
        expected = engine.generate(
            messages=[{"role": "user", "content": asked["text"]}], adapter="tone", max_new_tokens=6
        )
    assert answer["text"] == expected.text
    assert answer["completion_tokens"] == expected.usage.completion_tokens
    assert service.post("/stream", json=asked).text == expected.text


def test_the_web_service_refuses_what_is_wrong(service: Any) -> None:
    for path in ("/answer", "/stream"):
        refused = service.post(path, json={"text": "Hello", "adapter": "tune"})
        assert refused.status_code == 422
        assert refused.json()["detail"].startswith("bundle 'demo' has no adapter 'tune'")


def test_the_terminal_chat_swaps_in_the_conversation(
    demo_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("textual")
    example: Any = load("textual_chat", monkeypatch)

    async def talk(app: Any) -> None:
        from textual.widgets import Select

        async with app.run_test() as pilot:
            await pilot.press(*"Hi", "enter")
            await app.workers.wait_for_complete()
            app.query_one("#adapter", Select).value = "tone"
            await pilot.press(*"Well", "enter")
            await app.workers.wait_for_complete()

    with Bundle.open(demo_bundle).engine(threads=1) as engine:
        app = example.Chat(engine)
        app.session = engine.session(max_new_tokens=4)
        asyncio.run(talk(app))
        said = [m["content"] for m in app.session.messages if m["role"] == "user"]
        assert said == ["Hi", "Well"]
        assert app.session.adapter == "tone"


def test_escape_stops_an_answer_in_the_terminal_chat(
    demo_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("textual")
    example: Any = load("textual_chat", monkeypatch)

    async def talk(app: Any) -> None:
        async with app.run_test() as pilot:
            await pilot.press(*"Hi", "enter")
            while not app.query("#log .said"):
                await pilot.pause()
            await pilot.press("escape")
            while app.query_one("Input").disabled:
                await pilot.pause()

    with Bundle.open(demo_bundle).engine(threads=1) as engine:
        app = example.Chat(engine)
        app.session = engine.session(regex="[a-e]{400}", max_new_tokens=400, temperature=1.0)
        asyncio.run(talk(app))
        assert (app.session.stats.usage is None) or app.session.stats.usage.completion_tokens < 400


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_javascript_chats_through_the_server(demo_bundle: Path) -> None:
    from tests.serving.running import running

    with running(demo_bundle) as server:
        url = f"{server.url}/v1"
        command = ["node", str(EXAMPLES / "chat.mjs"), url]
        asked = subprocess.run(
            [*command, "demo:tone", PHRASES[0]], capture_output=True, text=True, timeout=300
        )
        assert asked.returncode == 0, asked.stderr
        answer = server.openai().chat.completions.create(
            model="demo:tone", messages=[{"role": "user", "content": PHRASES[0]}]
        )
        assert asked.stdout == (answer.choices[0].message.content or "") + "\n"
        wrong = subprocess.run(
            [*command, "demo:tune", PHRASES[0]], capture_output=True, text=True, timeout=300
        )
        assert (wrong.returncode, wrong.stdout) == (1, "")
        assert wrong.stderr.startswith("there is no model 'demo:tune'")
