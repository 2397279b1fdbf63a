"""Which data sets a run learns and is scored from, as its record tells them."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from edgekit.data_recipe import DataRecipe
from edgekit.errors import DataError
from edgekit.training.hub_rows import hub_version
from edgekit.training.row_files import is_file_reference
from edgekit_runtime.digests import sha256_of_file

Use = Literal["training", "validation", "test"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSet:
    """A file, a directory or a Hub data set; never a path of this machine.

    Attributes:
        name: The file's or directory's own name, or the Hub id.
        source: ``file``, ``directory`` or ``hub``.
        use: What its rows were for.
        digest: ``sha256:…`` of a file's bytes.
        version: How the ``datasets`` library knows a directory or Hub data set: of the Hub, its
            commit.
        subset: The Hub data set's configuration.
        split: The slice that was read.
        license: As the recipe declares it.
    """

    name: str
    source: Literal["file", "directory", "hub"]
    use: Use
    digest: str | None = None
    version: str | None = None
    subset: str | None = None
    split: str | None = None
    license: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, without what is not known."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def data_sets_of(data: DataRecipe) -> tuple[DataSet, ...]:
    """Name everything that a recipe reads rows from.

    Args:
        data: Its rows were just read.
    """
    return tuple(_data_sets(data))


def _data_sets(data: DataRecipe) -> Iterator[DataSet]:
    for source in data.sources:
        for path in source.path:
            yield _data_set(path, "training", source.split, source.subset, source.license)
    for path in data.files:
        yield _data_set(path, "training", data.split, data.subset, data.license)
    others: tuple[tuple[Use, object], ...] = (("validation", data.validation), ("test", data.test))
    for use, other in others:
        if not isinstance(other, str):
            continue
        if is_file_reference(other):
            yield _data_set(other, use, "train", None, data.license)
        else:  # a slice of the training data
            for path in data.files:
                yield _data_set(path, use, other, data.subset, data.license)


def _data_set(path: str, use: Use, split: str, subset: str | None, license: str | None) -> DataSet:
    if is_file_reference(path):
        return DataSet(
            name=Path(path).name,
            source="file",
            use=use,
            digest=sha256_of_file(Path(path)),
            split=None if split == "train" else split,
            license=license,
        )
    is_directory = Path(path).is_dir()
    try:
        version = hub_version(path, subset)
    except DataError:  # its rows are here, from a cache; its version is not
        version = None
    return DataSet(
        name=Path(path).resolve().name if is_directory else path,
        source="directory" if is_directory else "hub",
        use=use,
        version=version,
        subset=subset,
        split=split,
        license=license,
    )
