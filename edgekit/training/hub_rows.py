"""Rows of a Hub data set, or of a directory of data, as the ``datasets`` library reads them."""

from collections.abc import Iterator
from contextlib import contextmanager

from edgekit.errors import DataError
from edgekit.training.row_files import NumberedRows, Row


def hub_rows(
    source: str, split: str, subset: str | None = None, *, streamed: bool = False
) -> NumberedRows:
    """Read rows; a class number becomes the name of its class.

    Args:
        source: Hub id or directory.
        split: Hugging Face slicing; a name without a slice if streamed.
        subset: The data set's configuration.
        streamed: Whether rows are fetched as they are read, instead of all before the first.

    Raises:
        DataError: If there is no such data set, or it cannot be read.
    """
    import datasets

    with _readable(source):
        loaded = datasets.load_dataset(source, name=subset, split=split, streaming=streamed)
        names = {
            column: dict(enumerate(feature.names))
            for column, feature in (loaded.features or {}).items()
            if isinstance(feature, datasets.ClassLabel)
        }
        yield from enumerate(
            (_named(row, names) for row in (loaded if streamed else loaded.to_list())), start=1
        )


def hub_version(source: str, subset: str | None = None) -> str:
    """Which version of a data set this is: its commit, or what its files are known by.

    Raises:
        DataError: If there is no such data set.
    """
    import datasets

    with _readable(source):
        return str(datasets.load_dataset_builder(source, name=subset).hash)


def _named(row: Row, names: dict[str, dict[int, str]]) -> Row:
    return row | {column: names[column].get(row[column], "") for column in names}


@contextmanager
def _readable(source: str) -> Iterator[None]:
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except (OSError, ValueError, AssertionError, RuntimeError, HfHubHTTPError) as err:
        reason = str(err).strip().splitlines()[0] if str(err).strip() else type(err).__name__
        raise DataError(
            f"data '{source}' is no file here and cannot be loaded as a data set: {reason}",
            hint="Give a csv, tsv, json, jsonl or parquet file, or a Hub data set id "
            "(with `subset` where it has several, and the network for the first time).",
        ) from err
