"""Adapters of any kind that PyTorch computes, also those that no socket expresses."""

import os
from pathlib import Path
from typing import Any

from edgekit.adapters.peft_checks import CONFIG_FILE, RECORD_FILE, binding_problems
from edgekit.adapters.peft_dir import check_tensors, read_peft_adapter
from edgekit.bases import Base, read_object
from edgekit.errors import PeftAdapterError

_BOTTLENECK = "BOTTLENECK"


def read_config_and_record(
    adapter: Path, base: Base, problems: list[str], *, assume_base: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read ``adapter_config.json`` and ``edgekit.json``; what is wrong goes to ``problems``.

    Args:
        adapter: PEFT directory.
        base: The base that it must be for.
        problems: Added to: unreadable files, another base, unfit types, NaN.
        assume_base: Take an adapter whose recorded base name contradicts.

    Raises:
        PeftAdapterError: If there is no such directory.
    """
    if not adapter.is_dir():
        raise PeftAdapterError(
            f"there is no directory '{adapter}'",
            hint="Point at the directory that PeftModel.save_pretrained wrote.",
        )
    config = read_object(adapter / CONFIG_FILE, problems) or {}
    has_record = (adapter / RECORD_FILE).is_file()
    record = (read_object(adapter / RECORD_FILE, problems) or {}) if has_record else {}
    if config:
        problems += binding_problems(config, record, base, assume_base=assume_base)
    problems += check_tensors(adapter)
    return config, record


def with_adapter(model: Any, base: Base, adapter: Path) -> Any:
    """Attach an adapter of any kind to a transformers model of a base.

    Raises:
        PeftAdapterError: If it does not fit; a plain LoRA is checked as strictly as by ``build``.
    """
    from peft import PeftModel

    problems: list[str] = []
    config, _ = read_config_and_record(adapter, base, problems)
    if config.get("peft_type") == "LORA" and not _is_special(config):
        read_peft_adapter(adapter, base, name=adapter.name, max_rank=model.config.hidden_size)
    elif problems:
        raise PeftAdapterError(
            f"adapter '{adapter.name}' does not fit base '{base.name}'", problems=problems
        )
    if config.get("peft_type") == _BOTTLENECK:
        from edgekit.training.bottleneck import load_bottlenecks

        load_bottlenecks(model, adapter)
        return model.eval()
    try:
        return PeftModel.from_pretrained(model, os.fspath(adapter)).eval()
    except (ValueError, RuntimeError, KeyError) as err:  # PEFT's own, for what does not fit
        raise PeftAdapterError(
            f"adapter '{adapter.name}' does not fit base '{base.name}': {err}"
        ) from err


def _is_special(config: dict[str, Any]) -> bool:
    return bool(config.get("use_dora") or config.get("modules_to_save"))
