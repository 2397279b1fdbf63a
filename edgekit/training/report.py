"""What a run reports: rows, losses, metrics, speed, and a picture of the losses."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.pages.drawing import RED, new_figure

if TYPE_CHECKING:
    from edgekit.training.usage import Usage
    from edgekit.training.verdicts import Verdict

_PACKAGES = ("edgekit", "torch", "transformers", "peft", "datasets")


@dataclass(frozen=True, kw_only=True, slots=True)
class LossPoint:
    """One point of the loss curve; what was not measured at that step is None."""

    step: int
    train_loss: float | None = None
    eval_loss: float | None = None
    learning_rate: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RowCounts:
    """What became of the rows; those that ``data.augment`` or weights add are counted too.

    Attributes:
        total: Rows of training and validation; of a stream those that were read, each pass counted.
        used: Training rows that were trained on; of a stream how many all steps had.
        validation: Validation rows that the loss was taken of.
        test: Test rows.
        truncated: Rows of any split left out, since max_length would have cut them.
        duplicates: Training and validation rows that repeat an earlier one (they are kept); of a
            stream among its first rows.
    """

    total: int
    used: int
    validation: int
    test: int
    truncated: int
    duplicates: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingReport:
    """One finished run; ``training_report.json`` is its :meth:`to_dict`.

    Attributes:
        metrics: By split ("validation", "test"): loss, and the recipe's metrics from greedy
            generation.
        losses: By split, the kept adapter's loss on the device's weights that it was trained on and
            on the ``float`` ones; empty for other methods.
        quantization: Of those device's weights: target, fingerprint and options; None for others.
        n_generated: By split, the rows that those metrics were generated for.
        best_step: Whose weights were kept: lowest validation loss, or the last step.
        stopped_early: Whether the run ended before its last step, since the validation loss no
            longer fell.
        seconds: Of the training loop, evaluations included; since the resume, if resumed.
        tokens_per_s: Tokens read in training, padding left out, by those seconds.
        peak_rss_bytes: Most memory that the process held, from its start.
        memory_estimate: What was estimated before the first step, by purpose, in bytes.
        base_license: What the base declares, and its limits.
        class_weights: By label, what rows counted in training; None where all counted the same.
        usage: What the training loop took of processor, GPU and memory.
        verdicts: What the loss curve shows: overfitting, divergence, nothing learnt.
        n_processes: That trained together; speed is that of all, memory and use of the first.
        precision: "float32" or "bfloat16" (autocast) or "float16".
    """

    output: Path
    base: str
    base_fingerprint: str
    task: str
    recipe: Mapping[str, Any]
    rows: RowCounts
    labels: Sequence[str] | None
    class_weights: Mapping[str, float] | None
    steps: int
    best_step: int
    resumed_from_step: int
    stopped_early: bool
    loss_curve: Sequence[LossPoint]
    metrics: Mapping[str, Mapping[str, float]]
    losses: Mapping[str, Mapping[str, float]]
    quantization: Mapping[str, Any] | None
    n_generated: Mapping[str, int]
    n_trainable_parameters: int
    max_new_tokens: int
    seconds: float
    tokens_per_s: float
    peak_rss_bytes: int
    memory_estimate: Mapping[str, int]
    base_license: Mapping[str, Any]
    precision: str
    device: str
    n_processes: int
    seed: int
    versions: Mapping[str, str]
    warnings: Sequence[str]
    usage: "Usage"
    verdicts: Sequence["Verdict"]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values = asdict(self)
        return {"schema_version": "1.0", **values, "output": self.output.as_posix()}


def loss_curve_of(log_history: Sequence[Mapping[str, Any]]) -> tuple[LossPoint, ...]:
    """The Trainer's log as one point a step."""
    names = {"loss": "train_loss", "eval_loss": "eval_loss", "learning_rate": "learning_rate"}
    points: dict[int, dict[str, float]] = {}
    for entry in log_history:
        found = {names[key]: float(value) for key, value in entry.items() if key in names}
        if found:
            points.setdefault(int(entry["step"]), {}).update(found)
    return tuple(LossPoint(step=step, **values) for step, values in sorted(points.items()))


def losses_figure(
    curve: Sequence[LossPoint], best_step: int, title: str, trained: str = "training"
) -> Any:
    """Draw training and validation loss; ``trained`` names the curve of the first."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = new_figure(7, 4)
    train = [(p.step, p.train_loss) for p in curve if p.train_loss is not None]
    evals = [(p.step, p.eval_loss) for p in curve if p.eval_loss is not None]
    if train:
        axes.plot(*zip(*train, strict=True), color="#9db4c0", linewidth=1.5, label=trained)
    if evals:
        axes.plot(*zip(*evals, strict=True), color=RED, marker="o", label="validation")
        best = dict(evals).get(best_step)
        if best is not None:
            axes.annotate(
                f"kept: {best:.3f}", (best_step, best), xytext=(0, 10),
                textcoords="offset points", ha="center", color=RED,
            )  # fmt: skip
    values = [value for _, value in [*train, *evals] if value]
    if values and min(values) > 0 and max(values) / min(values) > 20:
        axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="step", ylabel="loss per learnt token (nats)")
    axes.set_title(title, parse_math=False)
    axes.grid(alpha=0.25)
    if train or evals:
        axes.legend(frameon=False)
    return figure


def library_versions() -> dict[str, str]:
    """Python and the packages whose version can change a result."""
    return {"python": sys.version.split()[0], **{name: version(name) for name in _PACKAGES}}
