"""What the server says to requests that are wrong, too long, too slow, or not allowed."""

import gc
import json
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from edgekit_runtime.errors import ServeError
from edgekit_runtime.serving.settings import ServeSettings
from tests.serving.running import PATIENCE_S, Running, eventually, running

CHAT = "/v1/chat/completions"
SOUND: dict[str, Any] = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "hello"}],
    "max_tokens": 2,
}
MIB = 1024 * 1024


@pytest.fixture
def http(server: Running) -> Iterator[httpx2.Client]:
    with server.http() as found:
        yield found


def refused(answer: httpx2.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    found: dict[str, Any] = error
    return found


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", "Expecting value at line 1, column 1"),
        (b'{"model": ', "Expecting value at line 1, column 11"),
        (b'{"a": NaN}', "NaN is no JSON number"),
        (b'"\xff\xfe"', "not UTF-8"),
        (b"[" * 200_000, "nested too deeply"),
        (b"[]", "the body is no JSON object"),
    ],
)
def test_a_body_that_is_no_json_object(body: bytes, expected: str, http: httpx2.Client) -> None:
    error = refused(http.post(CHAT, content=body), 400)
    assert expected in error["message"]
    assert error["code"] == "invalid_json"


@pytest.mark.parametrize(
    ("path", "changes", "expected"),
    [
        (CHAT, {"model": None}, "model: missing"),
        (CHAT, {"messages": []}, "messages: expected a list of an object with at least 1"),
        (CHAT, {"messages": [{"role": "robot", "content": "a"}]}, "messages[0].role: expected"),
        (CHAT, {"messages": [{"content": "a"}]}, "messages[0].role: missing"),
        (
            CHAT,
            {"messages": [{"role": "user", "content": [{"type": "image_url", "text": ""}]}]},
            "messages[0].content[0].type: expected 'text', got 'image_url'",
        ),
        (CHAT, {"temperature": "hot"}, "temperature: expected a number of at least 0, got 'hot'"),
        (CHAT, {"top_p": 0}, "top_p: expected a number over 0, at most 1, got 0"),
        (CHAT, {"max_tokens": True}, "max_tokens: expected a whole number of at least 1, got True"),
        (CHAT, {"stop": ["a", ""]}, "stop[1]: expected non-empty text, got ''"),
        (CHAT, {"n": 1000}, "n: expected a whole number of at least 1, at most 128, got 1000"),
        (CHAT, {"temprature": 1}, "temprature: no such field; did you mean 'temperature'?"),
        (CHAT, {"logit_bias": {"5": 1}}, "logit_bias: not supported"),
        (CHAT, {"presence_penalty": 0.5}, "presence_penalty: only 0 here"),
        (CHAT, {"top_logprobs": 2}, "logprobs: expected true"),
        (CHAT, {"response_format": {"type": "json_schema"}}, "json_schema: missing"),
        (CHAT, {"response_format": {"type": "json_object", "valu": {}}}, "valu: no such field"),
        (CHAT, {"response_format": {"type": "text", "value": {}}}, "value: expected with json"),
        (CHAT, {"structured_outputs": {"jsn": {}}}, "structured_outputs.jsn: no such field; did"),
        (CHAT, {"tool_choice": "required"}, "tools: missing"),
        ("/v1/completions", {"prompt": None}, "prompt: missing"),
        ("/v1/completions", {"prompt": ["a", 5]}, "prompt[1]: expected text, got 5"),
        ("/v1/completions", {"prompt": [1, 2, 5000]}, "expected ids below 320, got 5000"),
        ("/v1/completions", {"prompt": "a", "max_tokens": 0}, "max_tokens: expected at least 1"),
        ("/v1/completions", {"prompt": ""}, "the prompt is empty"),
        ("/v1/completions", {"prompt": "a\0b"}, "holds a NUL"),
        ("/v1/completions", {"prompt": "a", "suffix": "b"}, "suffix: not supported"),
        ("/v1/completions", {"prompt": ["a"] * 100, "n": 2}, "n: expected n times prompts of at"),
    ],
)
def test_a_malformed_request_names_the_field(
    path: str, changes: dict[str, Any], expected: str, http: httpx2.Client
) -> None:
    sound = SOUND if path == CHAT else {"model": "tiny"}
    error = refused(http.post(path, json=sound | changes), 400)
    assert expected in error["message"]
    assert error["type"] == "invalid_request_error"


def test_every_problem_is_named_at_once(http: httpx2.Client) -> None:
    wrong = {"messages": "hi", "seed": "x", "streem": True}
    error = refused(http.post(CHAT, json=wrong), 400)
    assert [line.split(":")[0].strip() for line in error["message"].splitlines()[1:]] == [
        "model",
        "messages",
        "seed",
        "streem",
    ]
    assert error["param"] == "model"


def test_fields_that_change_nothing_are_taken(http: httpx2.Client) -> None:
    harmless = {
        "user": "me",
        "metadata": {"a": "b"},
        "store": False,
        "frequency_penalty": 0,
        "logit_bias": {},
        "stop": None,
        "modalities": ["text"],
    }
    plain = http.post(CHAT, json=SOUND).json()
    assert http.post(CHAT, json=SOUND | harmless).json()["choices"] == plain["choices"]


def test_half_a_surrogate_pair_comes_back_as_an_error(http: httpx2.Client) -> None:
    body = b'{"model": "\\ud800", "prompt": "a"}'
    assert (
        "there is no model" in refused(http.post("/v1/completions", content=body), 404)["message"]
    )
    body = b'{"model": "tiny", "prompt": "a \\ud800"}'
    assert "no text" in refused(http.post("/v1/completions", content=body), 400)["message"]


def test_unknown_paths_and_methods_have_the_same_shape(http: httpx2.Client) -> None:
    assert refused(http.get("/v1/embeddings"), 404)["message"] == "GET /v1/embeddings: Not Found"
    assert refused(http.get(CHAT), 405)["code"] == "not_found"


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_that_is_too_long(declared: bool, http: httpx2.Client) -> None:
    body = b" " * (3 * MIB)
    content: Any = body if declared else (body[:MIB] for _ in range(3))
    error = refused(http.post(CHAT, content=content), 413)
    assert error["message"] == f"the body is too long: expected at most {2 * MIB} bytes"


def test_a_body_of_a_gigabyte_is_not_waited_for(server: Running) -> None:
    with connection(server) as found:
        head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {1 << 30}\r\n\r\n"
        found.sendall(head.encode() + b" " * 1000)
        assert b" 413 " in everything(found)


@pytest.fixture(scope="module")
def impatient(tiny_bundle: Path) -> Iterator[Running]:
    with running(tiny_bundle, read_timeout_s=0.5, keep_alive_s=0.5) as found:
        yield found


@pytest.mark.parametrize("sent", [b"", b"POST /v1/completions HTTP/1.1\r\nhost: local"])
def test_a_client_that_does_not_send_its_headers_is_let_go(sent: bytes, impatient: Running) -> None:
    with connection(impatient) as found:
        found.sendall(sent)
        assert everything(found).startswith(b"HTTP/1.1 408 ")


def test_a_client_that_trickles_its_headers_is_let_go(impatient: Running) -> None:
    with connection(impatient) as found:
        found.settimeout(0.1)
        head = b"GET /health HTTP/1.1\r\nhost: localhost\r\nx-slow: " + b"a" * 1000
        answer = b""
        for byte in head:  # one byte in a tenth of a second: every pause is short
            try:
                found.sendall(bytes([byte]))
                answer = found.recv(100)
                break
            except TimeoutError:
                continue
        assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_client_that_does_not_send_its_body_is_told_so(impatient: Running) -> None:
    with connection(impatient) as found:
        found.sendall(f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\n".encode())
        found.sendall(b'content-length: 100\r\n\r\n{"model"')
        answer = everything(found)
        assert answer.startswith(b"HTTP/1.1 408 ")
        told = json.loads(answer.partition(b"\r\n\r\n")[2])
        assert told["error"]["message"] == "the body did not come within 0.5 s"


def test_an_idle_connection_is_closed_after_an_answer(impatient: Running) -> None:
    with connection(impatient) as found:
        found.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert everything(found).startswith(b"HTTP/1.1 200 ")


def test_a_connection_that_breaks_off_leaves_nothing_behind(server: Running) -> None:
    from edgekit_runtime.serving.protocol import PatientProtocol

    with connection(server) as found:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        found.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        found.recv(10)

    def is_left() -> bool:
        gc.collect()
        known = [one for one in gc.get_objects() if isinstance(one, PatientProtocol)]
        return any(one.transport.is_closing() for one in known)

    eventually(lambda: not is_left())


def test_what_is_no_http_is_refused(server: Running) -> None:
    with connection(server) as found:
        found.sendall(b"\x16\x03\x01\x02\x00\x01\r\n\r\n")
        assert everything(found).startswith(b"HTTP/1.1 400 ")


def connection(to: Running) -> socket.socket:
    host, port = to.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE_S)


def everything(of: socket.socket) -> bytes:
    """What comes until the server closes the connection."""
    parts = []
    while part := of.recv(65536):
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "evil.example:80"},
        {"host": "[localhost"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
    ],
)
def test_a_web_page_cannot_use_a_server_without_a_key(
    headers: dict[str, str], http: httpx2.Client
) -> None:
    error = refused(http.post(CHAT, json=SOUND, headers=headers), 403)
    assert "Start the server with an API key" in error["message"]


def test_a_page_of_the_server_itself_may_ask(server: Running, http: httpx2.Client) -> None:
    assert http.post(CHAT, json=SOUND, headers={"origin": server.url}).status_code == 200


@pytest.fixture(scope="module")
def locked(tiny_bundle: Path) -> Iterator[Running]:
    with running(tiny_bundle, api_key="correct-horse") as found:
        yield found


def test_a_key_opens_the_server(locked: Running) -> None:
    with locked.openai() as client:
        assert len(client.models.list().data) == 3
    with locked.openai() as client, pytest.raises(openai.AuthenticationError) as caught:
        client.with_options(api_key="wrong-horse").models.list()
    assert (caught.value.code, caught.value.status_code) == ("invalid_api_key", 401)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, "no API key: expected 'Authorization: Bearer KEY'"),
        ({"authorization": "Bearer correct-hors"}, "wrong API key"),
        ({"authorization": "Basic correct-horse"}, "wrong API key"),
        ({"authorization": "Bearer \u00fc".encode()}, "wrong API key"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/openapi.json", "/nothing"])
def test_without_the_key_nothing_is_told(
    headers: dict[str, Any], expected: str, path: str, locked: Running
) -> None:
    with locked.http() as client:
        assert refused(client.get(path, headers=headers), 401)["message"] == expected


def test_health_and_page_need_no_key_and_tell_no_names(locked: Running) -> None:
    with locked.http() as client:
        assert client.get("/health").json() == {"status": "ok"}
        page = client.get("/")
        assert page.status_code == 200
        assert "tiny" not in page.text
        # With a key, other hosts and origins are welcome.
        headers = {"authorization": "Bearer correct-horse", "host": "edge.example"}
        assert client.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"host": "0.0.0.0"}, ["expected an API key", "expected TLS"]),
        ({"host": "192.168.1.5", "api_key": "long-enough"}, ["expected TLS"]),
        ({"host": "::", "ssl_keyfile": Path("k.pem")}, ["both a key file and a certificate"]),
        ({"ssl_keyfile": Path("no.pem"), "ssl_certfile": Path("no.pem")}, ["No such file"]),
        ({"api_key": "short"}, ["at least 8 ASCII characters"]),
        ({"adapters_from": Path("/nowhere")}, ["/nowhere is no directory"]),
    ],
)
def test_settings_that_would_open_the_server_or_not_work_are_refused(
    settings: dict[str, Any], expected: list[str], tmp_path: Path
) -> None:
    with pytest.raises(ServeError) as caught:
        ServeSettings(bundle=tmp_path, **settings).check()
    for words in expected:
        assert words in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [{}, {"host": "::1"}, {"host": "localhost"}, {"host": "0.0.0.0", "is_insecure": True}],
)
def test_settings_that_are_sound(settings: dict[str, Any], tmp_path: Path) -> None:
    ServeSettings(bundle=tmp_path, **settings).check()


def test_the_description_has_every_field(http: httpx2.Client) -> None:
    from edgekit_runtime.serving.fields import CHAT as FIELDS

    found = http.get("/openapi.json").json()
    body = found["paths"][CHAT]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["properties"]) == set(FIELDS)
    assert found["openapi"].startswith("3.1")
