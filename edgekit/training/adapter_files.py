"""The files of a finished adapter: PEFT's two, untouched in format, and edgekit's beside them."""

import json
from pathlib import Path
from typing import Any

from edgekit.training.output import ADAPTER_CONFIG
from edgekit.training.prepare import Prepared
from edgekit.training.report import TrainingReport, draw_losses

N_EXAMPLES = 8


def write_adapter_files(
    directory: Path, model: Any, prepared: Prepared, report: TrainingReport
) -> None:
    """Write an adapter, what edgekit records of it, the report and its picture.

    Args:
        directory: Empty.
        model: The PEFT model with the weights to keep.
        prepared: What the run started from.
        report: What came out.
    """
    _write_peft(directory, model, prepared.recipe.base)
    _write_json(directory / "edgekit.json", _record(prepared, report))
    _write_json(directory / "training_report.json", report.to_dict())
    title = f"{prepared.recipe.output.name} on {prepared.recipe.base}"
    draw_losses(directory / "loss.png", report.loss_curve, report.best_step, title)


def _write_peft(directory: Path, model: Any, base: str) -> None:
    # The name as typed: a path of this machine would say nothing on another.
    model.peft_config["default"].base_model_name_or_path = base
    model.save_pretrained(directory, save_embedding_layers=False)
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
        },
        "weights": prepared.recipe.weights,
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
        "validation": {
            "n_rows": report.rows.validation,
            "metrics": dict(report.metrics.get("validation", {})),
        },
    }


def _write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False, sort_keys=path.name == ADAPTER_CONFIG)
    path.write_text(text + "\n", encoding="utf-8")
