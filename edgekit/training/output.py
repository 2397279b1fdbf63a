"""The output directory: what may be written where, and how a run is found again.

``adapter_config.json`` is written last and is what makes a directory an adapter, as
``config.json`` makes it a base: a run that is killed at any moment leaves either what was there
before, or neither.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgekit.base_files import BASE_CONFIG
from edgekit.errors import RecipeError
from edgekit.recipes import TrainRecipe
from edgekit.training.processes import processes
from edgekit.training.tokens import TokenizedExample

ADAPTER_CONFIG = "adapter_config.json"
TRAINING_REPORT = "training_report.json"
TRAINING_PAGE = "training_report.html"
_MARKS = (ADAPTER_CONFIG, BASE_CONFIG)
_RUN_FILE = "run.json"
# Written last by the Trainer, so a checkpoint that has it is whole.
_CHECKPOINT_MARK = "trainer_state.json"


def run_digest(
    recipe: TrainRecipe, base_fingerprint: str, sequences: Sequence[TokenizedExample]
) -> str:
    """What has to be equal for a run to go on: recipe, base, every token, number of processes."""
    digest = hashlib.sha256(base_fingerprint.encode())
    if (n_processes := processes().n) > 1:
        digest.update(f"{n_processes} processes".encode())
    values = recipe.model_dump(mode="json", exclude={"output", "metrics", "license"})
    data = values["data"]
    for section in (data, *(source for source in data["train"] if isinstance(source, dict))):
        section.pop("license")
    digest.update(json.dumps(values, sort_keys=True).encode())
    return _with_tokens(digest, sequences)


def result_digest(run: str, test: Sequence[TokenizedExample]) -> str:
    """What has to be equal for a finished result to be the same: the run, and what it is scored on.

    Args:
        run: See :func:`run_digest`; validation rows are part of it.
        test: Every sequence of the test split.
    """
    return _with_tokens(hashlib.sha256(run.encode()), test)


def _with_tokens(digest: "hashlib._Hash", sequences: Sequence[TokenizedExample]) -> str:
    for sequence in sequences:
        digest.update(repr((sequence.input_ids, sequence.labels)).encode())
    return "sha256:" + digest.hexdigest()


def refuse_output(output: Path, *, overwrite: bool) -> None:
    """Refuse an output that must not be written to, before any work.

    Raises:
        RecipeError: If it is a file, a finished adapter, or somebody else's directory.
    """
    existing = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise RecipeError(f"output {output}: {existing} is a file", hint="Choose a directory.")
    if not output.is_dir():
        return
    found = next((mark for mark in _MARKS if (output / mark).exists()), None)
    # A base that was not trained here may be all that somebody has of it.
    is_result = found == ADAPTER_CONFIG or (output / TRAINING_REPORT).exists()
    if found and not (overwrite and is_result):
        kind = "adapter" if found == ADAPTER_CONFIG else "base"
        raise RecipeError(
            f"output {output} holds a finished {kind}",
            hint="Choose another `output`, or --overwrite to replace it."
            if is_result
            else "Choose another `output`.",
        )
    holds_run = (output / "checkpoints" / _RUN_FILE).exists()
    # Not even with --overwrite: what lies in `checkpoints` and `runs` there would be deleted.
    if any(output.iterdir()) and not found and not holds_run:
        raise RecipeError(
            f"output {output} exists, is not empty, and is not a training run",
            hint="Choose another `output`.",
        )


def prepare_output(output: Path, digest: str, *, resume: bool, overwrite: bool) -> Path | None:
    """Make the directory ready for a run.

    Args:
        output: Has passed :func:`refuse_output`.
        digest: Of this run, see :func:`run_digest`.
        resume: Whether to go on with an unfinished run.
        overwrite: Whether to throw away another recipe's unfinished run.

    Returns:
        The checkpoint to go on from, or None to start at the beginning.

    Raises:
        RecipeError: If another recipe's unfinished run is there.
    """
    checkpoints = output / "checkpoints"
    run = _read_run(checkpoints)
    is_same = run.get("digest") == digest and not run.get("finished")
    last = _last_checkpoint(checkpoints, processes().n)
    if last and run and not run.get("finished") and not is_same and not overwrite:
        raise RecipeError(
            f"output {output} holds an unfinished run of another recipe, base, or data, or of "
            "another number of processes",
            hint="Go back to that to resume it, choose another `output`, or --overwrite "
            "to throw the unfinished run away.",
        )
    found = last if resume and is_same else None
    if found is None:
        shutil.rmtree(checkpoints, ignore_errors=True)
        shutil.rmtree(output / "runs", ignore_errors=True)
    try:
        checkpoints.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise RecipeError(
            f"output {output} cannot be written to: {err}", hint="Choose a directory of your own."
        ) from err
    _write_run(checkpoints, digest, finished=False)
    return found


def finish_output(output: Path, digest: str, result: str, write: Callable[[Path], None]) -> None:
    """Put the finished files in place.

    Args:
        output: The run's directory.
        digest: Of the run.
        result: Of what is written, see :func:`result_digest`.
        write: Writes every file into the directory that it is given.
    """
    with tempfile.TemporaryDirectory(dir=output, prefix=".finishing-") as temporary:
        staged = Path(temporary)
        write(staged)
        names = sorted(path.name for path in staged.iterdir())
        for mark in _MARKS:
            (output / mark).unlink(missing_ok=True)
        for old in (*output.glob("*.safetensors"), *output.glob("*.safetensors.index.json")):
            old.unlink()  # of another kind or another number of shards: it would be read, too
        for name in sorted(names, key=lambda name: name in _MARKS):
            with (staged / name).open("r+b") as file:
                os.fsync(file.fileno())
            (staged / name).replace(output / name)
    _write_run(output / "checkpoints", digest, finished=True, result=result)


def is_whole(output: Path) -> bool:
    """Whether a run's result lies in a directory; its config is what is written last."""
    return any((output / mark).is_file() for mark in _MARKS)


def finished_digest(output: Path) -> str | None:
    """The :func:`result_digest` of what lies in a directory; None if no finished run does."""
    run = _read_run(output / "checkpoints")
    return run.get("result") if run.get("finished") and is_whole(output) else None


def drop_checkpoints(output: Path) -> None:
    """Delete what a finished run would have gone on from; of a whole model it is large."""
    for checkpoint in (output / "checkpoints").glob("checkpoint-*"):
        shutil.rmtree(checkpoint, ignore_errors=True)


def _last_checkpoint(checkpoints: Path, n_processes: int) -> Path | None:
    whole = [mark.parent for mark in checkpoints.glob(f"checkpoint-*/{_CHECKPOINT_MARK}")]
    if n_processes > 1:  # each writes its random state when it comes to it
        whole = [path for path in whole if len([*path.glob("rng_state_*.pth")]) == n_processes]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _read_run(checkpoints: Path) -> dict[str, Any]:
    try:
        run = json.loads((checkpoints / _RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return run if isinstance(run, dict) else {}


def _write_run(
    checkpoints: Path, digest: str, *, finished: bool, result: str | None = None
) -> None:
    run = {"digest": digest, "finished": finished, "result": result}
    partial = checkpoints / f".{_RUN_FILE}"
    partial.write_text(json.dumps(run), encoding="utf-8")
    partial.replace(checkpoints / _RUN_FILE)
