"""``chat``: a conversation in the terminal or through a pipe."""

import io
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekit_runtime.cli import chat, main
from edgekit_runtime.cli.chat_input import complete
from edgekit_runtime.cli.console import printable

Captured = pytest.CaptureFixture[str]
Talk = Callable[..., tuple[str, str]]


@pytest.fixture
def talk(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> Talk:
    """Pipe lines into a chat and return what it wrote to stdout and stderr."""

    def run(*lines: str, options: tuple[str, ...] = ("-n", "6")) -> tuple[str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        assert main(["chat", str(tiny_bundle), *options]) == 0
        captured = capsys.readouterr()
        return captured.out, captured.err

    return run


def test_the_same_message_after_a_reset_gets_the_same_answer(talk: Talk, tmp_path: Path) -> None:
    talk("hello", f"/save {tmp_path / 'a.json'}", "/reset", "hello", f"/save {tmp_path / 'b.json'}")
    first, second = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    assert [message["role"] for message in first["messages"]] == ["user", "assistant"]
    assert first["messages"] == second["messages"]


def test_a_backslash_continues_a_message(talk: Talk, tmp_path: Path) -> None:
    talk("one\\", "two", f"/save {tmp_path / 'a.json'}")
    assert json.loads((tmp_path / "a.json").read_text())["messages"][0]["content"] == "one\ntwo"


def test_two_slashes_say_one(talk: Talk, tmp_path: Path) -> None:
    talk("//etc", f"/save {tmp_path / 'a.json'}")
    assert json.loads((tmp_path / "a.json").read_text())["messages"][0]["content"] == "/etc"


def test_save_writes_markdown_and_never_over_a_file(talk: Talk, tmp_path: Path) -> None:
    path = tmp_path / "chat.md"
    _, err = talk("/system Be brief", "hello", f"/save {path}", f"/save {path}", "/save")
    text = path.read_text(encoding="utf-8")
    assert "**system**\n\nBe brief\n\n**user**\n\nhello\n\n**assistant**" in text
    assert f"error: {path} exists" in err
    assert "error: /save needs a file" in err


def test_a_skill_is_announced_with_its_template(talk: Talk) -> None:
    _, err = talk("/adapter alpha", "/adapter beta", "/adapter off")
    assert "adapter 'alpha' answers: a single-turn skill" in err
    assert "  Q: {text}\n  A:" in err
    assert "adapter 'beta' answers\n" in err
    assert "the bare base answers" in err


def test_adapters_lists_what_is_loaded_and_active(talk: Talk) -> None:
    out, _ = talk("/adapter beta", "/adapters")
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}
    assert rows["beta"][:2] == ["yes", "yes"]
    assert rows["alpha"][0] != "yes"


def test_stats_tell_speed_and_context(talk: Talk) -> None:
    out, _ = talk("hello", "/stats")
    for word in ("first token", "decode", "tokens/s", "context"):
        assert word in out


def test_mistakes_do_not_end_the_chat(talk: Talk) -> None:
    out, err = talk("/adaptr alpha", "/adapter alpah", "/quit", "never said")
    assert "error: no command '/adaptr'; did you mean '/adapter'" in err
    assert "error: bundle 'tiny' has no adapter 'alpah'\ndid you mean 'alpha'?" in err
    assert out == ""


def test_help_names_every_command(talk: Talk) -> None:
    out, _ = talk("/help")
    for word in ("/adapter NAME", "/adapters", "/reset", "/stats", "/system", "/save", "/quit"):
        assert word in out


def test_it_says_when_old_turns_are_left_out(talk: Talk) -> None:
    _, err = talk(*["hello " * 60] * 12, options=("-n", "40"))
    assert "the context was full: the model no longer sees the oldest" in err


def test_ctrl_c_stops_the_answer_and_not_the_chat(
    talk: Talk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shown: list[str] = []

    def press_at_the_first_piece(text: str) -> None:
        shown.append(text)
        if len(shown) == 1:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(chat, "write_text", press_at_the_first_piece)
    _, err = talk("hello", "again", f"/save {tmp_path / 'a.json'}", options=("-n", "200"))
    assert err.count("(stopped)") == 1
    assert len(json.loads((tmp_path / "a.json").read_text())["messages"]) == 4
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_control_characters_do_not_reach_a_terminal() -> None:
    assert printable("a\x1b[31mb\x07\tc\nd\x9b[bold]é") == "a[31mb\tc\nd[bold]é"


def test_completion_knows_commands_and_their_words() -> None:
    words = {"/adapter": ["alpha", "beta", "off"], "/adapters": [], "/quit": []}
    assert complete("/ad", words) == [("/adapter", -3), ("/adapters", -3)]
    assert complete("/adapter al", words) == [("alpha", -2)]
    assert complete("/quit ", words) == []
    assert complete("hello", words) == []


class Terminal:
    """A chat on a pseudo-terminal."""

    def __init__(self, bundle: Path, *options: str) -> None:
        self._master, slave = os.openpty()
        code = "import sys; from edgekit_runtime.cli import main; sys.exit(main())"
        environment = os.environ | {"PROMPT_TOOLKIT_NO_CPR": "1", "TERM": "xterm"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, "chat", str(bundle), *options],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,
        )
        os.close(slave)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def expect(self, text: str, timeout_s: float = 60) -> None:
        deadline = time.monotonic() + timeout_s
        while text not in self.seen:
            ready, _, _ = select.select([self._master], [], [], 0.5)
            if ready:
                self.seen += self._read()
            assert time.monotonic() < deadline, f"{text!r} not in {self.seen!r}"
        self.seen = self.seen.partition(text)[2]

    def _read(self) -> str:
        try:
            return os.read(self._master, 65536).decode(errors="replace")
        except OSError:  # Linux says so when the other end is closed
            return ""

    def press_until_it_ends(self, key: str) -> int:
        """As a person does who sees nothing happen: a key that comes before the prompt is lost."""
        for _ in range(120):
            self.type(key)
            try:
                self.process.wait(timeout=2)
            except subprocess.TimeoutExpired:
                continue
            break
        return self.close()

    def close(self) -> int:
        try:
            return self.process.wait(timeout=60)
        finally:
            self.process.kill()
            self.process.wait()
            os.close(self._master)


needs_pty = pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")


@needs_pty
def test_on_a_terminal_the_prompt_names_the_adapter_and_two_ctrl_c_leave(
    tiny_bundle: Path,
) -> None:
    terminal = Terminal(tiny_bundle, "--adapter", "beta", "--no-history", "-n", "5")
    terminal.expect("beta> ")
    terminal.type("/adapter off\r")
    terminal.expect("base> ")
    terminal.type("\x03")
    terminal.expect("Ctrl-C once more")
    terminal.expect("base> ")
    terminal.type("\x03")
    assert terminal.close() == 130


@needs_pty
def test_on_a_terminal_ctrl_d_leaves_and_history_is_kept_in_private(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    terminal = Terminal(tiny_bundle, "-n", "5")
    terminal.expect("base> ")
    terminal.type("hello there\r")
    terminal.expect("base> ")
    assert terminal.press_until_it_ends("\x04") == 0
    history = tmp_path / "edgekit-runtime" / "chat_history"
    assert "+hello there" in history.read_text()
    assert history.stat().st_mode & 0o077 == 0
