"""A small classification on the tiny base, and searches over its recipe."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekit.tuning.loading import Search, parse_search

LABELS = ("garden", "kitchen", "cellar")
SPACE = {
    "learning_rate": {"type": "float", "low": 1e-5, "high": 1e-2, "log": True},
    "lora_r": {"type": "choice", "values": [2, 4]},
}

MakeValues = Callable[..., dict[str, Any]]
MakeSearch = Callable[..., Search]


@pytest.fixture(scope="session")
def rows_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty rows of three labels."""
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    lines = [f"light {i} in the {label},{label}" for i in range(10) for label in LABELS]
    path.write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def make_values(tiny_base: Path, rows_csv: Path) -> MakeValues:
    """The keys and values of a search file with its recipe inside."""

    def make(output: Path, *, recipe: dict[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
        data = {"train": str(rows_csv), "prompt": "{text}:", "completion": " {label}"}
        training = {"max_steps": 3, "per_device_train_batch_size": 4, "bf16": False}
        own: dict[str, Any] = {
            "base": str(tiny_base),
            "task": "classification",
            "data": data | {"validation": 0.2},
            "lora": {"lora_alpha": 8},
            "training": training,
        }
        for key, value in (recipe or {}).items():
            own[key] = own[key] | value if isinstance(own.get(key), dict) else value
        values = {
            "recipe": own,
            "search_space": copy.deepcopy(SPACE),
            "search_strategy": {"num_trials": 3},
            "objective": "loss",
            "seed": 7,
            "output": str(output),
        }
        return values | keys

    return make


@pytest.fixture(scope="session")
def make_search(make_values: MakeValues) -> MakeSearch:
    """A search that can be run."""

    def make(output: Path, **keys: Any) -> Search:
        return parse_search(make_values(output, **keys), where="search", name="search")

    return make
