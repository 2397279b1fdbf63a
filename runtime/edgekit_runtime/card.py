"""The adapter card, ``adapter.json``: what an adapter is, was trained for and how to ask it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from edgekit_runtime.errors import BundleError
from edgekit_runtime.manifest import SCHEMA_VERSION, Fields
from edgekit_runtime.strict_json import loads

_RECIPE_KEYS = (
    "task",
    "prompt",
    "completion",
    "messages",
    "text_template",
    "system",
    "metrics",
    "labels",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterCard:
    """What ``adapter.json`` says.

    Attributes:
        binding: ``recorded`` (training wrote the base's fingerprint) or ``assumed``.
        defaults: Generation options that apply unless a request says otherwise.
        recipe: task, prompt, completion, messages, text_template, system, metrics, labels;
            all None for an adapter that was trained elsewhere.
        examples: Filled prompts from its validation data.
        metrics: Scores that were measured at training.
    """

    name: str
    r: int
    lora_alpha: float
    target_modules: tuple[str, ...]
    base_fingerprint: str
    binding: str
    license: str | None
    defaults: Mapping[str, Any]
    recipe: Mapping[str, Any]
    examples: tuple[str, ...]
    metrics: Mapping[str, Any]

    @property
    def prompt_template(self) -> str | None:
        """The template of its prompts, or None where it takes raw text or a chat."""
        prompt = self.recipe.get("prompt")
        return prompt if isinstance(prompt, str) else None

    @property
    def system(self) -> str | None:
        """The system message that it was trained with."""
        system = self.recipe.get("system")
        return system if isinstance(system, str) else None

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> Self:
        """Read a card.

        Raises:
            BundleError: With every problem.
        """
        try:
            value = loads(data)
        except ValueError as err:
            raise BundleError(f"{where} is no JSON: {err}", hint="Build the bundle again.") from err
        problems: list[str] = []
        fields = Fields(value, "", problems)
        version = fields.text("schema_version")
        if version and version.partition(".")[0] != SCHEMA_VERSION.partition(".")[0]:
            problems.append(f"schema_version: this runtime reads 1.x, got {version}")
        card = cls(
            name=fields.text("name"),
            r=fields.number("r"),
            lora_alpha=_number(fields, "lora_alpha"),
            target_modules=_texts(fields, "target_modules"),
            base_fingerprint=fields.text("base_fingerprint"),
            binding=fields.text("binding"),
            license=fields.optional_text("license"),
            defaults=dict(fields.object("defaults").data),
            recipe=dict.fromkeys(_RECIPE_KEYS) | dict(fields.object("recipe").data),
            examples=_texts(fields, "examples"),
            metrics=dict(fields.object("metrics").data),
        )
        if problems:
            raise BundleError(
                f"{where} is malformed", problems=problems, hint="Build the bundle again."
            )
        return card

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "schema_version": SCHEMA_VERSION,
            "name": self.name,
            "r": self.r,
            "lora_alpha": self.lora_alpha,
            "target_modules": list(self.target_modules),
            "base_fingerprint": self.base_fingerprint,
            "binding": self.binding,
            "license": self.license,
            "defaults": dict(self.defaults),
            "recipe": dict(self.recipe),
            "examples": list(self.examples),
            "metrics": dict(self.metrics),
        }


def _number(fields: Fields, key: str) -> float:
    value = fields.data.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        fields.problems.append(f"{fields.at(key)}: expected number, got {type(value).__name__}")
        return 0
    return value


def _texts(fields: Fields, key: str) -> tuple[str, ...]:
    value = fields.data.get(key)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        fields.problems.append(f"{fields.at(key)}: expected list of str")
        return ()
    return tuple(value)
