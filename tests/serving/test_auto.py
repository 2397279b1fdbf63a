"""The model that picks an adapter for each message: ``bundle:auto``."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from edgekit_runtime import Engine, ServeError
from edgekit_runtime.errors import ContextLengthError
from edgekit_runtime.loaded import LoadedTarget
from edgekit_runtime.serving.settings import RouteSettings, ServeSettings, read_examples
from edgekit_runtime.serving.worker import open_router, open_target
from tests.serving.running import Running, running

EXAMPLES = {
    "alpha": ["where is my card", "my card is lost", "the payment was not found"],
    "beta": ["turn on the light", "light off", "open the door"],
}
TEXTS = [text for texts in EXAMPLES.values() for text in texts]
EVERY = RouteSettings(examples=EXAMPLES, threshold=-1.0)


@pytest.fixture(scope="module")
def routing(tiny_bundle: Path) -> Iterator[Running]:
    """A server that sends every message to one of the two adapters."""
    with running(tiny_bundle, route=EVERY) as found:
        yield found


@pytest.fixture
def client(routing: Running) -> Iterator[OpenAI]:
    with routing.openai() as found:
        yield found


def chat(client: OpenAI, *said: str, model: str = "tiny:auto", **options: Any) -> Any:
    messages = [{"role": "user", "content": text} for text in said]
    return client.chat.completions.create(
        model=model, **({"messages": messages, "max_tokens": 4} | options)
    )


def test_it_is_one_more_model(routing: Running, client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [
        "tiny",
        "tiny:alpha",
        "tiny:beta",
        "tiny:auto",
    ]
    with routing.http() as http:
        found = http.get("/v1/models/auto").json()
    assert (found["id"], found["parent"]) == ("tiny:auto", "tiny")
    assert found["routes_to"] == ["alpha", "beta"]


@pytest.mark.parametrize("text", TEXTS)
def test_the_picked_adapter_answers_and_the_answer_names_it(
    text: str, client: OpenAI, engine: Engine
) -> None:
    picked = engine.router(EXAMPLES, threshold=-1.0).route(text).adapter
    answer = chat(client, text)
    assert answer.model == f"tiny:{picked}"
    named = chat(client, text, model=answer.model)
    assert answer.choices[0].message.content == named.choices[0].message.content
    assert answer.usage.prompt_tokens == named.usage.prompt_tokens


def test_what_the_user_said_last_decides(client: OpenAI) -> None:
    card, light = TEXTS[0], TEXTS[3]
    assert chat(client, card, light).model == chat(client, light).model == "tiny:beta"
    assert chat(client, light, card).model == chat(client, card).model == "tiny:alpha"


def test_a_stream_names_it_from_its_first_piece(client: OpenAI) -> None:
    pieces = list(chat(client, TEXTS[3], stream=True, n=2))
    assert {piece.model for piece in pieces} == {"tiny:beta"}


def test_no_words_and_no_likeness_go_to_the_base(client: OpenAI, tiny_bundle: Path) -> None:
    assert chat(client, " ").model == "tiny"
    only_system = [{"role": "system", "content": "Be short."}]
    assert chat(client, messages=only_system).model == "tiny"
    strict = RouteSettings(examples=EXAMPLES, threshold=1.1)
    with running(tiny_bundle, route=strict) as server, server.openai() as other:
        assert {chat(other, text).model for text in TEXTS} == {"tiny"}


def test_it_picks_anew_after_the_worker_died(routing: Running, client: OpenAI) -> None:
    before = [chat(client, text).model for text in TEXTS]
    n_starts = routing.service.supervisor.n_starts
    routing.kill_worker()
    assert chat(client.with_options(max_retries=8), TEXTS[0]).model == before[0]
    assert [chat(client, text).model for text in TEXTS] == before
    assert routing.service.supervisor.n_starts == n_starts + 1


def test_the_adapters_own_examples_will_do(tiny_bundle: Path) -> None:
    """alpha records some; beta, which records none, is asked by its name."""
    with running(tiny_bundle, route=RouteSettings()) as server, server.http() as http:
        assert http.get("/v1/models/tiny:auto").json()["routes_to"] == ["alpha"]


def test_a_completion_names_its_adapter(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="no adapter can be picked") as caught:
        client.completions.create(model="auto", prompt="where is my card", max_tokens=4)
    assert caught.value.body["param"] == "model"


def test_without_routing_there_is_no_such_model(server: Running) -> None:
    with server.openai() as client, pytest.raises(openai.NotFoundError, match="tiny:auto"):
        chat(client, TEXTS[0])


def test_an_adapter_of_that_name_is_refused(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LoadedTarget, "adapter_names", lambda _: ["auto"])
    loaded = open_target(ServeSettings(bundle=tiny_bundle).for_worker())
    with closing(loaded), pytest.raises(ServeError, match="'auto'"):
        open_router(loaded, {"examples": EXAMPLES, "threshold": None})


@pytest.mark.parametrize("texts", [3, None, {"a": 1, "b": 2}, ["a", 5]])
def test_examples_of_another_kind_are_refused(texts: Any, tiny_bundle: Path) -> None:
    route = RouteSettings(examples={"alpha": texts})
    with (
        pytest.raises(ServeError, match="alpha: expected a list of texts"),
        running(tiny_bundle, route=route),
    ):
        pass


def test_a_text_beyond_the_context_is_too_long(engine: Engine) -> None:
    router = engine.router(EXAMPLES, threshold=-1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine._loaded, "context_length", 16)
        with pytest.raises(ContextLengthError, match="too long to be routed"):
            router.route("where is my card " * 9)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[1]", "expected an object, adapter name to list of texts, got list"),
        ('{"alpha": ["a", "b"], "alpha": []}', "an object has a name twice: 'alpha'"),
        ("{", "examples.json"),
    ],
)
def test_a_file_that_holds_no_examples_is_refused(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "examples.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ServeError, match=told):
        read_examples(path)


def test_examples_that_do_not_do_are_refused_before_it_listens(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    path = tmp_path / "examples.json"
    path.write_text(json.dumps({"alfa": ["a", "b"], "beta": ["one"]}), encoding="utf-8")
    route = RouteSettings(examples=read_examples(path))
    with pytest.raises(ServeError) as caught, running(tiny_bundle, route=route):
        pass
    assert "did you mean 'alpha'?" in str(caught.value)
    assert "beta: expected 2 texts or more, got 1" in str(caught.value)
