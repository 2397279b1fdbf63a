"""Sharded training (FSDP): what it goes with, and the whole model again when it is over."""

import os
from typing import Any

from edgekit.errors import RecipeError
from edgekit.recipes import TrainRecipe
from edgekit.training.methods import trained_model
from edgekit.training.prepare import Prepared
from edgekit.training.processes import processes


def is_sharded(arguments: Any) -> bool:
    """Whether the recipe, or ``accelerate launch``, asks for FSDP."""
    return bool(arguments.fsdp) or os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def check_sharding(recipe: TrainRecipe, arguments: Any) -> None:
    """Refuse a sharded run where accelerate would not shard, or could not.

    Args:
        recipe: What is trained.
        arguments: transformers' TrainingArguments of it.

    Raises:
        RecipeError: With every reason.
    """
    from accelerate.utils import DistributedType

    if not is_sharded(arguments):
        return
    problems = []
    kind = arguments.distributed_state.distributed_type
    if kind in (DistributedType.NO, DistributedType.MULTI_CPU):
        where = "the CPU" if arguments.use_cpu else f"{arguments.device}"
        n = processes().n
        problems.append(
            f"training.fsdp: shards over several GPUs, a process each; this is "
            f"{n} process{'es' if n > 1 else ''} on {where}"
        )
    if recipe.weights is not None:
        problems.append(f"training.fsdp: weights {recipe.weights} are packed, and are not sharded")
    if problems:
        raise RecipeError("the run cannot be sharded", problems=problems)


def whole_model(prepared: Prepared, trainer: Any) -> Any:
    """Gather the weights of all processes; returns the model, in the first process only.

    The model is made anew on the CPU, so what is written does not depend on how it was sharded.
    """
    weights = trainer.accelerator.get_state_dict(trainer.model)
    if not processes().is_first:
        return None
    checkpoints = prepared.recipe.output / "checkpoints"
    model = trained_model(prepared, checkpoints, lambda _: None, on_cpu=True).model
    model.load_state_dict(weights)
    return model
