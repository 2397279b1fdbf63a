"""Record what a target answers, for the health check of the devices that get it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit.building.sessions import last_logits
from edgekit.building.target_dir import GRAPHS
from edgekit_runtime.health import PROMPT, HealthRecord
from edgekit_runtime.locking import TurnLock
from edgekit_runtime.native import Graph
from edgekit_runtime.static_layout import LAYOUT_FILE

_MAX_TOKENS = 64


def record_health(
    target: Path, adapters: Mapping[str, tuple[Path, tuple[str, ...]]]
) -> dict[str, dict[str, Any]]:
    """Run a short prompt on a target's graph and keep how likely the next tokens are.

    Static targets have none: their graphs run on a device or a simulator that takes hours.

    Args:
        target: The target's directory.
        adapters: Adapter name to its ``.onnx_adapter`` and prompts of its own data.

    Returns:
        The records by adapter name, the base's under ``""``; empty for a static target.
    """
    if (target / LAYOUT_FILE).is_file():
        return {}
    tokenizer = Graph(
        folder=target, filename=GRAPHS["base"], threads=1, lock=TurnLock()
    ).new_tokenizer()
    wanted: dict[str, tuple[Path | None, tuple[str, ...]]] = {"": (None, ()), **adapters}
    rows: dict[str, tuple[str, list[int], Path | None]] = {}
    for name, (file, prompts) in wanted.items():
        for prompt in (*prompts, PROMPT):
            tokens = tokenizer.encode(prompt)
            if 0 < len(tokens) <= _MAX_TOKENS:
                rows[name] = (prompt, tokens, file)
                break
    found = last_logits(target, [(tokens, file) for _, tokens, file in rows.values()])
    return {
        name: HealthRecord.of(prompt, tokens, logits).to_dict()
        for (name, (prompt, tokens, _)), logits in zip(rows.items(), found, strict=True)
    }
