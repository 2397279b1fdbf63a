"""How long a step takes: rough estimates for two cores, to plan sessions with.

They come from runs of a few steps and rows of lora and dora on banking77, and from token counts.
"""

from edgekit.recipes import TrainRecipe, load_recipe
from tests.proofs.cells import DATA_SETS, EXACT_STEPS, Cell, Setup, Step

# Seconds a training step of `lora`; the others by what they take of it.
_STEP = {"banking77": 3.0, "snips": 2.5, "tone": 1.2, "appointment": 3.3}
_OF_LORA = {"lora": 1.0, "qlora": 1.3, "dora": 2.0, "full": 1.2}
# Seconds an answered row, where it is generated.
_ROW = {
    "bundle": {"banking77": 0.15, "snips": 0.4, "tone": 0.1, "appointment": 0.5},
    "torch": {"banking77": 0.15, "snips": 0.3, "tone": 0.1, "appointment": 0.3},
}
# Seconds a row of a base, which chooses among labels or has five solved rows before it.
_BASE_ROW = {
    "bundle": {"banking77": 1.2, "snips": 1.0, "tone": 0.2, "appointment": 1.0},
    "torch": {"banking77": 1.0, "snips": 1.0, "tone": 0.2, "appointment": 1.0},
}
_START = 20.0
_BUILD = 70.0


def seconds_of(setup: Setup, cell: Cell, step: Step) -> float:
    """About how long a step takes, from its beginning."""
    if step.kind == "train":
        recipe = load_recipe(DATA_SETS[cell.data].recipe, TrainRecipe)
        steps = EXACT_STEPS if cell.part == "exact" else int(recipe.training["max_steps"])
        steps = min(steps, setup.steps or steps)
        return _START + steps * _STEP[cell.data] * _OF_LORA[cell.method]
    if step.kind == "tune":
        one = _START + min(40, setup.steps or 40) * _STEP[cell.data] + 96 * _ROW["torch"]["snips"]
        return (setup.trials + 1) * one + 2 * _n_rows(setup, cell) * _ROW["torch"]["snips"]
    if step.kind in {"build", "merge"}:
        return _BUILD
    if cell.method == "tfidf":
        return _START
    place = "torch" if cell.where == "torch" else "bundle"
    costs = _BASE_ROW if cell.method == "base" else _ROW
    return _START + _n_rows(setup, cell) * costs[place][cell.data]


def _n_rows(setup: Setup, cell: Cell) -> int:
    with setup.rows[cell.data].test.open(encoding="utf-8") as file:
        n_rows = sum(1 for _ in file)
    most = DATA_SETS[cell.data].base_rows if cell.method == "base" else None
    return min(n_rows, most or n_rows)
