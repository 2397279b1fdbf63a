"""The files of a finished run: PEFT's two, or those of a base, and edgekit's beside them."""

import json
from pathlib import Path
from typing import Any

from edgekit.base_files import write_base_files
from edgekit.training.methods import initial_adapter
from edgekit.training.output import ADAPTER_CONFIG, TRAINING_PAGE, TRAINING_REPORT
from edgekit.training.page import training_page
from edgekit.training.prepare import Prepared
from edgekit.training.report import TrainingReport, losses_figure

N_EXAMPLES = 8


def write_result(directory: Path, model: Any, prepared: Prepared, report: TrainingReport) -> None:
    """Write an adapter or a base, what edgekit records of it, the report and its pictures.

    Args:
        directory: Empty.
        model: The model with the weights to keep, around which PEFT is unless all were trained.
        prepared: What the run started from.
        report: What came out.
    """
    recipe = prepared.recipe
    if recipe.method == "full":
        how = f"Fine-tuned by edgekit, all weights, {report.best_step} steps."
        write_base_files(directory, model, prepared.base, license=recipe.license, how=how)
    elif recipe.method == "bottleneck":
        from edgekit.training.bottleneck import save_bottlenecks

        save_bottlenecks(model, directory, recipe.base, recipe.bottleneck)
    else:
        initial = initial_adapter(prepared, recipe.output / "checkpoints")
        _write_peft(directory, model, recipe.base, initial)
    _write_json(directory / "edgekit.json", _record(prepared, report))
    _write_json(directory / TRAINING_REPORT, report.to_dict())
    seen = [verdict.kind.replace("_", " ") for verdict in report.verdicts]
    title = f"{prepared.recipe.output.name} on {prepared.recipe.base}"
    title += f"\n{', '.join(seen)}" if seen else ""
    trained = f"training ({recipe.loss})" if recipe.loss else "training"
    curve = losses_figure(report.loss_curve, report.best_step, title, trained)
    curve.savefig(directory / "loss.png", dpi=130, metadata={"Software": None})
    (directory / TRAINING_PAGE).write_text(training_page(report), encoding="utf-8")


def _write_peft(directory: Path, model: Any, base: str, initial: Path | None) -> None:
    """Write an adapter of the untouched base.

    Where the first A and B were taken out of the base's weights (``initial``), what training
    changed is their difference to the last ones: ``B A - B0 A0``, a LoRA of twice the rank.
    """
    # The name as typed: a path of this machine would say nothing on another.
    model.peft_config["default"].base_model_name_or_path = base
    model.save_pretrained(
        directory,
        save_embedding_layers=False,
        path_initial_model_for_weight_conversion=str(initial.absolute()) if initial else None,
    )
    (directory / "README.md").unlink(missing_ok=True)  # PEFT's model card, all placeholders
    path = directory / ADAPTER_CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    for key in ("target_modules", "exclude_modules"):  # sets: their order differs between runs
        if isinstance(config.get(key), list):
            config[key] = sorted(config[key])
    _write_json(path, config)


def _record(prepared: Prepared, report: TrainingReport) -> dict[str, Any]:
    """``edgekit.json``: what build, eval and the runtime need to know."""
    data = prepared.recipe.data.model_dump(mode="json")
    questions = prepared.validation.questions or prepared.train.questions
    return {
        "schema_version": "1.0",
        "base": {
            "name": prepared.recipe.base,
            "source": prepared.base.source,
            "fingerprint": prepared.base.fingerprint,
            "license": prepared.base.license,
        },
        "method": prepared.recipe.method,
        "weights": prepared.recipe.weights,
        "quantization": report.quantization,
        "task": prepared.recipe.task,
        "prompt": data["prompt"],
        "completion": data["completion"],
        "messages": data["messages"],
        "text_template": data["text_template"],
        "system": data["system"],
        "metrics": list(prepared.metric_names),
        "labels": list(report.labels) if report.labels is not None else None,
        "max_new_tokens": report.max_new_tokens,
        "examples": [question.prompt for question in questions[:N_EXAMPLES]],
        "license": prepared.recipe.license,
        "data_sets": [data_set.to_dict() for data_set in prepared.data_sets],
        "validation": {
            "n_rows": report.rows.validation,
            "metrics": dict(report.metrics.get("validation", {})),
        },
    }


def _write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False, sort_keys=path.name == ADAPTER_CONFIG)
    path.write_text(text + "\n", encoding="utf-8")
