"""Tool calls: read from what the families' models write, and forced by a schema."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from edgekit_runtime.serving.tools import ToolCall, ToolFormat, ToolScanner, tool_format
from tests.serving.running import Running, running

LOOK = ToolCall(name="look", arguments='{"where": "here"}')
WRITTEN = '{"name": "look", "arguments": {"where": "here"}}'


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %}", None),
        ("{% if tools %}<tool_call>{% endif %}", "tool_call"),
        ("{% if tools %}[AVAILABLE_TOOLS]{% endif %}[TOOL_CALLS]", "bare_list"),
        ('{% if tools %}{% endif %}{% if ipython %}{% endif %}"parameters"', "bare_object"),
        ("{% if tools %}something of their own{% endif %}", None),
    ],
)
def test_the_template_says_how_calls_are_written(template: str, expected: str | None) -> None:
    assert tool_format(template) == expected


@pytest.mark.parametrize(
    ("form", "text", "shown", "calls"),
    [
        ("tool_call", f"<tool_call>\n{WRITTEN}\n</tool_call>", "", [LOOK]),
        ("tool_call", f"I look.\n<tool_call>{WRITTEN}</tool_call>", "I look.\n", [LOOK]),
        ("tool_call", f"<tool_call>{WRITTEN}</tool_call>\n" * 2, "", [LOOK, LOOK]),
        ("tool_call", f"<tool_call>[{WRITTEN}, {WRITTEN}]</tool_call>", "", [LOOK, LOOK]),
        ("tool_call", f"<tool_call>{WRITTEN}", "", [LOOK]),  # the end tag was a stop text
        ("tool_call", "<tool_call>look</tool_call>", "<tool_call>look</tool_call>", []),
        ("tool_call", "1 < 2 <tool", "1 < 2 <tool", []),
        ("tool_call", WRITTEN, WRITTEN, []),
        ("bare_list", f" [{WRITTEN}]", "", [LOOK]),
        ("bare_list", "[1, 2]", "[1, 2]", []),
        ("bare_object", WRITTEN.replace("arguments", "parameters"), "", [LOOK]),
        ("bare_object", "Hello { world }", "Hello { world }", []),
        ("bare_object", '{"name": "look", "arguments": 5}', '{"name": "look", "arguments": 5}', []),
        ("bare_object", "", "", []),
    ],
)
def test_calls_are_told_from_text_whole_and_by_characters(
    form: ToolFormat, text: str, shown: str, calls: list[ToolCall]
) -> None:
    for pieces in ([text], list(text)):
        scanner = ToolScanner(form, forced=False)
        found = "".join(scanner.push(piece) for piece in pieces)
        rest, told = scanner.finish()
        assert (found + rest, told) == (shown, calls)


def test_text_before_a_call_is_shown_as_it_comes() -> None:
    scanner = ToolScanner("tool_call", forced=False)
    assert scanner.push("I look <") == "I look "
    assert scanner.push("b> and <tool") == "<b> and "
    assert scanner.push("_call>") == ""


TEMPLATE = (
    "{% if tools %}{{ '<|im_start|>system\n<tools>' }}"
    "{% for tool in tools %}{{ tool.function.name }}{% endfor %}"
    "{{ '</tools> answer by <tool_call>\n' }}{% endif %}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {"on": {"type": "boolean"}},
                "required": ["on"],
                "additionalProperties": False,
            },
        },
    }
    for name in ("light", "radio")
]
ASKED: list[Any] = [{"role": "user", "content": "turn on the light"}]


@pytest.fixture(scope="module")
def tool_server(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A bundle whose chat template knows tools."""
    import shutil

    from edgekit.building.build import build

    root = tmp_path_factory.mktemp("tools")
    base = Path(shutil.copytree(tiny_base, root / "base"))
    (base / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    build(name="handy", base=str(base), output=root / "bundle", adapters={}, parity=False)
    with running(root / "bundle") as found:
        yield found


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"light", "radio"}),
        ({"type": "function", "function": {"name": "radio"}}, {"radio"}),
    ],
)
def test_a_call_can_be_forced(
    choice: Any, names: set[str], stream: bool, tool_server: Running
) -> None:
    options: dict[str, Any] = {"tools": TOOLS, "tool_choice": choice, "max_tokens": 60}
    with tool_server.openai() as client:
        if stream:
            chunks = list(
                client.chat.completions.create(
                    model="handy", messages=ASKED, stream=True, **options
                )
            )
            (call,) = chunks[-1].choices[0].delta.tool_calls
            reason = chunks[-1].choices[0].finish_reason
        else:
            answer = client.chat.completions.create(model="handy", messages=ASKED, **options)
            (call,) = answer.choices[0].message.tool_calls
            reason = answer.choices[0].finish_reason
            assert answer.choices[0].message.content is None
    assert reason == "tool_calls"
    assert call.function.name in names
    assert isinstance(json.loads(call.function.arguments)["on"], bool)


def test_tools_reach_the_prompt_and_calls_go_back_into_it(tool_server: Running) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "light", "arguments": "{}"}}
    history = [
        *ASKED,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "it is on"},
    ]

    def n_prompt(messages: Any, **options: Any) -> int:
        with tool_server.openai() as client:
            answer = client.chat.completions.create(
                model="handy", messages=messages, max_tokens=1, **options
            )
        return int(answer.usage.prompt_tokens)

    plain = n_prompt(ASKED)
    assert n_prompt(ASKED, tools=TOOLS) > plain
    assert n_prompt(ASKED, tools=TOOLS, tool_choice="none") == plain
    assert n_prompt(history) > plain


def test_a_tool_that_is_not_there_is_refused_with_the_near_one(tool_server: Running) -> None:
    choice: Any = {"type": "function", "function": {"name": "radioo"}}
    with (
        tool_server.openai() as client,
        pytest.raises(openai.BadRequestError, match="did you mean 'radio'"),
    ):
        client.chat.completions.create(
            model="handy", messages=ASKED, tools=TOOLS, tool_choice=choice
        )
