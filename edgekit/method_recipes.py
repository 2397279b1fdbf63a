"""The part of a training recipe that says how to train: the method and its own section."""

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

if TYPE_CHECKING:
    from edgekit.recipes import TrainRecipe

METHODS = ("lora", "qlora", "dora", "full", "bottleneck")
LORA_METHODS = ("lora", "qlora", "dora")
TARGET_WEIGHTS = "target:"
NF4 = "nf4"

_INITS = ("gaussian", "orthogonal", "eva", "pissa", "olora", "loftq")
_PISSA_STEPS = re.compile(r"pissa_niter_[1-9]\d*")


def as_modules(value: Any) -> Any:
    """Names of modules as a tuple; a word or a regular expression stays text."""
    if value is None or isinstance(value, str):  # None is right where the field's type says so
        return value
    if isinstance(value, list | tuple) and value and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise ValueError("expected all-linear, a list of module names, or a regular expression")


Modules = Annotated[str | tuple[str, ...], BeforeValidator(as_modules)]


class LoraRecipe(BaseModel):
    """PEFT's ``LoraConfig``, by its own names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    r: int = Field(default=16, ge=1)
    lora_alpha: float = Field(default=32, gt=0)
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: Modules = "all-linear"
    exclude_modules: Annotated[str | tuple[str, ...] | None, BeforeValidator(as_modules)] = None
    use_rslora: bool = False
    rank_pattern: dict[str, int] = {}
    alpha_pattern: dict[str, float] = {}
    layers_to_transform: tuple[int, ...] | None = None
    layers_pattern: str | None = None
    init_lora_weights: bool | str = True
    modules_to_save: tuple[str, ...] | None = None

    @field_validator("init_lora_weights")
    @classmethod
    def _init_is_known(cls, init: bool | str) -> bool | str:
        if isinstance(init, bool) or init in _INITS or _PISSA_STEPS.fullmatch(init):
            return init
        raise ValueError(f"expected true, false, {', '.join(_INITS)}, or pissa_niter_NUMBER")

    @property
    def changes_base(self) -> bool:
        """Whether the first A and B are taken out of the base's weights: PiSSA and OLoRA."""
        return str(self.init_lora_weights).startswith(("pissa", "olora"))

    @property
    def needs_float_base(self) -> bool:
        """Whether weights of the base are changed or trained, which packed ones cannot be."""
        return self.changes_base or bool(self.modules_to_save)

    @property
    def largest_r(self) -> int:
        """Largest rank of the adapter that is written.

        One that started from the base's own directions is written as the difference to its start,
        which takes twice the rank; EVA may give a projection up to twice the rank (its rho).
        """
        largest = max(self.r, *self.rank_pattern.values(), 0)
        return largest * (2 if self.changes_base or self.init_lora_weights == "eva" else 1)


class BottleneckRecipe(BaseModel):
    """Houlsby adapters: a small two-layer network behind attention and MLP of every layer.

    Attributes:
        reduction_factor: The hidden size over the width of the bottleneck.
        non_linearity: Between its two layers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    reduction_factor: float = Field(default=16.0, ge=1)
    non_linearity: Literal["relu", "gelu", "silu", "tanh"] = "relu"
    dropout: float = Field(default=0.0, ge=0, lt=1)


def target_of(weights: str | None) -> str | None:
    """The target of ``target:NAME``; None for anything else."""
    name = (weights or "").removeprefix(TARGET_WEIGHTS)
    return name if name and name != weights else None


def method_problems(recipe: "TrainRecipe") -> list[str]:
    """What does not go together with a recipe's method."""
    problems: list[str] = []
    method, lora = recipe.method, recipe.lora
    if method == "qlora" and recipe.weights != NF4 and target_of(recipe.weights) is None:
        got = "none" if recipe.weights is None else repr(recipe.weights)
        problems.append(f"method qlora needs weights: {TARGET_WEIGHTS}NAME or {NF4}, got {got}")
    if method != "qlora" and recipe.weights is not None:
        problems.append(f"weights is for method qlora, and method is {method}")
    if method not in LORA_METHODS and lora != LoraRecipe():
        problems.append(f"lora is for methods {', '.join(LORA_METHODS)}, and method is {method}")
    if method != "bottleneck" and recipe.bottleneck != BottleneckRecipe():
        problems.append(f"bottleneck is for method bottleneck, and method is {method}")
    if recipe.loss is None and recipe.loss_options:
        problems.append("loss_options go with loss, and there is none")
    if recipe.weights == NF4:
        problems += _nf4_problems(lora)
    return problems + _init_problems(method, lora)


def _nf4_problems(lora: LoraRecipe) -> list[str]:
    """Starts that read the base's weights, which NF4 does not show as numbers."""
    if lora.changes_base or lora.init_lora_weights == "loftq":
        return [
            f"lora.init_lora_weights: {lora.init_lora_weights} reads the base's weights, and nf4 "
            f"does not show them; take true, gaussian, orthogonal or eva, or {TARGET_WEIGHTS}NAME"
        ]
    return []


def _init_problems(method: str, lora: LoraRecipe) -> list[str]:
    init = lora.init_lora_weights
    problems = []
    if init == "loftq" and method != "qlora":
        problems.append(
            "lora.init_lora_weights: loftq starts from what rounding took from the weights, so it "
            f"goes with method qlora, and method is {method}"
        )
    if not lora.changes_base:
        return problems
    if method == "dora":
        problems.append(
            f"lora.init_lora_weights: {init} changes the base's weights, and DoRA's magnitudes "
            "are those of the unchanged ones; take true, gaussian, orthogonal or eva"
        )
    if lora.use_rslora and (lora.rank_pattern or lora.alpha_pattern):
        problems.append(
            f"lora.init_lora_weights: {init} cannot be written for the unchanged base together "
            "with use_rslora and a rank_pattern or alpha_pattern; leave one of them out"
        )
    if lora.modules_to_save:
        problems.append(
            f"lora.init_lora_weights: {init} cannot be written for the unchanged base together "
            "with modules_to_save; leave one of them out"
        )
    return problems
