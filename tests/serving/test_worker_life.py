"""The worker dies, hangs, or is no longer wanted; the queue is full; the server ends."""

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from edgekit_runtime.errors import ServeError
from tests.serving.running import PATIENCE_S, Running, eventually, running

# Many choices one after the other: an answer that is far from done when its first text comes.
LONG: dict[str, Any] = {
    "model": "tiny",
    "prompt": "the card is lost",
    "n": 100,
    "max_tokens": 100,
    "temperature": 1.0,
    "seed": 3,
}
SHORT: dict[str, Any] = {"model": "tiny:beta", "prompt": "turn on the light", "max_tokens": 6}


@pytest.fixture
def server(tiny_bundle: Path) -> Iterator[Running]:
    """A server of its own for each test."""
    with running(tiny_bundle, parallel=1, max_waiting=2, shutdown_timeout_s=0.5) as found:
        yield found


def text_of(answer: httpx2.Response) -> str:
    return str(answer.json()["choices"][0]["text"])


def events(answer: httpx2.Response) -> Iterator[Any]:
    """What a stream of server-sent events holds."""
    for line in answer.iter_lines():
        if line:
            data = line.removeprefix("data: ")
            yield data if data == "[DONE]" else json.loads(data)


def test_a_worker_that_dies_fails_its_answers_and_another_one_takes_the_next(
    server: Running,
) -> None:
    with server.http() as http:
        expected = text_of(http.post("/v1/completions", json=SHORT))
        with http.stream("POST", "/v1/completions", json=LONG | {"stream": True}) as answer:
            told = events(answer)
            assert next(told)["choices"][0]["text"]
            server.kill_worker()
            *_, last = told
        assert last["error"] == {
            "message": "the worker process died while it answered\n"
            "Another one is started; ask again.",
            "type": "server_error",
            "param": None,
            "code": "worker_died",
        }
        assert text_of(http.post("/v1/completions", json=SHORT)) == expected
    assert server.metric("edgekit_worker_starts_total") == 2
    assert server.metric("edgekit_requests_running") == 0


def test_the_official_client_sees_a_dead_worker_as_an_error(server: Running) -> None:
    with server.openai() as client:
        with server.frozen_worker(), ThreadPoolExecutor() as pool:
            asked = pool.submit(client.completions.create, **SHORT)
            eventually(lambda: server.service.turns.n_running == 1)
            server.kill_worker()
            with pytest.raises(openai.InternalServerError) as caught:
                asked.result()
        assert caught.value.code == "worker_died"
        with client.completions.create(**LONG, stream=True) as stream:
            next(iter(stream))
            server.kill_worker()
            with pytest.raises(openai.APIError, match="the worker process died"):
                list(stream)


def test_those_who_wait_when_the_worker_dies_are_answered_by_the_next(server: Running) -> None:
    with server.http() as http, ThreadPoolExecutor() as pool:
        expected = text_of(http.post("/v1/completions", json=SHORT))
        with server.frozen_worker():
            first = pool.submit(http.post, "/v1/completions", json=SHORT)
            eventually(lambda: server.service.turns.n_running == 1)
            second = pool.submit(http.post, "/v1/completions", json=SHORT)
            eventually(lambda: server.service.turns.n_waiting == 1)
            server.kill_worker()
            assert first.result().status_code == 500
            assert text_of(second.result()) == expected


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_ends_its_answer(stream: bool, server: Running) -> None:
    with server.http() as http, server.frozen_worker():
        asked = LONG | {"stream": stream}
        with pytest.raises(httpx2.ReadTimeout):
            http.post("/v1/completions", json=asked, timeout=0.5)
    eventually(lambda: server.service.turns.n_running == 0)
    assert server.metric("edgekit_cancelled_total") == 1
    assert server.metric('edgekit_tokens_total{model="tiny",kind="completion"}') == 0
    assert server.metric("edgekit_worker_starts_total") == 1
    with server.http() as http:
        assert http.post("/v1/completions", json=SHORT).status_code == 200


def test_a_client_that_leaves_in_mid_stream_ends_its_answer(server: Running) -> None:
    with server.http() as http:
        with http.stream("POST", "/v1/completions", json=LONG | {"stream": True}) as answer:
            next(events(answer))
        eventually(lambda: server.service.turns.n_running == 0)
    assert server.metric("edgekit_cancelled_total") == 1


def test_the_queue_is_bounded_and_says_when_to_come_again(server: Running) -> None:
    with server.http() as http, ThreadPoolExecutor() as pool:
        with server.frozen_worker():
            asked = [pool.submit(http.post, "/v1/completions", json=SHORT)]
            eventually(lambda: server.service.turns.n_running == 1)
            asked += [pool.submit(http.post, "/v1/completions", json=SHORT) for _ in range(2)]
            eventually(lambda: server.service.turns.n_waiting == 2)
            full = http.post("/v1/completions", json=SHORT)
            assert full.status_code == 429
            assert full.json()["error"]["code"] == "queue_full"
            assert 1 <= int(full.headers["retry-after"]) <= 60
            with server.openai() as client, pytest.raises(openai.RateLimitError):
                client.completions.create(**SHORT)
        assert {one.result().status_code for one in asked} == {200}


def test_one_who_waits_and_leaves_frees_the_place(server: Running) -> None:
    with server.http() as http, server.frozen_worker(), ThreadPoolExecutor() as pool:
        first = pool.submit(http.post, "/v1/completions", json=SHORT)
        eventually(lambda: server.service.turns.n_running == 1)
        with pytest.raises(httpx2.ReadTimeout):
            http.post("/v1/completions", json=SHORT, timeout=0.3)
        eventually(lambda: server.service.turns.n_waiting == 0)
        server.kill_worker()
        first.result()


def test_a_request_that_takes_too_long_is_given_up(tiny_bundle: Path) -> None:
    with running(tiny_bundle, request_timeout_s=1.0) as server, server.http() as http:
        assert http.post("/v1/completions", json=SHORT | {"max_tokens": 1}).status_code == 200
        with server.frozen_worker():
            answer = http.post("/v1/completions", json=SHORT)
            assert answer.status_code == 504
            assert answer.json()["error"]["message"] == "no answer within 1 s"
        eventually(lambda: server.service.turns.n_running == 0)


def test_a_server_that_ends_lets_short_answers_finish(tiny_bundle: Path) -> None:
    with running(tiny_bundle, shutdown_timeout_s=PATIENCE_S) as server, server.http() as http:
        asked = LONG | {"stream": True, "n": 5}
        with http.stream("POST", "/v1/completions", json=asked) as answer:
            told = events(answer)
            next(told)
            server.stop()
            *_, last = told
        assert last == "[DONE]"


def test_a_server_that_ends_gives_up_answers_that_take_too_long(server: Running) -> None:
    with server.http() as http, server.frozen_worker(), ThreadPoolExecutor() as pool:
        asked = pool.submit(http.post, "/v1/completions", json=SHORT)
        eventually(lambda: server.service.turns.n_running == 1)
        server.stop()
        answer = asked.result()
        assert answer.status_code == 503
        assert answer.json()["error"]["message"] == "the server is shutting down"


def test_health_says_when_there_is_no_worker(server: Running) -> None:
    states = set()
    with server.http() as http:
        assert http.get("/health").status_code == 200
        server.kill_worker()

        def is_seen() -> bool:
            answer = http.get("/health")
            states.add((answer.status_code, answer.json()["status"]))
            return (503, "starting") in states

        eventually(is_seen)
        eventually(lambda: http.get("/health").status_code == 200)


def test_a_bundle_that_cannot_be_served_is_refused_at_the_start(tmp_path: Path) -> None:
    with (
        pytest.raises(ServeError, match="is not a bundle"),
        running(tmp_path),
    ):
        pass


def test_a_port_that_is_taken(server: Running, tiny_bundle: Path) -> None:
    port = int(server.url.rpartition(":")[2])
    with (
        pytest.raises(ServeError, match=rf"cannot listen on 127\.0\.0\.1, port {port}"),
        running(tiny_bundle, port=port),
    ):
        pass


class TestAdaptersFromOutside:
    @pytest.fixture(scope="class")
    def open_server(self, tiny_bundle: Path) -> Iterator[Running]:
        with running(tiny_bundle, adapters_from=tiny_bundle / "adapters") as found:
            yield found

    def test_one_is_loaded_used_and_unloaded(self, open_server: Running) -> None:
        with open_server.http() as http:
            body = {"lora_name": "guest", "lora_path": "beta"}
            added = http.post("/v1/load_lora_adapter", json=body)
            assert added.text == "Success: LoRA adapter 'guest' added successfully."
            names = [model["id"] for model in http.get("/v1/models").json()["data"]]
            assert names[-1] == "tiny:guest"
            expected = text_of(http.post("/v1/completions", json=SHORT))
            own = SHORT | {"model": "guest"}
            assert text_of(http.post("/v1/completions", json=own)) == expected
            open_server.kill_worker()  # the next one has it too
            eventually(lambda: http.get("/health").status_code == 503)
            assert text_of(http.post("/v1/completions", json=own)) == expected
            again = http.post("/v1/load_lora_adapter", json=body)
            assert (again.status_code, again.json()["error"]["param"]) == (400, "lora_name")
            gone = http.post("/v1/unload_lora_adapter", json={"lora_name": "guest"})
            assert gone.text == "Success: LoRA adapter 'guest' removed successfully."
            assert http.post("/v1/completions", json=own).status_code == 404

    @pytest.mark.parametrize(
        ("body", "expected"),
        [
            ({"lora_name": "x"}, "lora_path: expected text"),
            ({"lora_name": "../x", "lora_path": "beta"}, "lora_name: expected letters"),
            ({"lora_name": "beta", "lora_path": "beta"}, "lora_name: 'beta' is served"),
            ({"lora_name": "x", "lora_path": "../manifest.json"}, "a path in the directory of"),
            ({"lora_name": "x", "lora_path": "/etc"}, "a path in the directory of"),
            ({"lora_name": "x", "lora_path": "nothing"}, "adapter.json: No such file"),
        ],
    )
    def test_one_that_cannot_be_loaded(
        self, body: dict[str, str], expected: str, open_server: Running
    ) -> None:
        with open_server.http() as http:
            answer = http.post("/v1/load_lora_adapter", json=body)
            assert answer.status_code == 400
            assert expected in answer.json()["error"]["message"]

    def test_the_bundles_own_stay(self, open_server: Running) -> None:
        with open_server.http() as http:
            answer = http.post("/v1/unload_lora_adapter", json={"lora_name": "beta"})
            assert "'beta' is part of the bundle" in answer.json()["error"]["message"]
            answer = http.post("/v1/unload_lora_adapter", json={"lora_name": "other"})
            assert answer.status_code == 404

    def test_nobody_loads_where_it_is_not_allowed(self, server: Running) -> None:
        with server.http() as http:
            body = {"lora_name": "x", "lora_path": "beta"}
            for path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter"):
                answer = http.post(path, json=body)
                assert answer.status_code == 403
                assert "--allow-adapters-from" in answer.json()["error"]["message"]


def test_a_client_that_does_not_read_its_stream_is_given_up(tiny_bundle: Path) -> None:
    """Its answer fills the buffers, the time is over, and not even the error can be sent."""
    asked = json.dumps(LONG | {"stream": True, "n": 128, "max_tokens": 400, "logprobs": 20})
    with (
        running(tiny_bundle, request_timeout_s=10.0, read_timeout_s=0.5) as server,
        socket.socket() as client,
    ):
        host, port = server.url.removeprefix("http://").split(":")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((host, int(port)))
        head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: "
        client.sendall(f"{head}{len(asked)}\r\n\r\n{asked}".encode())
        eventually(lambda: server.service.turns.n_running == 1)
        assert server.server is not None
        state = server.server.server_state
        eventually(lambda: not state.tasks)
        eventually(lambda: server.service.turns.n_running == 0)
