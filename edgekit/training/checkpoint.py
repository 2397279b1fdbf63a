"""Single tensors of a checkpoint, read where they lie."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

HEAD, TABLE = "lm_head.weight", "model.embed_tokens.weight"


def files_of(base: Path) -> dict[str, Path]:
    """The file of every tensor of a Hugging Face directory, by the tensor's name."""
    from safetensors import safe_open

    found: dict[str, Path] = {}
    for file in sorted(base.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            found |= dict.fromkeys(opened.keys(), file)
    return found


def stored_name(files: Mapping[str, Path], name: str) -> str:
    """The name that a weight is stored by: a head that is the embedding has only that one's."""
    return TABLE if name == HEAD and name not in files else name


def read_tensor(files: Mapping[str, Path], name: str) -> Any:
    """One tensor, as it is stored.

    Raises:
        KeyError: If the checkpoint has none of that name.
    """
    from safetensors import safe_open

    stored = stored_name(files, name)
    with safe_open(files[stored], framework="pt") as opened:
        return opened.get_tensor(stored)
