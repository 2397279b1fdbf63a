"""The file that people type for ``edgekit tune``: what to try, how, and what counts."""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    field_validator,
    model_validator,
)

from edgekit.errors import RecipeError
from edgekit.evaluating.metrics import METRICS, check_metrics
from edgekit.typed_files import show_value
from edgekit_runtime.errors import nearest

LOSSES = ("loss", "perplexity")
ADAPTER_SIZE, LATENCY = "adapter_size", "latency"
COSTS = (ADAPTER_SIZE, LATENCY)
DEFAULT_TRIALS = 20
DEFAULT_TEST_SHARE = 0.2


class _Typed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def as_parameter(value: Any) -> Any:
    """A list is short for a choice; ``categorical`` is Optuna's word for one."""
    if isinstance(value, list | tuple):
        return {"type": "choice", "values": value}
    if isinstance(value, dict) and value.get("type") == "categorical":
        return value | {"type": "choice"}
    return value


class Parameter(_Typed):
    """The values that one key of the recipe may take.

    Attributes:
        low: Of a float or int, itself possible.
        high: The same.
        log: Whether each order of magnitude is as likely as another.
        step: Only ``low`` and whole steps above it.
        values: Of a choice: any YAML values.
    """

    type: Literal["float", "int", "choice"]
    low: FiniteFloat | None = None
    high: FiniteFloat | None = None
    log: bool = False
    step: FiniteFloat | None = None
    values: tuple[Any, ...] | None = None

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        problems = self._choice_problems() if self.type == "choice" else self._range_problems()
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _choice_problems(self) -> list[str]:
        problems = [
            f"{key} is for float and int, and type is choice"
            for key in ("low", "high", "step", "log")
            if key in self.model_fields_set
        ]
        if self.values is None:
            return [*problems, "a choice needs values: [a, b]"]
        if len(self.values) < 2:
            problems.append(f"a choice needs two values or more, got {len(self.values)}")
        shown = [show_value(value) for value in self.values]
        twice = sorted({value for value in shown if shown.count(value) > 1})
        return problems + [f"the value {value} is there twice" for value in twice]

    def _range_problems(self) -> list[str]:
        low, high, step = self.low, self.high, self.step
        problems = ["values are for type choice"] if self.values is not None else []
        problems += [
            f"{key} is missing" for key, value in (("low", low), ("high", high)) if value is None
        ]
        if self.type == "int":
            problems += [
                f"{key}: expected a whole number, got {value:g}"
                for key, value in (("low", low), ("high", high), ("step", step))
                if value is not None and not value.is_integer()
            ]
        if low is None or high is None:
            return problems
        if low > high:
            problems.append(f"low is over high: {low:g} > {high:g}")
        elif low == high:
            problems.append(f"low and high are both {low:g}: put it into the recipe instead")
        if self.log and low <= 0:
            problems.append(f"log needs a low above 0, got {low:g}")
        if self.log and step is not None:
            problems.append("log and step do not go together; leave one of them out")
        if step is not None and not 0 < step <= abs(high - low):
            problems.append(f"step: expected more than 0 and at most high - low, got {step:g}")
        return problems


class Strategy(_Typed):
    """How values are picked, and for how long.

    Attributes:
        type: ``random``; ``tpe`` learns from earlier trials; ``grid`` tries every combination.
        num_trials: Trials in all, restarts included; 20, or the whole grid.
        max_minutes: No trial begins once the trials have taken as long.
        pruner: ends a trial that does worse than others at the same step: ``median`` than half
            of them, ``halving`` than most (successive halving).
        startup_trials: That no trial is pruned before.
    """

    type: Literal["random", "tpe", "grid"] = "random"
    num_trials: int | None = Field(default=None, ge=1)
    max_minutes: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    pruner: Literal["none", "median", "halving"] = "none"
    startup_trials: int = Field(default=5, ge=1)


class Objective(_Typed):
    """What a trial is judged by.

    Attributes:
        metric: A metric, ``loss``, ``perplexity``, ``adapter_size`` (bytes) or ``latency``
            (milliseconds a token).
        direction: Of a metric of one's own, where smaller is better.
    """

    metric: str
    direction: Literal["maximize", "minimize"] | None = None

    @field_validator("metric")
    @classmethod
    def _is_known(cls, metric: str) -> str:
        if metric in (*LOSSES, *COSTS):
            return metric
        try:
            check_metrics([metric])
        except RecipeError as err:
            known = [*METRICS, *LOSSES, *COSTS]
            raise ValueError(f"unknown metric; {nearest(metric, known)}") from err
        return metric

    @model_validator(mode="after")
    def _points_the_right_way(self) -> Self:
        if self.metric in (*LOSSES, *COSTS) and self.direction == "maximize":
            raise ValueError(f"{self.metric} is better when it is smaller; leave direction out")
        return self

    @property
    def is_minimized(self) -> bool:
        """Whether smaller is better."""
        return self.direction == "minimize" or self.metric in (*LOSSES, *COSTS)

    @property
    def is_scored(self) -> bool:
        """Whether it is a metric of answers, rather than a loss or a cost."""
        return self.metric not in (*LOSSES, *COSTS)


def _as_objectives(value: Any) -> Any:
    if value is None:
        return None
    several = value if isinstance(value, list | tuple) else [value]
    if not several:
        raise ValueError("expected 1 or more of them, got none")
    return tuple({"metric": one} if isinstance(one, str) else one for one in several)


def _as_recipe(value: Any) -> Any:
    if not isinstance(value, str | dict) or not value:
        raise ValueError("expected the path of a training recipe, or the recipe itself")
    return value


def _as_test(value: Any) -> Any:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError("expected a share from 0 to below 1, or a file")
    return float(value)


class SearchFile(_Typed):
    """``edgekit tune search.yaml``.

    Attributes:
        recipe: Path of a training recipe, or the recipe itself. Its own values are the defaults
            that the winner is compared with.
        search_space: Dotted key of the recipe, or a short name, to what it may be.
        objective: One or several; the task's first metric by default.
        evaluate_on: ``bundle`` scores what the device runs: each trial's adapter in a bundle.
        target: Of that bundle.
        test: Share of the rows, or a file, that no trial sees; 0 for none. The recipe's own
            ``data.test`` by default, else 0.2.
        workers: Trials at a time, each in a process.
        seed: Of the values that are picked.
        storage: Optuna's, an URL; a SQLite file in the output by default.
        study: Its name in there; the output's name by default.
        output: Directory; ``searches/`` and the search file's name by default.
    """

    recipe: Annotated[Any, BeforeValidator(_as_recipe)]
    search_space: dict[str, Annotated[Parameter, BeforeValidator(as_parameter)]] = Field(
        min_length=1
    )
    search_strategy: Strategy = Strategy()
    objective: Annotated[
        tuple[Objective, ...] | None,
        BeforeValidator(_as_objectives),
    ] = None
    evaluate_on: Literal["torch", "bundle"] = "torch"
    target: str = "cpu"
    test: Annotated[float | str | None, BeforeValidator(_as_test)] = None
    workers: int = Field(default=1, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**32)
    storage: str | None = None
    study: str | None = None
    output: str | None = None

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        problems = []
        metrics = [one.metric for one in self.objective or ()]
        if len(set(metrics)) < len(metrics):
            problems.append("objective: the same metric is there twice")
        if LATENCY in metrics and self.evaluate_on == "torch":
            problems.append("objective: latency is the device's, so it needs evaluate_on: bundle")
        if len(metrics) > 1 and self.search_strategy.pruner != "none":
            problems.append(
                "search_strategy.pruner: a trial cannot be told to be bad by several objectives; "
                "take none, or one objective"
            )
        if "target" in self.model_fields_set and self.evaluate_on == "torch":
            problems.append("target: goes with evaluate_on: bundle")
        if problems:
            raise ValueError("\n".join(problems))
        return self
