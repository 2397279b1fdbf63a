"""``edgekit serve`` and ``edgekit-run serve`` as processes: what they say, and how they end."""

import json
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from tests.serving.running import PATIENCE_S, eventually

_MAIN = "import sys; from {}.cli import main; sys.exit(main(sys.argv[1:]))"
SECRET = "my secret is 4711"


@contextmanager
def command(module: str, *words: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """A server as a process of its own; killed if it is still there at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", _MAIN.format(module), "serve", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | variables,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_it_says_where_it_is_and_ends_by_a_signal(
    sent: signal.Signals, code: int, tiny_bundle: Path
) -> None:
    with command("edgekit", str(tiny_bundle), "--port", "0", "--json") as process:
        told = json.loads(first_line(process))
        assert told["models"] == ["tiny", "tiny:alpha", "tiny:beta"]
        assert told["target"] == "cpu"
        worker = psutil.Process(told["worker_pid"])
        assert httpx2.get(f"{told['url']}/models").status_code == 200
        process.send_signal(sent)
        out, err = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, out) == (code, "")
        assert "Traceback" not in err
        eventually(lambda: not worker.is_running())


def test_it_ends_an_answer_that_runs_and_nothing_is_left(tiny_bundle: Path) -> None:
    words = [str(tiny_bundle), "--port", "0", "--json", "--shutdown-timeout", "0.2"]
    asked = {"model": "tiny", "prompt": "a", "n": 128, "max_tokens": 400, "temperature": 1}
    with command("edgekit_runtime", *words) as process:
        told = json.loads(first_line(process))
        with httpx2.stream(
            "POST", f"{told['url']}/completions", json=asked | {"stream": True}, timeout=PATIENCE_S
        ) as answer:
            lines = (line for line in answer.iter_lines() if line)
            next(lines)
            process.send_signal(signal.SIGTERM)
            *_, last = lines
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "shutting_down"
        assert process.wait(PATIENCE_S) == 0


def test_the_worker_ends_when_its_server_is_killed(tiny_bundle: Path) -> None:
    with command("edgekit", str(tiny_bundle), "--port", "0", "--json") as process:
        worker = psutil.Process(json.loads(first_line(process))["worker_pid"])
        process.kill()
        eventually(lambda: not worker.is_running())


def test_prompts_and_answers_are_not_logged(tiny_bundle: Path) -> None:
    with command("edgekit", str(tiny_bundle), "--port", "0", "--access-log") as process:
        url = first_line(process)
        sound: dict[str, Any] = {"model": "tiny", "prompt": SECRET, "max_tokens": 20}
        answer = httpx2.post(f"{url}/completions", json=sound, timeout=PATIENCE_S).json()
        httpx2.post(f"{url}/completions", json=sound | {"prompt": SECRET * 500})
        httpx2.post(f"{url}/completions", json=sound | {"prompt": {"a": SECRET}})
        httpx2.post(f"{url}/completions", content=SECRET)
        httpx2.post(f"{url}/chat/completions", json={"model": "tiny", "messages": [SECRET]})
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=PATIENCE_S)
    assert "4711" not in out + err
    assert answer["choices"][0]["text"] not in out + err
    assert '"POST /v1/completions HTTP/1.1" 200' in err
    assert "tiny 0.1.0 on cpu: tiny, tiny:alpha, tiny:beta" in err


def test_the_key_comes_from_the_environment(tiny_bundle: Path) -> None:
    variables = {"EDGEKIT_API_KEY": "from-the-environment"}
    with command("edgekit", str(tiny_bundle), "--port", "0", **variables) as process:
        url = first_line(process)
        assert httpx2.get(f"{url}/models").status_code == 401
        headers = {"authorization": "Bearer from-the-environment"}
        assert httpx2.get(f"{url}/models", headers=headers).status_code == 200


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A key and a certificate for localhost, signed by itself."""
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    words += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(cert)]
    made = subprocess.run(["openssl", *words], capture_output=True)
    if made.returncode:
        pytest.skip("openssl is not there to make a certificate")
    return key, cert


def test_beyond_this_machine_it_speaks_tls(
    tiny_bundle: Path, certificate: tuple[Path, Path]
) -> None:
    key, cert = certificate
    words = [str(tiny_bundle), "--port", "0", "--host", "0.0.0.0", "--api-key", "long-enough"]
    words += ["--ssl-keyfile", str(key), "--ssl-certfile", str(cert)]
    with command("edgekit", *words) as process:
        port = first_line(process).rpartition(":")[2].removesuffix("/v1")
        trust = ssl.create_default_context(cafile=str(cert))
        headers = {"authorization": "Bearer long-enough"}
        found = httpx2.get(f"https://localhost:{port}/v1/models", verify=trust, headers=headers)
        assert len(found.json()["data"]) == 3


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["--host", "0.0.0.0"], 1, "0.0.0.0 can be reached from other machines: expected an API"),
        (["--port", "70000"], 2, "should be less than or equal to 65535"),
        (["--target", "moon"], 1, "moon"),
        (["--context-length", "100000"], 1, "context_length: expected 2 to 512, got 100000"),
        (["--reuse", "slow"], 2, "'slow' is not one of 'exact', 'fast'"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_message(
    words: list[str], code: int, expected: str, tiny_bundle: Path
) -> None:
    with command("edgekit", str(tiny_bundle), "--port", "0", *words, COLUMNS="200") as process:
        out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out) == (code, "")
    assert expected in err
    assert "Traceback" not in err


def test_a_directory_that_is_no_bundle(tmp_path: Path) -> None:
    with command("edgekit", str(tmp_path), "--port", "0") as process:
        _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert err.startswith(f"error: {tmp_path} is not a bundle")


def test_without_the_extra_it_says_what_to_install(tiny_bundle: Path) -> None:
    code = (
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name: None if name == 'uvicorn' else find(name)\n"
        f"from edgekit_runtime.cli import main; sys.exit(main(['serve', {str(tiny_bundle)!r}]))"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 1
    assert process.stderr == (
        "error: this command needs uvicorn\nInstall them: pip install 'edgekit-runtime[serve]'\n"
    )


def test_the_server_itself_imports_nothing_of_the_model(tiny_bundle: Path) -> None:
    code = (
        "import json, sys\n"
        "import edgekit_runtime.serving.server\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"numpy", "onnxruntime", "onnxruntime_genai", "torch", "edgekit", "pydantic", "typer"}
    assert heavy.isdisjoint(json.loads(done.stdout))
