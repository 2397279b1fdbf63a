"""What a run's record says of the data that it was trained on."""

from hashlib import sha256
from pathlib import Path
from typing import Any

from edgekit.data_recipe import DataRecipe
from edgekit.recipes import TrainRecipe
from edgekit.training.output import run_digest
from edgekit.training.provenance import data_sets_of

SHAPE = {"prompt": "{a}", "completion": "{b}"}


def rows(path: Path) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"a,b\n{path.stem},1\n", encoding="utf-8")
    return str(path)


def told(**data: Any) -> list[dict[str, Any]]:
    return [one.to_dict() for one in data_sets_of(DataRecipe(**SHAPE, **data))]


def test_files_are_named_by_their_bytes_and_without_their_place(tmp_path: Path) -> None:
    train, test = rows(tmp_path / "train.csv"), rows(tmp_path / "test.csv")
    assert told(train=train, split="train[:1]", test=test, license="cc-by-4.0") == [
        {
            "name": "train.csv",
            "source": "file",
            "use": "training",
            "digest": "sha256:" + sha256(Path(train).read_bytes()).hexdigest(),
            "split": "train[:1]",
            "license": "cc-by-4.0",
        },
        {
            "name": "test.csv",
            "source": "file",
            "use": "test",
            "digest": "sha256:" + sha256(Path(test).read_bytes()).hexdigest(),
            "license": "cc-by-4.0",
        },
    ]


def test_every_source_has_its_own_licence(tmp_path: Path) -> None:
    ours, other = rows(tmp_path / "ours.csv"), rows(tmp_path / "other.csv")
    sources = [{"path": ours, "license": "mit"}, {"path": other, "split": "train[:1]"}]
    found = told(train=sources)
    assert [(one["name"], one.get("license")) for one in found] == [
        ("ours.csv", "mit"),
        ("other.csv", None),
    ]


def test_a_directory_is_known_by_its_version_and_a_slice_by_its_source(tmp_path: Path) -> None:
    rows(tmp_path / "set" / "train.csv")
    train, validation = told(train=str(tmp_path / "set"), validation="train[50%:]")
    assert (train["name"], train["source"], train["use"]) == ("set", "directory", "training")
    assert train["version"]
    assert validation == train | {"use": "validation", "split": "train[50%:]"}


def test_a_licence_is_no_part_of_a_run(tmp_path: Path) -> None:
    """So that a licence may be filled in later, without training anew."""

    def digest(license: str | None) -> str:
        ours = {"path": rows(tmp_path / "a.csv"), "license": license}
        data = {**SHAPE, "train": [ours]}
        recipe = {"base": "b", "task": "generation", "output": str(tmp_path), "data": data}
        return run_digest(TrainRecipe.model_validate(recipe), "sha256:0", [])

    assert digest(None) == digest("mit")
