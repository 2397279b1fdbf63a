"""Fixtures that the whole suite shares: tiny bases, adapters, and a bundle built from them."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_models import make_tiny_model

# Before torch is imported, and for child processes: tiny models gain nothing from threads, and
# threads that wait for each other make a busy machine many times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A runner in the background starts with Ctrl-C ignored, and children inherit that; some tests
# press it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The real tier begins first: its bundle takes minutes to build."""
    real = Path(__file__).parent / "real"
    items.sort(key=lambda item: real not in item.path.parents)


@pytest.hookimpl(optionalhook=True)  # the runtime's tests also run without pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where several processes share the suite, a file's tests stay in one of them.

    So do all of the real tier. The marks that ``--dist loadgroup`` reads do not reach it: it sets
    ``_nodeid``, which pytest 9.2 no longer reads.
    """
    from xdist.scheduler import LoadScopeScheduling

    class FileByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            return "real" if file.startswith("tests/real/") else file

    return FileByFile(config, log)


@pytest.fixture(scope="session", autouse=True)
def _own_caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests out of the user's caches; EDGEKIT_TEST_CACHE keeps one between runs."""
    kept = os.environ.get("EDGEKIT_TEST_CACHE")
    cache = Path(kept) if kept else tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKIT_CACHE", str(cache / "edgekit"))
        patch.setenv("XDG_CACHE_HOME", str(cache))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama as a Hugging Face directory."""
    return make_tiny_model(tmp_path_factory.mktemp("base") / "tiny-llama")


@pytest.fixture(scope="session")
def alpha_adapter(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rank 4 on all linears, with the record that ``edgekit train`` writes."""
    from edgekit.bases import fingerprint_of
    from tests.peft_adapters import make_peft_adapter

    path = tmp_path_factory.mktemp("adapters") / "alpha"
    make_peft_adapter(tiny_base, path, seed=1)
    record = {
        "schema_version": "1.0",
        "base": {"name": "tiny-llama", "source": "test", "fingerprint": fingerprint_of(tiny_base)},
        "task": "generation",
        "prompt": "Q: {text}\nA:",
        "completion": " {answer}",
        "messages": None,
        "text_template": None,
        "system": None,
        "metrics": ["exact_match"],
        "labels": None,
        "max_new_tokens": 8,
        "examples": ["Q: where is my card\nA:", "Q: turn on the light\nA:"],
        "license": "apache-2.0",
        "data_sets": [
            {
                "name": "questions.csv",
                "source": "file",
                "use": "training",
                "digest": "sha256:" + "5" * 64,
                "license": "cc-by-4.0",
            },
            {"name": "PolyAI/banking77", "source": "hub", "use": "test", "version": "90d4e2ee"},
        ],
        "validation": {"n_rows": 2, "metrics": {"exact_match": 0.5}},
    }
    (path / "edgekit.json").write_text(json.dumps(record), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def beta_adapter(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rank 8 on three kinds of linears, by plain peft, with no record."""
    from tests.peft_adapters import make_peft_adapter

    path = tmp_path_factory.mktemp("adapters") / "beta"
    return make_peft_adapter(
        tiny_base, path, seed=2, r=8, target_modules=["q_proj", "v_proj", "down_proj"]
    )


@pytest.fixture(scope="session")
def built_tiny_bundle(
    tiny_base: Path,
    alpha_adapter: Path,
    beta_adapter: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A real bundle of the tiny base with both adapters; read only, copy before changing it.

    Rounded to nearest, so that tests know how far a weight may lie from its float original.
    """
    from edgekit.building.build import build
    from edgekit.bundling.adapters import AdapterSource

    output = tmp_path_factory.mktemp("bundles") / "tiny"
    build(
        name="tiny",
        base=str(tiny_base),
        output=output,
        adapters={
            "alpha": AdapterSource(path=alpha_adapter),
            "beta": AdapterSource(path=beta_adapter),
        },
        quantization="tier=fast",
    )
    return output


@pytest.fixture(scope="session")
def tiny_bundle(request: pytest.FixtureRequest) -> Path:
    """A tiny bundle with adapters alpha (its own template) and beta; read only.

    Where there is no torch to build one with, EDGEKIT_TEST_BUNDLES names a directory with one.
    """
    ready = os.environ.get("EDGEKIT_TEST_BUNDLES")
    if ready:
        return Path(ready) / "tiny"
    built: Path = request.getfixturevalue("built_tiny_bundle")
    return built
