"""``edgekit eval --harness``: tasks of lm-evaluation-harness."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from edgekit.evaluating.report import EvaluationReport


def refuse_with_harness(others: Mapping[str, Any]) -> None:
    """Refuse options that a task decides, by name to whether they are given."""
    given = [name for name, value in others.items() if value]
    if "--compare" in given:
        raise typer.BadParameter(
            "--compare is for --data: the harness scores a task as a whole; hold its intervals "
            "against each other"
        )
    if given:
        raise typer.BadParameter(
            f"{', '.join(given)}: not with --harness, whose tasks say what is asked and scored"
        )


def run_harness(
    tasks: Sequence[str],
    *,
    bundle: Path | None,
    base: str | None,
    adapter: str | None,
    target: str | None,
    weights: str | None,
    on_progress: Callable[[int, int], None],
    **options: Any,
) -> "EvaluationReport":
    """Score a bundle or a base; options as :func:`evaluate_harness` has them."""
    from edgekit.evaluating.harness import evaluate_harness
    from edgekit.evaluating.opening import open_subject, subject_name
    from edgekit.evaluating.recorded import base_weights, recorded_task

    of_base = base_weights(weights, recorded_task(None, adapter, {})) if base else None
    return evaluate_harness(
        tasks,
        lambda: open_subject(bundle, base, adapter, target, of_base),
        subject_name=subject_name(bundle, base, of_base),
        adapter=adapter,
        on_progress=on_progress,
        **options,
    )
