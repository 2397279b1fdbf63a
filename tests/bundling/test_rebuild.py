"""A bundle tells the recipe that it was built from: built again, it is the same one."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgekit.building.build import build
from edgekit.building.recipe import arguments_of
from edgekit.bundling.adapters import AdapterSource
from edgekit.bundling.rebuild import rebuild_recipe
from edgekit.cli import main
from edgekit.recipes import BundleRecipe, load_recipe
from edgekit_runtime import Bundle
from tests.runtime.bundle_edits import replace_file, seal
from tests.static.profiles import write_profile


def digest_of(bundle: Path) -> str:
    with Bundle.open(bundle, cache_dir=None) as opened:
        return opened.manifest.digest


def test_a_bundle_built_by_its_own_word_is_the_same(
    built_tiny_bundle: Path,
    tiny_base: Path,
    alpha_adapter: Path,
    beta_adapter: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["bundle", "inspect", str(built_tiny_bundle), "--rebuild"]) == 0
    told = capsys.readouterr().out
    assert f"# Builds tiny 0.1.0 again, {digest_of(built_tiny_bundle)}" in told
    (tmp_path / "bundle.yaml").write_text(told, encoding="utf-8")
    for path in (tiny_base, alpha_adapter, beta_adapter):
        shutil.copytree(path, tmp_path / path.name)
    monkeypatch.chdir(tmp_path)
    report = build(**arguments_of(load_recipe(Path("bundle.yaml"), BundleRecipe)))
    assert report.manifest.digest == digest_of(built_tiny_bundle)


@pytest.fixture(scope="module")
def unusual(
    tiny_base: Path, alpha_adapter: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, dict[str, Any]]:
    """Comments and recipe of a bundle with a profile of its own and an adapter for one target."""
    directory = tmp_path_factory.mktemp("unusual")
    for_static = shutil.copytree(alpha_adapter, directory / "other")
    build(
        name="odd",
        release="2.0.0",
        base=str(tiny_base),
        output=directory / "bundle",
        targets=("cpu-fast", str(write_profile(directory))),
        adapters={
            "alpha": AdapterSource(
                path=alpha_adapter,
                by_target={"static": Path(for_static)},
                prompt="{question}",
                defaults={"temperature": 0.5},
            )
        },
        max_nll_increase=3.0,
        parity=False,
    )
    text = rebuild_recipe(directory / "bundle")
    return text, yaml.safe_load(text)


def test_everything_that_a_recipe_may_say_is_told(unusual: tuple[str, dict[str, Any]]) -> None:
    comments, recipe = unusual
    assert recipe == {
        "name": "odd",
        "version": "2.0.0",
        "base": "./tiny-llama",
        "targets": ["cpu-fast", "./static.yaml"],
        "adapters": {
            "alpha": {
                "path": {"./static.yaml": "./alpha-static", "default": "./alpha"},
                "prompt": "{question}",
                "license": "apache-2.0",
                "defaults": {"max_new_tokens": 8, "temperature": 0.5},
            }
        },
        "parity": {"max_nll_increase": 3.0},
        "output": "./odd",
    }
    assert "edgekit build bundle.yaml --no-parity" in comments
    assert "# Target static: a profile of your own" in comments
    BundleRecipe.model_validate(recipe)


@pytest.mark.parametrize(
    "report",
    [
        b"[]",
        b"{",
        b'{"cpu": []}',
        b'{"cpu": {"bounds": 3}}',
        b'{"cpu": {"bounds": {"max_nll_increase": true}}}',
    ],
)
def test_a_report_that_makes_no_sense_says_nothing(
    report: bytes, built_tiny_bundle: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(built_tiny_bundle, tmp_path / "b"))
    replace_file(copy, "reports/parity.json", report)
    assert "parity" not in yaml.safe_load(rebuild_recipe(copy))


def test_a_target_named_like_a_file_reads_none(
    built_tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name is a bundle's, which anybody may have written; a path would be this machine's."""
    copy = Path(shutil.copytree(built_tiny_bundle, tmp_path / "b"))

    def rename(manifest: dict[str, Any]) -> None:
        for targets in (
            manifest["targets"],
            *(one["files"] for one in manifest["adapters"].values()),
        ):
            targets["mine.yaml"] = targets.pop("cpu")

    seal(copy, rename)
    (tmp_path / "mine.yaml").write_text("name: mine.yaml\nextends: cpu\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert "# Target mine.yaml: a profile of your own" in rebuild_recipe(copy)


def test_json_and_a_recipe_do_not_go_together(
    built_tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bundle", "inspect", str(built_tiny_bundle), "--rebuild", "--json"]) == 2
    assert "prints YAML" in capsys.readouterr().err
