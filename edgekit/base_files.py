"""Write a new base: a directory that transformers loads and that ``build --base`` accepts."""

import shutil
from pathlib import Path
from typing import Any

import yaml

from edgekit.bases import Base
from edgekit.licenses import read_license

BASE_CONFIG = "config.json"

# Beside the weights and configs that transformers writes; a tokenizer is copied as it is.
_COPIED = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt",
    "chat_template*", "LICEN[SC]E*", "USE_POLICY*", "NOTICE*",
)  # fmt: skip


def write_base_files(
    directory: Path, model: Any, origin: Base, *, license: str | None, how: str
) -> None:
    """Write weights, configs, tokenizer, licences and a model card.

    Args:
        directory: Empty.
        model: A transformers model; its weights are stored as they are.
        origin: The base that it was made from.
        license: Of what was added. It is the new base's, too, unless the origin's has limits,
            which then go on to hold; the origin's where it says none.
        how: One line for the card: how it was made.
    """
    _untie_where_weights_differ(model)
    model.save_pretrained(directory)
    for pattern in _COPIED:
        for file in sorted(origin.path.glob(pattern)):
            shutil.copyfile(file, directory / file.name)
    (directory / "README.md").write_text(
        _card(origin, license, how), encoding="utf-8", newline="\n"
    )


def _untie_where_weights_differ(model: Any) -> None:
    """A head that was trained apart from the embedding would be tied to it again when loaded."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is not None and head.weight is not embedding.weight:
        model.config.tie_word_embeddings = False


def _card(origin: Base, license: str | None, how: str) -> str:
    declared = read_license(origin.path, known_id=origin.license)
    is_limited = declared.id is not None and bool(declared.limits)
    front: dict[str, str | None] = {"license": license}
    if is_limited or license in (None, declared.id):
        front = {"license": declared.id, "license_name": declared.name}
        front["license_link"] = declared.link
    front["base_model"] = origin.name
    said = {key: value for key, value in front.items() if value}
    own = f"What was added to that base is under {license}." if license else ""
    return "\n".join(
        [
            "---",
            yaml.safe_dump(said, sort_keys=False, allow_unicode=True).rstrip(),
            "---",
            "",
            f"{how}",
            "",
            f"Made from the base {origin.name}, {origin.fingerprint}. The licence and the use",
            "limits of that base hold for this one too.",
            *([own] if own else []),
            "",
        ]
    )
