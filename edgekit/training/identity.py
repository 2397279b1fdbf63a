"""Which run a recipe is: the same one goes on, and its finished result need not be made again."""

from typing import TYPE_CHECKING

from edgekit.quiet import quiet_libraries
from edgekit.recipes import TrainRecipe
from edgekit.training.output import finished_digest, result_digest, run_digest
from edgekit.training.prepare import Prepared, prepare

if TYPE_CHECKING:
    from edgekit.training.losses import CheckedLoss


def digest_of(prepared: Prepared, own_loss: "CheckedLoss | None") -> str:
    """What has to be equal for two runs to be the same one: recipe, base, rows, the loss.

    Of rows it is every token; of a stream its first tokens and the bytes of its files.
    """
    stream = prepared.examples.stream
    rows = stream.digest() if stream is not None else ""
    return run_digest(
        prepared.recipe,
        prepared.base_digest + (own_loss.identity if own_loss else "") + rows,
        [*prepared.train.sequences, *prepared.validation.sequences],
    )


def is_finished(recipe: TrainRecipe) -> bool:
    """Whether a recipe's output holds what it would make: no row or weight has changed since.

    Raises:
        EdgekitError: If the recipe, its rows or its base cannot be used any more.
    """
    finished = finished_digest(recipe.output)
    if finished is None:
        return False
    from edgekit.training.losses import own_loss_of

    with quiet_libraries():
        own_loss = own_loss_of(recipe)
        prepared = prepare(recipe, lambda _: None)
        return result_digest(digest_of(prepared, own_loss), prepared.test.sequences) == finished
