"""Whatever comes, sound or not: no request makes the server fail."""

import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit_runtime.serving.fields import CHAT, COMPLETION
from tests.serving.running import Running

FLOATS = st.floats(allow_nan=False, allow_infinity=False)  # JSON has neither
JUNK: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
PATHS = {"/v1/chat/completions": CHAT, "/v1/completions": COMPLETION}


def values_of(schema: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Values that a description takes."""
    if "anyOf" in schema:
        return st.one_of([values_of(option) for option in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    kind = schema.get("type")
    if kind == "integer":
        return st.integers(schema.get("minimum", -(2**63)), schema.get("maximum", 300))
    if kind == "number":
        low, high = schema.get("minimum", 0), schema.get("maximum")
        return st.floats(low, high, exclude_min="exclusiveMinimum" in schema, allow_infinity=False)
    if kind == "string":
        return st.text(min_size=schema.get("minLength", 0), max_size=20)
    if kind == "array":
        return st.lists(values_of(schema["items"]), min_size=schema.get("minItems", 0), max_size=3)
    if kind == "object":
        needed = schema.get("required", ())
        fields = {name: values_of(one) for name, one in schema.get("properties", {}).items()}
        return st.fixed_dictionaries(
            {name: one for name, one in fields.items() if name in needed},
            optional={name: one for name, one in fields.items() if name not in needed},
        )
    return st.booleans()


@st.composite
def requests(draw: Any) -> tuple[str, dict[str, Any]]:
    """A body for one of the two paths: as described, or with junk in some of its fields."""
    path = draw(st.sampled_from(sorted(PATHS)))
    junk = draw(st.sampled_from([st.nothing(), JUNK]))
    fields = {name: values_of(schema) | junk for name, schema in PATHS[path].items()}
    needed = {name: fields.pop(name) for name in ("messages", "prompt") if name in fields}
    body = draw(st.fixed_dictionaries(needed, optional=fields))
    body["model"] = draw(st.sampled_from(["tiny", "tiny:alpha", "tiny:beta"]) | junk)
    body.pop("max_completion_tokens", None)
    return path, body | {"n": draw(st.integers(1, 2)), "max_tokens": draw(st.integers(1, 4))}


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(asked=requests())
def test_no_request_makes_the_server_fail(server: Running, asked: tuple[str, Any]) -> None:
    path, body = asked
    with server.http() as http:
        answer = http.post(path, json=body)
    assert answer.status_code < 500, (body, answer.text)
    if answer.status_code != 200:
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    elif answer.headers["content-type"].startswith("text/event-stream"):
        assert answer.text.endswith("data: [DONE]\n\n")
    else:
        assert len(answer.json()["choices"]) >= 1


@pytest.mark.slow  # schemathesis is not among the packages of the suite
def test_schemathesis_finds_no_failure(server: Running) -> None:
    pytest.importorskip("schemathesis")
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,"
    checks += "response_schema_conformance"
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"]
    command += ["--checks", checks, "--max-examples", "20", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert httpx2.get(f"{server.url}/health").status_code == 200
