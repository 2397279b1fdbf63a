"""Tasks of lm-evaluation-harness: found by name or path, read, and checked before any work."""

import random
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from packaging.version import Version

from edgekit.errors import DataError, RecipeError, first_of
from edgekit.user_code import user_code
from edgekit_runtime.errors import nearest

_OLDEST, _TOO_NEW = "0.4.13", "0.5"
_KEY = "harness"
_HARMLESS = frozenset(
    {"until", "do_sample", "temperature", "top_p", "top_k", "max_gen_toks", "max_new_tokens"}
    | {"max_tokens", "max_completion_tokens"}
)


def check_harness() -> str:
    """The version of lm-evaluation-harness that is installed.

    Raises:
        RecipeError: If none is, or one of another kind, with the command that installs it.
    """
    try:
        found = version("lm_eval")
    except PackageNotFoundError:
        found = None
    if found is None or not Version(_OLDEST) <= Version(found) < Version(_TOO_NEW):
        got = "is not installed" if found is None else f"is {found}"
        raise RecipeError(
            f"--harness needs lm-evaluation-harness from {_OLDEST} to below {_TOO_NEW}, and it "
            f"{got}",
            hint="Install it: pip install 'edgekit[harness]'",
        )
    return found


def load_tasks(specs: Sequence[str], *, shots: int | None, max_new_tokens: int | None) -> Any:
    """Find tasks and read their rows.

    Args:
        specs: Names of tasks, groups or tags, with wildcards; or task files; or directories, all
            of whose tasks are taken. What is there as a path is a path.
        shots: Solved rows before every prompt; the tasks' own number if None. Tasks that say 0
            keep that.
        max_new_tokens: Limit of an answer, instead of the tasks' own.

    Returns:
        The harness's dict of tasks and groups.

    Raises:
        RecipeError: If a task is unknown, cannot be read, or asks for what is not done here.
        DataError: If a task's rows cannot be had.
    """
    from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED

    random.seed(DEFAULT_RANDOM_SEED)  # some tasks' own functions draw
    loaded = _read(_manager(specs), specs)
    problems = [
        f"{name}: {problem}"
        for name, task in loaded["tasks"].items()
        for problem in _problems(task)
    ]
    if problems:
        raise RecipeError("these tasks cannot be run here", problems=first_of(problems))
    for task in loaded["tasks"].values():
        own = task.get_config("num_fewshot")
        task.set_config(key="num_fewshot", value=own or 0 if shots is None or own == 0 else shots)
        task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
        if max_new_tokens is not None and task.OUTPUT_TYPE == "generate_until":
            task.set_config(
                key="generation_kwargs", value={"max_gen_toks": max_new_tokens}, update=True
            )
    return loaded


def _manager(specs: Sequence[str]) -> Any:
    """Knows the tasks beside a path, and the harness's own where a name or a group needs them."""
    from lm_eval.tasks import TaskManager

    paths = [Path(spec) for spec in specs if Path(spec).exists()]
    folders = [path if path.is_dir() else path.parent for path in paths]
    for path in paths:
        _check_files([path] if path.is_file() else sorted(path.rglob("*.yaml")))
    needs_own = len(paths) < len(specs) or any(_is_group(path) for path in paths)
    return TaskManager(
        include_path=[str(folder) for folder in folders] or None, include_defaults=needs_own
    )


def _read(manager: Any, specs: Sequence[str]) -> Any:
    names = [name for spec in specs for name in _names_of(manager, spec)]
    shown = ", ".join(specs)
    with user_code(shown, _KEY):  # a task file may name functions, and is templates anyway
        try:
            return manager.load(list(dict.fromkeys(names)))
        except OSError as err:  # what datasets and huggingface_hub raise is one, too
            reason = str(err).strip().splitlines()[0] if str(err).strip() else ""
            raise DataError(
                f"the rows of {shown} cannot be had: {type(err).__name__}: {reason}",
                hint="The harness's own tasks load their rows from the Hugging Face Hub, which "
                "takes the network the first time; a task file can name files of yours.",
            ) from err


def _names_of(manager: Any, spec: str) -> list[str]:
    """What the manager is to load for one spec."""
    path = Path(spec)
    if path.is_file():
        return [str(path)]
    if path.is_dir():
        folder = str(path.resolve())
        inside = [
            name
            for name in manager.all_subtasks
            if str(Path(manager.task_index[name].yaml_path).resolve()).startswith(folder)
        ]
        if not inside:
            raise RecipeError(f"--harness: '{spec}' has no task file (.yaml with the key task)")
        return inside
    found: list[str] = manager.match_tasks([spec])
    if not found:
        if path.suffix in {".yaml", ".yml"} or len(path.parts) > 1:
            raise RecipeError(
                f"--harness: there is no file '{spec}'", hint="Paths are relative to here."
            )
        guess = nearest(spec, manager.all_tasks).partition("? known")[0]
        more = f"; {guess}?" if guess.startswith("did you") else ""
        raise RecipeError(
            f"--harness: no task is called '{spec}'{more}",
            hint="List them: lm-eval ls tasks. Or give the path of a task file.",
        )
    return found


def _check_files(files: Sequence[Path]) -> None:
    """Refuse task files that are no YAML; in a directory the harness would pass over them."""
    import yaml

    problems = []
    for file in files:
        try:
            root = yaml.compose(file.read_text(encoding="utf-8"))  # `!function` stays a tag
        except (yaml.YAMLError, ValueError, OSError) as err:
            problems.append(f"{file}: {' '.join(str(err).split())}")
        else:
            if not isinstance(root, yaml.MappingNode):
                problems.append(f"{file}: expected keys with values, such as task: NAME")
    if problems:
        raise RecipeError("task files cannot be read", problems=first_of(problems))


def _is_group(path: Path) -> bool:
    return path.is_file() and "\ngroup:" in "\n" + path.read_text(encoding="utf-8")


def _problems(task: Any) -> list[str]:
    """What a task asks for that would not be done as it means."""
    problems = []
    if getattr(task, "UNSAFE_CODE", False):
        problems.append("runs code that the model writes; use the harness itself, in a sandbox")
    if getattr(task, "MULTIMODAL", False):
        problems.append("has pictures or sound; bundles read text")
    if task.OUTPUT_TYPE == "generate_until":
        problems += _generation_problems(task.get_config("generation_kwargs") or {})
    return problems


def _generation_problems(options: Mapping[str, Any]) -> list[str]:
    samples = options.get("do_sample", float(options.get("temperature") or 0) > 0)
    problems = ["samples its answers; here they are greedy: set do_sample: false"]
    unknown = [f"generation_kwargs.{n}: is not done here" for n in sorted({*options} - _HARMLESS)]
    return [*(problems if samples else []), *unknown]
