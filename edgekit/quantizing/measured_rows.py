"""Rows that were compared stay so: a long comparison that was stopped goes on where it was."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from edgekit.bases import Base, default_cache_dir
from edgekit.building.weights import weights_folder
from edgekit_runtime.digests import sha256_of_file

# Part of the cache's key: raise it when the sums are computed in another way.
_REVISION = 1


@dataclass(frozen=True, slots=True)
class RowSums:
    """Sums over one row: nats of the float base and of the graph, KL, tokens that agree."""

    nll_float: float
    nll: float
    kl: float
    same: int


def rows_file(base: Base, target: Path, *, cache_dir: Path | None = None) -> Path:
    """Where the cache keeps what was measured of a target's scoring graph, there or not."""
    read = [target / "score.onnx", *sorted(weights_folder(target).iterdir())]
    facts = {
        "base": base.fingerprint,
        "files": [sha256_of_file(file) for file in read if file.is_file()],
        "revision": _REVISION,
        "versions": {name: version(name) for name in ("onnxruntime", "torch", "transformers")},
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]
    return (cache_dir or default_cache_dir()) / "compared" / f"{key}.jsonl"


def key_of(row: Sequence[int]) -> str:
    """A row's name in the cache."""
    return hashlib.sha256(json.dumps(list(row)).encode()).hexdigest()[:24]


def read_rows(file: Path) -> dict[str, RowSums]:
    """What a file holds, by row; a last line that was cut off is not there."""
    if not file.is_file():
        return {}
    found = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        key = values.pop("row")
        found[key] = RowSums(**values)
    return found


def add_row(file: Path, row: Sequence[int], sums: RowSums) -> None:
    """Append one row; a line is written at once."""
    file.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"row": key_of(row)} | asdict(sums))
    with file.open("a", encoding="utf-8") as lines:
        # The line before may have been cut off: an empty one between them hurts nobody.
        lines.write(f"\n{line}\n")
