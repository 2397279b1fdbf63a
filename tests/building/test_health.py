"""A built bundle records what it answers, and a device finds out when it answers otherwise."""

import json
import shutil
from pathlib import Path

from edgekit_runtime.health import check_health
from tests.runtime.bundle_edits import replace_file


def test_every_target_and_adapter_records_an_answer(built_tiny_bundle: Path) -> None:
    base = json.loads((built_tiny_bundle / "targets/cpu/health.json").read_text())
    alpha = json.loads((built_tiny_bundle / "adapters/alpha/adapter.json").read_text())["health"]
    beta = json.loads((built_tiny_bundle / "adapters/beta/adapter.json").read_text())["health"]
    assert base["prompt"] == beta["cpu"]["prompt"] == "The capital of France is"
    assert alpha["cpu"]["prompt"] == "Q: where is my card\nA:"  # of its own data
    assert base["log_probs"] != beta["cpu"]["log_probs"]
    assert check_health(built_tiny_bundle) == []


def test_an_adapter_that_answers_otherwise_is_ill(built_tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(built_tiny_bundle, tmp_path / "bundle")
    card = json.loads((bundle / "adapters/beta/adapter.json").read_text())
    card["health"]["cpu"] = json.loads((bundle / "targets/cpu/health.json").read_text())
    replace_file(bundle, "adapters/beta/adapter.json", json.dumps(card).encode())
    (problem,) = check_health(bundle)
    assert problem.startswith("beta: expected log probabilities within 1, off by ")
