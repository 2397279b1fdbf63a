"""``run``: one prompt, or every line of a file."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgekit_runtime import Bundle
from edgekit_runtime.cli import main

Captured = pytest.CaptureFixture[str]


def answer_of(bundle: Path, *arguments: str, capsys: Captured) -> dict[str, Any]:
    assert main(["run", str(bundle), *arguments, "--json"]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def write_lines(path: Path, *lines: object) -> Path:
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    return path


def test_json_is_the_generation_and_its_target(tiny_bundle: Path, capsys: Captured) -> None:
    answer = answer_of(tiny_bundle, "-p", "Hello", "-n", "5", capsys=capsys)
    with Bundle.open(tiny_bundle).engine() as engine:
        expected = engine.generate("Hello", max_new_tokens=5).to_dict()
    assert set(answer) == {*expected, "target"}
    assert answer["target"] == "cpu"
    assert answer["token_ids"] == expected["token_ids"]
    assert answer["usage"]["completion_tokens"] == 5


def test_plain_output_is_the_text_and_a_newline(tiny_bundle: Path, capsys: Captured) -> None:
    text = answer_of(tiny_bundle, "-p", "Hello", "-n", "5", capsys=capsys)["text"]
    for how in ("--stream", "--no-stream"):
        assert main(["run", str(tiny_bundle), "-p", "Hello", "-n", "5", how]) == 0
        assert capsys.readouterr().out == text + "\n"


@pytest.mark.parametrize("arguments", [["-p", "-"], []])
def test_a_prompt_may_come_from_stdin(
    arguments: list[str], tiny_bundle: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = answer_of(tiny_bundle, "-p", "Hello", "-n", "5", capsys=capsys)
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello"))
    piped = answer_of(tiny_bundle, *arguments, "-n", "5", capsys=capsys)
    assert piped["token_ids"] == expected["token_ids"]


def test_input_fills_the_adapters_template(tiny_bundle: Path, capsys: Captured) -> None:
    filled = answer_of(tiny_bundle, "-a", "alpha", "-i", "text=a=b", capsys=capsys)
    raw = answer_of(tiny_bundle, "-a", "alpha", "-p", "Q: a=b\nA:", capsys=capsys)
    assert filled["token_ids"] == raw["token_ids"]
    assert filled["adapter"] == "alpha"


def test_chat_puts_system_and_prompt_into_the_chat_template(
    tiny_bundle: Path, capsys: Captured
) -> None:
    chat = answer_of(tiny_bundle, "-p", "Hello", "--system", "Be brief", "-n", "4", capsys=capsys)
    with Bundle.open(tiny_bundle).engine() as engine:
        messages = [
            {"role": "system", "content": "Be brief"},
            {"role": "user", "content": "Hello"},
        ]
        expected = engine.generate(messages=messages, max_new_tokens=4)
    assert chat["token_ids"] == list(expected.token_ids)


def test_a_choice_constrains_the_answer(tiny_bundle: Path, capsys: Captured) -> None:
    answer = answer_of(
        tiny_bundle, "-p", "Hello", "--choice", "red", "--choice", "green", capsys=capsys
    )
    assert answer["text"] in {"red", "green"}


def test_a_schema_constrains_the_answer(
    tiny_bundle: Path, capsys: Captured, tmp_path: Path
) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text(
        '{"type": "object", "properties": {"ok": {"type": "boolean"}}, '
        '"required": ["ok"], "additionalProperties": false}'
    )
    answer = answer_of(tiny_bundle, "-p", "Hello", "--schema", str(schema), capsys=capsys)
    assert set(json.loads(answer["text"])) == {"ok"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "x", "--regex", "a", "--choice", "b"], "only one of --schema, --regex, --choice"),
        (["-p", "x", "--input", "text=y"], "leave -p and --chat out"),
        (["--input", "text"], "expected KEY=VALUE, got 'text'"),
        (["-p", "x", "--output", "y"], "--output goes with --input-file"),
        (["-p", "x", "--input-file", "y"], "--input-file brings its own prompts"),
        (["-p", "x", "--temperature", "-1"], "should be greater than or equal to 0"),
        (["-p", "x", "--tempreature", "1"], "No such option"),
    ],
)
def test_wrong_usage_exits_with_2(
    arguments: list[str], message: str, tiny_bundle: Path, capsys: Captured
) -> None:
    assert main(["run", str(tiny_bundle), *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_a_missing_bundle_is_an_error_that_says_where_it_looked(
    tmp_path: Path, capsys: Captured
) -> None:
    assert main(["run", str(tmp_path / "none"), "-p", "x"]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: {tmp_path / 'none'} is not a bundle")
    assert "Traceback" not in err


def test_an_unknown_adapter_is_refused_with_the_near_ones(
    tiny_bundle: Path, capsys: Captured
) -> None:
    assert main(["run", str(tiny_bundle), "-p", "x", "-a", "alpah"]) == 1
    assert capsys.readouterr().err == (
        "error: bundle 'tiny' has no adapter 'alpah'\ndid you mean 'alpha'? known: alpha, beta.\n"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON: Expecting property name"),
        ("[]", "expected a JSON object, got list"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_a_bad_schema_file_is_refused(
    content: str | None, message: str, tiny_bundle: Path, tmp_path: Path, capsys: Captured
) -> None:
    schema = tmp_path / "schema.json"
    if content is not None:
        schema.write_text(content)
    assert main(["run", str(tiny_bundle), "-p", "x", "--schema", str(schema)]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: schema {schema}")
    assert message in err


def test_a_prompt_over_the_context_is_refused(tiny_bundle: Path, capsys: Captured) -> None:
    assert main(["run", str(tiny_bundle), "-p", "hello " * 9000]) == 1
    err = capsys.readouterr().err
    assert "context" in err
    assert "Traceback" not in err


def test_every_line_of_a_file_is_answered_in_order(
    tiny_bundle: Path, tmp_path: Path, capsys: Captured
) -> None:
    source = write_lines(
        tmp_path / "in.jsonl",
        {"id": "raw", "prompt": "Hello"},
        "",
        {"messages": [{"role": "user", "content": "Hello"}], "max_new_tokens": 2},
        {"id": 3, "inputs": {"text": "x"}, "adapter": "alpha"},
    )
    assert main(["run", str(tiny_bundle), "--input-file", str(source), "-n", "4"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer.get("id") for answer in answers] == ["raw", None, 3]
    assert [answer["line"] for answer in answers] == [1, 3, 4]
    assert [answer["adapter"] for answer in answers] == [None, None, "alpha"]
    assert [answer["usage"]["completion_tokens"] for answer in answers] == [4, 2, 4]


def test_a_bad_line_is_named_and_loses_no_other(
    tiny_bundle: Path, tmp_path: Path, capsys: Captured
) -> None:
    source = write_lines(
        tmp_path / "in.jsonl",
        {"prompt": "Hello"},
        '{"prompt": ',
        {"promt": "x", "top_k": "3"},
        {"prompt": "x", "adapter": "gamma"},
        {"prompt": "Hello"},
    )
    output = tmp_path / "out.jsonl"
    arguments = ["--input-file", str(source), "--output", str(output), "-n", "3"]
    assert main(["run", str(tiny_bundle), *arguments]) == 1
    answers = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert ["error" in answer for answer in answers] == [False, True, True, True, False]
    assert answers[0]["token_ids"] == answers[4]["token_ids"]
    err = capsys.readouterr().err
    assert f"error: {source}:2: no JSON: Expecting value" in err
    assert "unknown key 'promt'; did you mean 'prompt'?" in err
    assert "top_k: expected int, got str" in err
    assert f"error: {source}:4: bundle 'tiny' has no adapter 'gamma'" in err
    assert "3 of 5 lines failed" in err


def test_a_refused_bundle_leaves_no_output(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", {"prompt": "a"})
    output = tmp_path / "out.jsonl"
    arguments = ["--input-file", str(source), "--output", str(output)]
    assert main(["run", str(tmp_path / "none"), *arguments]) == 1
    assert list(tmp_path.glob("out*")) == []


def test_an_output_that_is_not_finished_leaves_the_old_one(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    source = write_lines(tmp_path / "in.jsonl", {"prompt": "a"}, {"prompt": "b"})
    output = tmp_path / "out.jsonl"
    output.write_text("old")
    from edgekit_runtime import Engine

    generate, prompts = Engine.generate, []

    def interrupted(self: Engine, prompt: str, **options: Any) -> Any:
        prompts.append(prompt)
        if len(prompts) == 2:
            raise KeyboardInterrupt
        return generate(self, prompt, **options)

    monkeypatch.setattr(Engine, "generate", interrupted)
    arguments = ["--input-file", str(source), "--output", str(output), "-n", "2"]
    assert main(["run", str(tiny_bundle), *arguments]) == 130
    assert output.read_text() == "old"
    assert len((tmp_path / "out.jsonl.part").read_text().splitlines()) == 1
    assert f"the answers so far are in {output}.part" in capsys.readouterr().err


def test_a_reader_that_goes_away_gives_no_traceback(tiny_bundle: Path, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", *[{"prompt": "Hello"}] * 200)
    command = [
        sys.executable,
        "-c",
        "import sys; from edgekit_runtime.cli import main; sys.exit(main())",
    ]
    command += ["run", str(tiny_bundle), "--input-file", str(source), "-n", "8"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read().decode()
    assert process.returncode == 1
    assert "Traceback" not in err
    assert "BrokenPipe" not in err
