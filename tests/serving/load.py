"""Mixed load on a server: ``python -m tests.serving.load BUNDLE --minutes 10``.

Eight clients ask the base and three adapters, whole and as streams, and go away now and then; once
a minute the worker is killed. Every answer has to be complete and the same as in a quiet run, or to
fail cleanly; memory may not grow after the first minute. What stands behind ``--`` goes to
``edgekit serve``.
"""

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil

_MAIN = "import sys; from edgekit_runtime.cli import main; sys.exit(main(sys.argv[1:]))"
_WORDS = ("where", "is", "the card", "that", "was lost", "when", "the light", "was on", "there")
_SCHEMA = {
    "type": "object",
    "properties": {"found": {"type": "boolean"}, "n": {"type": "integer", "maximum": 99}},
    "required": ["found", "n"],
    "additionalProperties": False,
}
_CLEAN = frozenset({"worker_died", "queue_full"})
_LEAVES = 0.15  # share of requests whose client goes away


@dataclass
class Findings:
    """What the load brought.

    Attributes:
        outcomes: How many requests were complete, left, or failed cleanly, by the code.
        wrong: What should not have been.
        ttft_ms: Of streams.
        rss_bytes: Of server and worker together, every half second, with the time since the start.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    ttft_ms: list[float] = field(default_factory=list)
    rss_bytes: list[tuple[float, int]] = field(default_factory=list)


class Load:
    """Clients, a killer, and a sampler on one server.

    Args:
        url: With ``/v1``.
        process: The server.
        models: What is asked.
        seed: Of everything by chance.
    """

    def __init__(self, url: str, process: psutil.Process, models: list[str], seed: int) -> None:
        self.found = Findings()
        self._url = url
        self._process = process
        self._requests = _requests(models, random.Random(seed))
        self._quiet: list[str] = []
        self._end = threading.Event()
        self._lock = threading.Lock()

    def run(self, *, seconds: float, n_clients: int, kill_every_s: float) -> None:
        """Ask quietly, then under load."""
        with httpx2.Client(timeout=600) as http:
            self._quiet = [self._ask(http, body, leaves=False)[1] for body in self._requests]
        self.found = Findings()
        threads = [
            threading.Thread(target=self._client, args=(random.Random(n),))
            for n in range(n_clients)
        ]
        threads += [threading.Thread(target=self._kill, args=(kill_every_s,))]
        threads += [threading.Thread(target=self._sample)]
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        self._end.set()
        for thread in threads:
            thread.join()

    def _client(self, chance: random.Random) -> None:
        with httpx2.Client(timeout=600) as http:
            while not self._end.is_set():
                index = chance.randrange(len(self._requests))
                leaves = chance.random() < _LEAVES
                outcome, text = self._ask(http, self._requests[index], leaves=leaves)
                self._judge(outcome, text, index)

    def _judge(self, outcome: str, text: str, index: int) -> None:
        expected = self._quiet[index]
        is_same = text == expected if outcome == "complete" else expected.startswith(text)
        is_clean = outcome in ("complete", "left") or outcome in _CLEAN
        with self._lock:
            self.found.outcomes[outcome] += 1
            if not is_same or not is_clean:
                self.found.wrong.append(f"{outcome}: {self._requests[index]} gave {text!r}")

    def _ask(self, http: httpx2.Client, body: dict[str, Any], *, leaves: bool) -> tuple[str, str]:
        """Ask once; return how it ended and the text that came."""
        path = "chat/completions" if "messages" in body else "completions"
        try:
            if body.get("stream"):
                return self._stream(http, path, body, leaves=leaves)
            timeout = 0.05 if leaves else 600
            answer = http.post(f"{self._url}/{path}", json=body, timeout=timeout)
        except httpx2.ReadTimeout:
            return "left", ""
        except httpx2.HTTPError as err:
            return f"unclean {type(err).__name__}", ""
        told = answer.json()
        if "error" in told:
            return str(told["error"]["code"]), ""
        return "complete", _text(told["choices"][0], "message")

    def _stream(
        self, http: httpx2.Client, path: str, body: dict[str, Any], *, leaves: bool
    ) -> tuple[str, str]:
        started, text = time.monotonic(), ""
        with http.stream("POST", f"{self._url}/{path}", json=body) as answer:
            if answer.status_code != 200:
                answer.read()
                return str(answer.json()["error"]["code"]), ""
            for line in answer.iter_lines():
                if not line:
                    continue
                data = line.removeprefix("data: ")
                if data == "[DONE]":
                    return "complete", text
                told = json.loads(data)
                if "error" in told:
                    return str(told["error"]["code"]), text
                piece = _text(told["choices"][0], "delta")
                if piece and not text:
                    with self._lock:
                        self.found.ttft_ms.append((time.monotonic() - started) * 1e3)
                text += piece
                if leaves and text:
                    return "left", text
        return "unclean end", text

    def _kill(self, every_s: float) -> None:
        while not self._end.wait(every_s):
            for child in self._process.children():
                os.kill(child.pid, signal.SIGKILL)
                self.found.outcomes["workers killed"] += 1

    def _sample(self) -> None:
        started = time.monotonic()
        while not self._end.wait(0.5):
            try:
                parts = [self._process, *self._process.children()]
                total = sum(part.memory_info().rss for part in parts)
            except psutil.NoSuchProcess:  # killed in this moment
                continue
            if len(parts) == 2:
                self.found.rss_bytes.append((time.monotonic() - started, total))


def _text(choice: dict[str, Any], key: str) -> str:
    return str(choice["text"] if "text" in choice else choice[key].get("content") or "")


def _requests(models: list[str], chance: random.Random) -> list[dict[str, Any]]:
    """Short and long prompts, conversations whose next turn is asked too, and schemas."""
    found: list[dict[str, Any]] = []
    for number in range(15):
        for model in models:
            n_words = chance.choice([3, 10, 60])
            text = " ".join(chance.choice(_WORDS) for _ in range(n_words))
            options = {
                "model": model,
                "stream": chance.random() < 0.7,
                "seed": number,
                "temperature": chance.choice([0, 0.7, 1.2]),
                "max_tokens": chance.choice([1, 8, 40]),
            }
            if number % 5 == 0:
                found.append(options | {"prompt": text})
                continue
            if number % 5 == 1:
                shape = {"type": "json_schema", "json_schema": {"name": "a", "schema": _SCHEMA}}
                options |= {"response_format": shape, "max_tokens": 40}
            turns = [{"role": "user", "content": text}]
            found.append(options | {"messages": turns})
            reply = {"role": "assistant", "content": "it was there"}
            found.append(options | {"messages": [*turns, reply, turns[0]]})
    return found


def report_of(found: Findings, *, settled_s: float) -> dict[str, Any]:
    """The findings in figures.

    Args:
        found: What the load brought.
        settled_s: From when on memory may not grow any more.
    """
    after = [rss for at, rss in found.rss_bytes if at >= settled_s]
    third = max(1, len(after) // 3)
    early, late = (statistics.median(part) for part in (after[:third], after[-third:]))
    percentiles = statistics.quantiles(found.ttft_ms, n=20)
    return {
        "outcomes": dict(sorted(found.outcomes.items())),
        "n_wrong": len(found.wrong),
        "wrong": found.wrong[:5],
        "ttft_ms": {"p50": round(percentiles[9], 1), "p95": round(percentiles[18], 1)},
        "rss_bytes": {"settled": int(early), "end": int(late)},
        "memory_growth": round(late / early - 1, 4),
    }


@contextmanager
def _server(bundle: Path, words: list[str]) -> Iterator[tuple[str, list[str], psutil.Process]]:
    """A server with a third adapter, which it gets from outside."""
    with tempfile.TemporaryDirectory() as folder:
        own = sorted((bundle / "adapters").iterdir())[-1]
        shutil.copytree(own, Path(folder) / "guest")
        command = [sys.executable, "-c", _MAIN, "serve", str(bundle), "--port", "0", "--json"]
        command += ["--allow-adapters-from", folder, *words]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                told = json.loads(process.stdout.readline())
                body = {"lora_name": "guest", "lora_path": "guest"}
                added = httpx2.post(f"{told['url']}/load_lora_adapter", json=body, timeout=600)
                added.raise_for_status()
                yield told["url"], [*told["models"], "guest"], psutil.Process(process.pid)
            finally:
                process.terminate()


def main(argv: list[str] | None = None) -> int:
    """Run the load; 0 if all was as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--kill-every", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=0)
    words = sys.argv[1:] if argv is None else argv
    cut = words.index("--") if "--" in words else len(words)
    given, server_options = parser.parse_args(words[:cut]), words[cut + 1 :]
    seconds = given.minutes * 60
    with _server(given.bundle, server_options) as (url, models, process):
        load = Load(url, process, models, given.seed)
        load.run(seconds=seconds, n_clients=given.clients, kill_every_s=given.kill_every)
    report = report_of(load.found, settled_s=min(60.0, seconds / 3))
    print(json.dumps(report, indent=2))
    return 0 if report["n_wrong"] == 0 and report["memory_growth"] < 0.05 else 1


if __name__ == "__main__":
    sys.exit(main())
