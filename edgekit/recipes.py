"""The two files that people type: a training recipe and a bundle recipe.

Both are YAML. Unknown keys are refused with the nearest right name, every problem is listed at
once, and any value can be overridden from the command line. Paths are relative to the current
working directory.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from edgekit.data_recipe import DataRecipe, as_tuple, checked_template
from edgekit.errors import RecipeError
from edgekit.method_recipes import METHODS, BottleneckRecipe, LoraRecipe, method_problems, target_of
from edgekit.recipe_files import apply_overrides, read_yaml
from edgekit.streaming_rules import streaming_problems
from edgekit.typed_files import problems_of
from edgekit_runtime.errors import nearest

Task = Literal["classification", "extraction", "generation", "summarization", "chat"]


class _Typed(BaseModel):
    """What every part of a recipe shares: immutable, and no key that is not known."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _check_class_weights(value: Any) -> Any:
    """``balanced``, or numbers over zero by label; YAML reads some labels as other things."""
    if value is None or value == "balanced":
        return value
    if not isinstance(value, dict) or not value:
        raise ValueError(f"expected balanced, or a weight by label, got {value!r}")
    for label, weight in value.items():
        if not isinstance(label, str):
            raise ValueError(f"label {label!r} is no text; write it in quotes")
        is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not is_number or not 0 < weight < float("inf"):
            raise ValueError(f"{label}: expected a number over 0, got {weight!r}")
    return {label: float(weight) for label, weight in value.items()}


class EarlyStopping(_Typed):
    """When a run ends before its last step.

    Attributes:
        patience: Evaluations in a row without a gain that end the run.
        min_delta: What the validation loss has to fall by, below the lowest so far, to be a gain.
    """

    patience: int = Field(ge=1, strict=True)
    min_delta: float = Field(default=0.0, ge=0, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _accept_the_patience_alone(cls, value: Any) -> Any:
        return {"patience": value} if isinstance(value, int) else value


class TrainRecipe(_Typed):
    """``edgekit train recipe.yaml``.

    Attributes:
        weights: For method qlora: ``target:NAME``, the int4 weights of that target, or ``nf4``.
        loss: ``path/to/file.py:ClassName`` or the name of an installed ``edgekit.losses`` entry
            point, instead of the mean cross entropy of the learnt tokens.
        loss_options: Keyword arguments that the loss class is made with.
        class_weights: How much a row of a classification counts in the loss, by its label.
        training: Hugging Face ``TrainingArguments`` by their own names; checked when training.
        early_stopping: End the run when the validation loss no longer falls.
        metrics: Scored on validation at the end; the task's own by default.
        seed: Of the split, the adapter's first weights, the order of rows and dropout.
    """

    base: str
    method: str = "lora"
    weights: str | None = None
    task: Task = "generation"
    data: DataRecipe
    lora: LoraRecipe = LoraRecipe()
    bottleneck: BottleneckRecipe = BottleneckRecipe()
    loss: str | None = None
    loss_options: dict[str, Any] = {}
    class_weights: Annotated[Any, BeforeValidator(_check_class_weights)] = None
    training: dict[str, Any] = {}
    early_stopping: EarlyStopping | None = None
    metrics: tuple[str, ...] | None = None
    output: Path
    seed: int = Field(default=42, ge=0, lt=2**32)
    license: str | None = None

    @field_validator("method")
    @classmethod
    def _method_is_supported(cls, method: str) -> str:
        if method not in METHODS:
            raise ValueError(f"not supported; supported now: {', '.join(METHODS)}")
        return method

    @model_validator(mode="after")
    def _fits_the_method(self) -> "TrainRecipe":
        problems = method_problems(self) + streaming_problems(self)
        if self.loss and self.data.packing:
            problems.append("loss: not with data.packing, which puts several sequences in a row")
        if self.class_weights is not None:
            problems += self._class_weight_problems()
        if self.loss and self.training.get("label_smoothing_factor"):
            problems.append("training.label_smoothing_factor: not with loss, which decides it")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _class_weight_problems(self) -> list[str]:
        if self.task != "classification" or self.data.completion is None:
            return ["class_weights: for task classification with data.prompt and data.completion"]
        return [
            f"class_weights: not with {key}, which {reason}"
            for key, given, reason in (
                ("loss", self.loss, "decides it"),
                ("data.packing", self.data.packing, "puts several labels in a row"),
            )
            if given
        ]

    @property
    def target(self) -> str | None:
        """Name or path of the target whose weights are trained on; None for the float base."""
        return target_of(self.weights)


class AdapterSource(_Typed):
    """One adapter of a bundle.

    Attributes:
        path: PEFT directory by target name; ``default`` is for the targets not named.
        prompt: Template, where the adapter records none or another is wanted.
        defaults: Generation options that the adapter brings along.
    """

    path: dict[str, str] = Field(min_length=1)
    prompt: str | None = None
    defaults: dict[str, Any] = {}
    license: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _accept_short_forms(cls, value: Any) -> Any:
        """``PATH`` and ``{cpu: PATH, default: PATH}`` are short for ``{path: …}``."""
        if isinstance(value, str | Path):
            return {"path": {"default": str(value)}}
        if not isinstance(value, dict):
            return value
        if not set(value) & set(cls.model_fields):
            return {"path": value}
        if isinstance(value.get("path"), str | Path):
            return value | {"path": {"default": str(value["path"])}}
        return value

    @field_validator("prompt")
    @classmethod
    def _parses(cls, template: str | None) -> str | None:
        return checked_template(template)

    def path_for(self, target: str) -> Path:
        """The PEFT directory for a target."""
        return Path(self.path.get(target) or self.path["default"])


class ParityRecipe(_Typed):
    """Bounds of the parity gate that the recipe sets itself."""

    max_nll_increase: float | None = Field(default=None, gt=0)


class BundleRecipe(_Typed):
    """``edgekit build recipe.yaml``.

    Attributes:
        base_onnx: Folder of an int4 ONNX model that somebody else built, taken instead of an
            export of ``base``, which then only says what it was made from.
    """

    name: str
    version: str = "0.1.0"
    base: str | None = None
    base_onnx: Path | None = None
    targets: Annotated[tuple[str, ...], BeforeValidator(as_tuple), Field(min_length=1)] = ("cpu",)
    adapters: dict[str, AdapterSource] = {}
    output: Path
    quantization: str | None = None
    parity: ParityRecipe = ParityRecipe()

    @model_validator(mode="after")
    def _has_a_base(self) -> Self:
        if self.base is None and self.base_onnx is None:
            raise ValueError("give base, or base_onnx")
        return self

    @field_validator("adapters")
    @classmethod
    def _every_target_has_a_path(
        cls, adapters: dict[str, AdapterSource], info: ValidationInfo
    ) -> dict[str, AdapterSource]:
        targets = info.data.get("targets")
        if targets is None:
            return adapters  # targets itself is wrong, and that is being reported
        problems = []
        for name, source in adapters.items():
            unknown = sorted(set(source.path) - set(targets) - {"default"})
            problems += [f"{name} names {key!r}, {nearest(key, targets)}" for key in unknown]
            if "default" not in source.path:
                lacking = [target for target in targets if target not in source.path]
                problems += [f"{name} has no path for target {target!r}" for target in lacking]
        if problems:
            raise ValueError("; ".join(problems))
        return adapters


Recipe = TypeVar("Recipe", TrainRecipe, BundleRecipe, DataRecipe)


def load_recipe(path: Path, kind: type[Recipe], overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        path: YAML file.
        kind: ``TrainRecipe`` or ``BundleRecipe``.
        overrides: ``dotted.key=value``, the value parsed as YAML.

    Raises:
        RecipeError: With every problem: syntax, unknown keys, wrong types.
    """
    values = apply_overrides(read_yaml(path), overrides)
    return parse_recipe(values, kind, where=f"recipe {path}")


def parse_recipe(values: dict[str, Any], kind: type[Recipe], *, where: str = "recipe") -> Recipe:
    """Check values that are already read (from flags, a search, or a file).

    Raises:
        RecipeError: With every problem.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as err:
        raise RecipeError(f"{where} cannot be used", problems=problems_of(err, kind)) from err
