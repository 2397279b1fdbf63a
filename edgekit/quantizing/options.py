"""What a person may choose about quantization, and the tiers that choose it for them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from edgekit.errors import RecipeError
from edgekit.typed_files import problems_of
from edgekit_runtime.errors import nearest

Tier = Literal["fast", "default", "quality"]
# Calibration text that is no file.
SELF = "self"
MIXED = "mixed"


class Calibration(BaseModel):
    """What calibrated algorithms (``gptq``, ``tuned``) look at.

    Attributes:
        source: ``mixed``: five rows of shipped prose to one that the float base itself samples;
            ``self``: only such rows; or the path of a UTF-8 text file.
        rows: Rows of calibration text.
        row_tokens: Tokens a row.
        steps: Steps of tuning, one row each.
        seed: Of the sampling.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = MIXED
    rows: int = Field(default=100, ge=1)
    row_tokens: int = Field(default=256, ge=16)
    steps: int = Field(default=60, ge=1)
    seed: int = 0


class Quantization(BaseModel):
    """How weights are rounded.

    Attributes:
        tier: Preset for the keys that are not given, see ``TIERS``.
        algorithm: ``default`` and ``rtn`` round to nearest, ``k_quant`` is the model builder's;
            ``gptq`` and ``tuned`` calibrate.
        bits: Of the layers' weights.
        head_bits: Of the head, and of an embedding tied to it.
        eight_bit: Names of layer weights that get 8 bits, ``*`` stands for anything.
        eight_bit_budget: How much larger, as a share of 4 bits everywhere, the weights may become
            by giving 8 bits to those that need them most, head and layers alike.
        block_size: Weights that share a scale.
        eight_bit_block_size: The same of 8-bit weights, whose steps are fine anyway: the largest
            up to it that fills their inputs.
        is_symmetric: Whether zero is the middle of every block's range. If not, 4-bit blocks have
            zero points; 8-bit ones have none, since their steps are fine anyway.
        accuracy_level: MatMulNBits' compute: 4 is int8 activations, 1 is float32.
        embedding: Quantize the embedding table too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tier: Tier | None = None
    algorithm: Literal["default", "rtn", "k_quant", "gptq", "tuned"] = "default"
    bits: Literal[4, 8] = 4
    head_bits: Literal[4, 8] = 4
    eight_bit: tuple[str, ...] = ()
    eight_bit_budget: float = Field(default=0.0, ge=0, le=1)
    block_size: Literal[16, 32, 64, 128, 256] = 32
    eight_bit_block_size: Literal[16, 32, 64, 128, 256] = 64
    is_symmetric: bool = True
    accuracy_level: Literal[1, 2, 3, 4] = 4
    embedding: bool = True
    calibration: Calibration = Calibration()

    @model_validator(mode="before")
    @classmethod
    def _fill_from_tier(cls, values: Any) -> Any:
        tier = values.get("tier") if isinstance(values, dict) else None
        return TIERS[tier] | values if isinstance(tier, str) and tier in TIERS else values

    @field_validator("is_symmetric")
    @classmethod
    def _is_ours_to_choose(cls, is_symmetric: bool, info: ValidationInfo) -> bool:
        if not is_symmetric and info.data.get("algorithm") == "k_quant":
            raise ValueError(
                "expected true with k_quant, which has zero points of its own, or the algorithm "
                "rtn, gptq or tuned"
            )
        return is_symmetric

    @property
    def is_calibrated(self) -> bool:
        """Whether weights may lie farther from their float originals than rounding moves them."""
        return self.algorithm in {"gptq", "tuned"}

    @property
    def needs_text(self) -> bool:
        """Whether the base has to be run on calibration text."""
        return self.is_calibrated or self.eight_bit_budget > 0


TIERS: dict[str, dict[str, Any]] = {
    "fast": {"algorithm": "rtn"},
    "default": {"algorithm": "gptq", "eight_bit_budget": 0.15},
    "quality": {"algorithm": "gptq", "eight_bit_budget": 0.5},
}

# What a target's kernels decide stays as its profile says, whatever the tier.
_OF_THE_TARGET = {
    "block_size",
    "eight_bit_block_size",
    "accuracy_level",
    "embedding",
    "calibration",
}


def change(options: Quantization, text: str) -> Quantization:
    """A target's quantization with other options than its profile's.

    Args:
        options: The profile's; what is not named goes back to its default, save what suits the
            target's kernels (sizes of blocks, ``accuracy_level``, ``embedding``) and calibration.
        text: ``key=value`` with commas between; names of ``eight_bit`` with ``+`` between,
            ``calibration.steps=30`` for a key of the calibration.

    Raises:
        RecipeError: If the options make no sense, every problem listed.
    """
    changes: dict[str, Any] = {}
    calibration = options.calibration.model_dump()
    problems = []
    for pair in text.split(","):
        key, separator, value = (part.strip() for part in pair.partition("="))
        if not separator or not key:
            problems.append(f"'{pair}': expected KEY=VALUE, such as tier=fast")
        elif key.startswith("calibration."):
            changes["calibration"] = calibration
            calibration[key.removeprefix("calibration.")] = value
        elif key in Quantization.model_fields:
            changes[key] = value.split("+") if key == "eight_bit" else _value(value)
        else:
            problems.append(f"{key}: unknown key; {nearest(key, Quantization.model_fields)}")
    kept = options.model_dump(include=_OF_THE_TARGET - set(changes))
    try:
        changed = Quantization.model_validate(kept | changes)
    except ValidationError as err:
        problems += problems_of(err, Quantization)
    if problems:
        raise RecipeError(f"quantization '{text}' is wrong", problems=problems)
    return changed


def as_texts(options: Quantization) -> dict[str, str]:
    """What was chosen, in the keys and words of :func:`change`, for people to read in a manifest.

    Calibration is left out where nothing was calibrated, and of a text's path all but its name.
    """
    chosen = options.model_dump(exclude_none=True, exclude={"calibration", "eight_bit"})
    if options.eight_bit:
        chosen["eight_bit"] = "+".join(options.eight_bit)
    if options.needs_text:
        calibration = options.calibration.model_dump()
        calibration["source"] = Path(options.calibration.source).name
        chosen |= {f"calibration.{key}": value for key, value in calibration.items()}
    return {
        key: str(value).lower() if isinstance(value, bool) else str(value)
        for key, value in chosen.items()
    }


def check_sources(options: Mapping[str, Quantization]) -> None:
    """Raise if calibration text that is needed cannot be read: before the work, not amid it.

    Args:
        options: What is quantized, in words, to how.

    Raises:
        RecipeError: With every text.
    """
    problems = []
    for what, one in options.items():
        source = one.calibration.source
        if not one.needs_text or source in {SELF, MIXED}:
            continue
        try:
            Path(source).read_text(encoding="utf-8")
        except FileNotFoundError:
            problems.append(f"{what}: calibration.source: no such file '{source}'")
        except (OSError, UnicodeDecodeError) as err:
            problems.append(f"{what}: calibration.source '{source}': {err}")
    if problems:
        raise RecipeError(
            "calibration text cannot be read",
            problems=problems,
            hint=f"Name a UTF-8 text file, `{MIXED}`, or `{SELF}` for text that the base samples.",
        )


def _value(text: str) -> object:
    """Whole numbers and booleans as such: pydantic compares the values of a Literal with ``==``."""
    if text.lower() in {"true", "false"}:
        return text.lower() == "true"
    return int(text) if text.lstrip("-").isdigit() else text
