"""What can be wrong with a PEFT adapter's words: its config, its record, and the base they name."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.adapters.peft_rules import is_targeted
from edgekit.bases import EMBEDDED, Base, fingerprint_of
from edgekit_runtime.digests import is_digest
from edgekit_runtime.manifest import Fields

CONFIG_FILE = "adapter_config.json"
RECORD_FILE = "edgekit.json"

# Fields of PEFT's LoraConfig that do not change what the trained A and B compute, or that this
# package reads itself. Any other field that is set is refused by name: exact or not at all.
_HARMLESS = {
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config",
    "ensure_weight_tying", "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode",
    "init_lora_weights", "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha",
    "lora_dropout", "lora_ga_config", "megatron_core", "modules_to_save", "peft_type",
    "peft_version", "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config",
    "target_modules", "task_type", "use_dora", "use_rslora",
}  # fmt: skip
# Initializations that subtract something from the base: their A and B fit the changed base only.
_BASE_CHANGING_INIT = ("pissa", "olora", "corda", "loftq", "lora_ga")
_WAYS_OUT = {
    "use_dora": "DoRA rescales the rows of the merged weight; a LoRA socket cannot express it "
    "exactly. Make a base of its own of it: edgekit merge, then build --base.",
    "modules_to_save": "whole retrained modules do not fit a socket. Make a base of its own of "
    "it: edgekit merge, then build --base.",
    "bias": "trained biases do not fit a socket. Make a base of its own of it: edgekit merge, then "
    "build --base.",
}
_OTHER_KINDS = {
    "BOTTLENECK": "a bottleneck is not linear: it fits no socket, and it cannot be merged into a "
    "weight. It runs in PyTorch only; train with method: lora, dora or full for a device",
}


_LARGEST = float(np.finfo(np.float32).max)


def config_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Settings of ``adapter_config.json`` that sockets cannot express exactly."""
    kind = config.get("peft_type")
    if kind != "LORA":
        reason = f": {_OTHER_KINDS[kind]}" if isinstance(kind, str) and kind in _OTHER_KINDS else ""
        yield f"{CONFIG_FILE}: peft_type: expected LORA, got {kind}{reason}"
        if reason:
            return
    for key, reason in _WAYS_OUT.items():
        value = config.get(key)
        if value and value != "none":
            yield f"{CONFIG_FILE}: {key}={value!r}: {reason}"
    init = str(config.get("init_lora_weights")).lower()
    if init.startswith(_BASE_CHANGING_INIT):
        yield (
            f"{CONFIG_FILE}: init_lora_weights={init!r} changes the base's weights; convert it "
            "with save_pretrained(…, path_initial_model_for_weight_conversion=…) first"
        )
    for key, value in sorted(config.items()):
        if key not in _HARMLESS and value not in (None, False, [], {}, ""):
            yield f"{CONFIG_FILE}: {key}={value!r} is not supported: it changes what LoRA computes"


def number_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Ranks and alphas that are no numbers; nothing can be computed from them."""
    if not _is_rank(r := config.get("r", 8)):
        yield f"{CONFIG_FILE}: r: expected a whole number from 1, got {r!r}"
    if not _is_number(alpha := config.get("lora_alpha", 8)):
        yield f"{CONFIG_FILE}: lora_alpha: expected a number, got {alpha!r}"
    for key, fits, what in (
        ("rank_pattern", _is_rank, "a whole number from 1"),
        ("alpha_pattern", _is_number, "a number"),
    ):
        patterns = config.get(key) or {}
        if not isinstance(patterns, dict):
            yield f"{CONFIG_FILE}: {key}: expected an object, got {patterns!r}"
            continue
        for pattern, value in patterns.items():
            if not fits(value):
                yield f"{CONFIG_FILE}: {key}.{pattern}: expected {what}, got {value!r}"
            try:
                re.compile(pattern)
            except re.error as err:
                yield f"{CONFIG_FILE}: {key}.{pattern}: is no regular expression: {err}"


def target_problems(
    config: Mapping[str, Any], present: Iterable[str], known: Iterable[str]
) -> Iterator[str]:
    """Does the file hold the modules that the config targets, no fewer and no more?

    PEFT would start the absent ones at zero and ignore the untargeted ones, with a warning.

    Args:
        config: ``adapter_config.json``.
        present: Modules of which the file holds a half at least.
        known: The base's decoder linears.
    """
    try:
        targeted = {module for module in known if is_targeted(config, module)}
    except (TypeError, ValueError, re.error) as err:
        yield f"{CONFIG_FILE}: target_modules cannot be read: {err}"
        return
    present = set(present)
    for module in sorted(targeted - present):
        yield f"{module}: {CONFIG_FILE} targets it, but the file holds no lora_A and lora_B of it"
    for module in sorted(present - targeted):
        yield f"{module}: the file holds it, but {CONFIG_FILE} does not target it"


def recorded_fingerprint(record: Mapping[str, Any]) -> str | None:
    """The base's fingerprint that ``edgekit train`` wrote, if it did."""
    base = record.get("base")
    return base.get("fingerprint") if isinstance(base, dict) else None


def record_problems(record: Mapping[str, Any]) -> list[str]:
    """What is wrong with the parts of ``edgekit.json`` that go into a bundle."""
    problems: list[str] = []
    fields = Fields(record, RECORD_FILE, problems)
    for key in ("task", "prompt", "completion", "text_template", "system", "license", "weights"):
        fields.optional_text(key)
    if record.get("max_new_tokens") is not None:
        fields.number("max_new_tokens")
    if record.get("validation") is not None:
        fields.object("validation")
    if record.get("base") is not None:
        fields.object("base").text("fingerprint")
    if record.get("quantization") is not None:
        fields.object("quantization").text("fingerprint")
    problems += data_set_problems(record.get("data_sets"), RECORD_FILE)
    examples = record.get("examples") or []
    if not isinstance(examples, list) or not all(isinstance(item, str) for item in examples):
        problems.append(f"{RECORD_FILE}.examples: expected list of str")
    return problems


def data_set_problems(data_sets: object, where: str) -> list[str]:
    """What is wrong with a list of the data sets that an adapter was trained on; None is fine."""
    problems: list[str] = []
    if not isinstance(data_sets, list | None):
        return [f"{where}.data_sets: expected list, got {type(data_sets).__name__}"]
    for number, data_set in enumerate(data_sets or ()):
        fields = Fields(data_set, f"{where}.data_sets[{number}]", problems)
        for key in ("name", "source", "use"):
            fields.text(key)
        for key in ("digest", "version", "subset", "split", "license"):
            fields.optional_text(key)
        digest = fields.data.get("digest")
        if isinstance(digest, str) and not is_digest(digest):
            problems.append(f"{fields.at('digest')}: expected sha256:…, got {digest!r}")
    return problems


def binding_problems(
    config: Mapping[str, Any], record: Mapping[str, Any], base: Base, *, assume_base: bool
) -> Iterator[str]:
    """Does the adapter say that it was made for another base?

    The fingerprint that it was trained on never is that of an ONNX model made from that base: there
    ``assume_base`` is a person's word for it.
    """
    if recorded := recorded_fingerprint(record):
        its = record["base"].get("name", "?")
        if recorded != base.fingerprint and base.is_prebuilt:
            if not assume_base:
                yield (
                    f"trained on base '{its}' with fingerprint {recorded}; '{base.name}' is an "
                    "ONNX model, which does not tell what it was made from: name that base with "
                    "--base to compare, or say --assume-base"
                )
        elif recorded != base.fingerprint:
            yield (
                f"trained on base '{its}' with fingerprint {recorded}, "
                f"this is '{base.name}' with {base.fingerprint}"
            )
        return
    said = str(config.get("base_model_name_or_path") or "")
    if assume_base or not said or _may_be_same_base(said, base):
        return
    note = ""
    if base.name in EMBEDDED and said == EMBEDDED[base.name].hub_id:
        note = f" ('{base.name}' holds dequantized weights, '{said}' the Hub's float ones)"
    yield (
        f"{CONFIG_FILE}: base_model_name_or_path: expected '{base.name}', got '{said}'{note}; "
        "if they are the same weights, say so with --assume-base"
    )


def _may_be_same_base(said: str, base: Base) -> bool:
    """A matching name, a directory with these weights, or a path of another machine."""
    if said.lower() in {base.name.lower(), base.name.partition("@")[0].lower()}:
        return True
    path = Path(said).expanduser()
    if (path / "config.json").is_file():
        return path.resolve() == base.path or fingerprint_of(path) == base.fingerprint
    if path.is_absolute() or said.startswith((".", "~")) or "\\" in said:
        return True
    return base.name not in EMBEDDED and path.name.lower() == base.path.name.lower()


def _is_rank(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(value: object) -> bool:
    """Whether it is one that float32 can hold; JSON's may have any length."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) <= _LARGEST  # not NaN either
