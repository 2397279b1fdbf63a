"""lm-evaluation-harness as a client: `local-completions` scores as `eval --harness` does."""

import json
from pathlib import Path
from typing import Any

import pytest

from edgekit.cli import main
from tests.evaluating.test_harness import CHOICE, READ, ROWS, WRITTEN
from tests.serving.running import Running

with_harness = pytest.mark.slow  # of the extra `harness`, which the suite runs without


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Choices, written answers and whole texts, on a local file of rows."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = folder / "rows.jsonl"
    rows.write_text("\n".join(map(json.dumps, ROWS)) + "\n", encoding="utf-8")
    for name, text in (("cards", CHOICE), ("written", WRITTEN), ("read", READ)):
        (folder / f"{name}.yaml").write_text(text.replace("ROWS", str(rows)), encoding="utf-8")
    return folder


@with_harness
@pytest.mark.parametrize("adapter", [None, "alpha"])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_local_completions_gets_the_scores_of_edgekit_eval(
    adapter: str | None,
    batch_size: int,
    server: Running,
    tasks: Path,
    tiny_bundle: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for package in ("lm_eval", "aiohttp", "tenacity"):
        pytest.importorskip(package)
    words = ["--bundle", str(tiny_bundle), "--harness", str(tasks), "--json"]
    assert main(["eval", *words, *(["--adapter", adapter] if adapter else [])]) == 0
    expected = json.loads(capsys.readouterr().out)["metrics"]
    found = scores(server, tasks, tiny_bundle, adapter, batch_size)
    assert sorted(expected) == [
        "cards/acc",
        "cards/acc_norm",
        "read/bits_per_byte",
        "read/word_perplexity",
        "written/exact_match",
    ]
    # The harness sends whole texts, eval runs what comes before them by itself: other roundings.
    assert {name: found[name] for name in expected} == {
        name: pytest.approx(value, rel=1e-5) for name, value in expected.items()
    }


def scores(
    server: Running, tasks: Path, bundle: Path, adapter: str | None, batch_size: int
) -> dict[str, float]:
    """What the harness finds by asking the server."""
    from lm_eval import evaluator
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    from edgekit.evaluating.harness_tasks import load_tasks

    model: Any = LocalCompletionsAPI(
        model="tiny" if adapter is None else f"tiny:{adapter}",
        base_url=f"{server.url}/v1/completions",
        tokenizer=str(bundle / "tokenizer"),
        tokenizer_backend="huggingface",
        batch_size=batch_size,
        max_length=512,
        max_retries=1,
    )
    loaded = load_tasks([str(tasks)], shots=None, max_new_tokens=None)
    results = evaluator.evaluate(model, loaded, bootstrap_iters=0)["results"]
    return {
        f"{task}/{key.partition(',')[0]}": value
        for task, metrics in results.items()
        for key, value in metrics.items()
        if isinstance(value, float)
    }
