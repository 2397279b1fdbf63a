"""The web page's files: what the server sends, without a browser."""

import re
from collections.abc import Iterator

import httpx2
import pytest

from edgekit_runtime.serving.page import PATHS
from tests.serving.running import Running

MODULES = sorted(path for path in PATHS if path.endswith(".js"))


@pytest.fixture
def http(server: Running) -> Iterator[httpx2.Client]:
    with server.http() as found:
        yield found


@pytest.mark.parametrize("path", sorted(PATHS))
def test_every_file_is_served_with_its_type_and_the_policy(path: str, http: httpx2.Client) -> None:
    types = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml", "/": "text/html"}
    answer = http.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"].split(";")[0] == types[path.rpartition(".")[2]]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


def test_the_policy_allows_only_what_this_server_sends(http: httpx2.Client) -> None:
    policy = http.get("/").headers["content-security-policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self'",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }


@pytest.mark.parametrize("path", sorted(PATHS))
def test_head_tells_the_length_and_sends_nothing(path: str, http: httpx2.Client) -> None:
    answer = http.head(path)
    assert answer.content == b""
    assert int(answer.headers["content-length"]) == len(http.get(path).content)


def test_a_file_that_the_browser_has_is_not_sent_again(http: httpx2.Client) -> None:
    first = http.get("/web/main.js")
    etag = first.headers["etag"]
    assert first.headers["cache-control"] == "no-cache"
    for known in (etag, f'"other", W/{etag}'):
        again = http.get("/web/main.js", headers={"if-none-match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == etag
    assert http.get("/web/main.js", headers={"if-none-match": '"other"'}).status_code == 200
    assert http.get("/web/chat.js").headers["etag"] != etag


@pytest.mark.parametrize(
    "path",
    ["/web/", "/web/nothing.js", "/web/index.html", "/web/../page.py", "/web/%2e%2e/page.py"],
)
def test_nothing_else_is_served(path: str, http: httpx2.Client) -> None:
    answer = http.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


def test_a_page_is_only_read(http: httpx2.Client) -> None:
    assert http.post("/").status_code == 405


@pytest.mark.parametrize("path", sorted(PATHS))
def test_a_file_names_no_other_place(path: str, http: httpx2.Client) -> None:
    text = http.get(path).text.replace("http://www.w3.org/2000/svg", "")
    assert "//" not in re.sub(r"(?m)^\s*//.*$| // .*$", "", text)


def test_the_html_has_no_code_and_no_style_of_its_own(http: httpx2.Client) -> None:
    html = http.get("/").text
    assert re.findall(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=|javascript:", html) == []


@pytest.mark.parametrize("path", MODULES)
def test_no_module_makes_html_or_code_of_text(path: str, http: httpx2.Client) -> None:
    text = http.get(path).text
    for way in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "Function(",
    ):
        assert way not in text


def test_every_file_is_used(http: httpx2.Client) -> None:
    used = {"/"}
    used.update(re.findall(r'(?:src|href)="(/web/[^"]+)"', http.get("/").text))
    for path in MODULES:
        used.update(
            f"/web/{name}" for name in re.findall(r'from "\./([^"]+)"', http.get(path).text)
        )
    assert used == PATHS


def test_the_models_say_whether_they_read_a_conversation(http: httpx2.Client) -> None:
    found = {model["id"]: model["single_turn"] for model in http.get("/v1/models").json()["data"]}
    assert found == {"tiny": False, "tiny:alpha": True, "tiny:beta": False}


def test_the_worker_s_memory_is_told(server: Running) -> None:
    psutil = pytest.importorskip("psutil")
    told = server.metric("edgekit_worker_resident_bytes")
    assert told == pytest.approx(
        psutil.Process(server.service.supervisor.pid).memory_info().rss, rel=0.2
    )
