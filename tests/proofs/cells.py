"""What is proven: every cell of the tables, as commands of ``edgekit``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.method_recipes import TARGET_WEIGHTS
from edgekit.recipes import TrainRecipe, load_recipe
from tests.proofs.rows import ROOT, Rows

BUNDLES = ROOT / "bundles"
PROOFS = BUNDLES / "proofs"
# Rounded to nearest, so that a merged base is quantized as the plain one is, in seconds.
TARGET = "cpu-fast"
PLACES = ("torch", "bundle")
EXACT_TARGETS = {"asym32": PROOFS / "asym32.yaml", "sym128": PROOFS / "sym128.yaml"}
EXACT_SEEDS = (1, 2, 3)
EXACT_STEPS = 100
SKILL = "skill"


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSet:
    """One data set, and how its rows are asked.

    Attributes:
        max_new_tokens: Room for its longest completion, for every method alike.
        base_rows: How many test rows the base answers; None for all.
    """

    recipe: Path
    max_new_tokens: int
    base_rows: int | None = None


DATA_SETS = {
    # The base weighs 77 labels for every row, a second each.
    "banking77": DataSet(recipe=PROOFS / "banking77.yaml", max_new_tokens=16, base_rows=500),
    "snips": DataSet(recipe=PROOFS / "snips.yaml", max_new_tokens=96),
    "tone": DataSet(recipe=BUNDLES / "demo" / "tone.yaml", max_new_tokens=8),
    "appointment": DataSet(recipe=BUNDLES / "demo" / "appointment.yaml", max_new_tokens=64),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """What all cells of one output share.

    Attributes:
        out: What runs leave behind.
        results: Where the results of cells lie, which are small and kept.
        steps: Of each training at most; the recipes' own by default.
    """

    out: Path
    results: Path
    rows: dict[str, Rows]
    base: str
    steps: int | None
    trials: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One command.

    Attributes:
        name: Unique; a step that several cells need is run once.
        output: What it leaves behind; None where that is its report alone.
    """

    name: str
    arguments: tuple[str, ...]
    output: Path | None

    @property
    def kind(self) -> str:
        """The command: train, merge, build, eval or tune."""
        return self.arguments[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One line of a table; its last step has the scores.

    Attributes:
        part: Which table: ``methods``, ``exact`` or ``search``.
        drops: What only this cell needs and can be made again: deleted when it is done.
        after: The cell that this one is compared with, row by row.
    """

    name: str
    part: str
    data: str
    method: str
    where: str
    steps: tuple[Step, ...]
    drops: tuple[Path, ...] = ()
    after: str | None = None


def all_cells(setup: Setup) -> list[Cell]:
    """Every cell, the most telling first; those that share a training stand together."""

    def some(data: str, methods: Sequence[str]) -> list[Cell]:
        return [_method_cell(setup, data, one, place) for one in methods for place in PLACES]

    cells = [_exact_cell(setup, *one) for one in _exact_runs()]
    for data in ("snips", "banking77"):
        cells += some(data, ("base", "lora", "qlora"))
    cells += [_search_cell(setup)]
    for data in ("snips", "banking77"):
        cells += some(data, ("dora", "full"))
    for data in ("tone", "appointment"):
        cells += some(data, ("base", "lora", "qlora", "dora", "full"))
    cells += [_method_cell(setup, data, "tfidf", "words") for data in ("banking77", "tone")]
    return cells


def _exact_runs() -> list[tuple[str, str, int]]:
    return [
        (target, method, seed)
        for seed in EXACT_SEEDS
        for target in EXACT_TARGETS
        for method in ("lora", "qlora")
    ]


def _method_cell(setup: Setup, data: str, method: str, place: str) -> Cell:
    name = f"{data}-{method}" if method == "tfidf" else f"{data}-{method}-{place}"
    run = f"{data}-{method}"
    steps: list[Step] = []
    drops: tuple[Path, ...] = ()
    base, adapter = setup.base, None
    if method in {"lora", "qlora", "dora", "full"}:
        steps.append(_train(setup, data, method, run, f"{TARGET_WEIGHTS}{TARGET}"))
        adapter = setup.out / "adapters" / run
    if method == "full":
        base, adapter = str(adapter), None
    if place == "bundle":
        if method == "dora":
            steps.append(_merge(setup, run, adapter))
            base, adapter = str(setup.out / "models" / run), None
        steps.append(_build(setup, name, base, adapter, TARGET))
        drops = (setup.out / "bundles" / name, setup.out / "models" / run)
        subject = ["--bundle", str(setup.out / "bundles" / name)]
        subject += ["--adapter", SKILL] if adapter else []
    elif method == "tfidf":
        subject = ["--base", base]
    else:
        subject = ["--base", base]
        subject += ["--adapter", str(adapter)] if adapter else []
    steps.append(_eval(setup, name, data, [*subject, *_way(setup, data, method)]))
    return Cell(
        name=name, part="methods", data=data, method=method, where=place,
        steps=tuple(steps), drops=drops,
    )  # fmt: skip


def _way(setup: Setup, data: str, method: str) -> list[str]:
    """How answers are had: free-running where something was trained.

    A base that nothing taught the task answers anything but a label, so it may choose among the
    labels, or see five solved rows.
    """
    known = ["--train", str(setup.rows[data].train)]
    if method == "tfidf":
        return ["--method", "tfidf", *known]
    if method == "base":
        is_choice = _recipe(data).task == "classification"
        limit = DATA_SETS[data].base_rows
        some = ["--limit", str(limit)] if limit else []
        return ["--method", "classify" if is_choice else "few-shot", *known, *some]
    return ["--no-perplexity"]


def _exact_cell(setup: Setup, target: str, method: str, seed: int) -> Cell:
    """An adapter of either method on a target's weights; the float one serves every target."""
    name = f"exact-{target}-{method}-seed{seed}"
    run = f"exact-{f'{target}-' if method == 'qlora' else ''}{method}-seed{seed}"
    profile = str(EXACT_TARGETS[target])
    bundle = setup.out / "bundles" / name
    rival = f"exact-{target}-lora-seed{seed}" if method == "qlora" else None
    subject = ["--bundle", str(bundle), "--adapter", SKILL]
    subject += ["--compare", str(setup.out / "rows" / f"{rival}.json")] if rival else []
    own = [f"seed={seed}", f"training.max_steps={setup.steps or EXACT_STEPS}"]
    return Cell(
        name=name, part="exact", data="snips", method=method, where=target,
        steps=(
            _train(setup, "snips", method, run, f"{TARGET_WEIGHTS}{profile}", own),
            _build(setup, name, setup.base, setup.out / "adapters" / run, profile),
            _eval(setup, name, "snips", subject),
        ),
        drops=(bundle,), after=rival,
    )  # fmt: skip


def _search_cell(setup: Setup) -> Cell:
    rows, output = setup.rows["snips"], setup.out / "searches" / "snips"
    values = {
        "recipe.base": setup.base,
        "recipe.data.train": rows.train,
        "recipe.data.test": rows.test,
        "search_strategy.num_trials": setup.trials,
        "output": output,
    }
    if setup.steps:
        values["recipe.training.max_steps"] = setup.steps
    arguments = ("tune", str(PROOFS / "search.yaml"), *_set(values), "--json")
    step = Step(name="tune-snips", arguments=arguments, output=output)
    return Cell(
        name="search-snips", part="search", data="snips", method="lora", where="torch",
        steps=(step,),
    )  # fmt: skip


def _train(
    setup: Setup, data: str, method: str, run: str, weights: str, own: Sequence[str] = ()
) -> Step:
    output = setup.out / "adapters" / run
    rows = setup.rows[data]
    values: dict[str, object] = {
        "base": setup.base,
        "method": method,
        "weights": weights if method == "qlora" else "null",
        "data.train": rows.train,
        "data.validation": 0,  # nothing is chosen by it
        "output": output,
    }
    if data == "tone":
        values["data.stratify"] = "null"
    if method == "full":
        values |= {"lora": "{}", "training.learning_rate": 5e-5}
    if setup.steps:
        values["training.max_steps"] = setup.steps
    arguments = ["train", str(DATA_SETS[data].recipe), *_set(values)]
    arguments += [word for one in own for word in ("--set", one)]
    return Step(name=f"train-{run}", arguments=(*arguments, "--json"), output=output)


def _merge(setup: Setup, run: str, adapter: Path | None) -> Step:
    output = setup.out / "models" / run
    arguments = ("merge", str(adapter), "--base", setup.base, "-o", str(output), "--json")
    return Step(name=f"merge-{run}", arguments=arguments, output=output)


def _build(setup: Setup, name: str, base: str, adapter: Path | None, target: str) -> Step:
    output = setup.out / "bundles" / name
    arguments = ["build", "--base", base, "--target", target, "-o", str(output)]
    arguments += ["--adapter", f"{SKILL}={adapter}"] if adapter else []
    arguments += ["--name", "proof", "--overwrite", "--json"]
    return Step(name=f"build-{name}", arguments=tuple(arguments), output=output)


def _eval(setup: Setup, name: str, data: str, arguments: Sequence[str]) -> Step:
    recipe = _recipe(data)
    shape = ["--prompt", recipe.data.prompt or "", "--completion", recipe.data.completion or ""]
    metrics = [word for metric in recipe.metrics or () for word in ("--metric", metric)]
    return Step(
        name=f"eval-{name}",
        arguments=(
            "eval", *arguments, "--data", str(setup.rows[data].test), *shape,
            "--task", recipe.task, *metrics,
            "--max-new-tokens", str(DATA_SETS[data].max_new_tokens),
            "--output", str(setup.out / "rows" / f"{name}.json"), "--json",
        ),
        output=setup.out / "rows" / f"{name}.json",
    )  # fmt: skip


def _recipe(data: str) -> TrainRecipe:
    return load_recipe(DATA_SETS[data].recipe, TrainRecipe)


def _set(values: dict[str, object]) -> list[str]:
    return [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
