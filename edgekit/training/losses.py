"""The loss: mean cross entropy of the learnt tokens, or a user's own class."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch.nn import functional

from edgekit.errors import RecipeError
from edgekit.recipes import TrainRecipe
from edgekit.training.tokens import IGNORED
from edgekit.user_code import UserObject, load_user_object, user_code

GROUP = "edgekit.losses"

Batch = Mapping[str, torch.Tensor]


class Loss(Protocol):
    """What a user's loss class is, once it is made with the recipe's ``loss_options``.

    It may have an attribute ``hidden_states``: true asks for ``outputs.hidden_states``.
    """

    def __call__(self, model: Any, batch: Batch, outputs: Any) -> torch.Tensor:
        """Return what to minimize.

        Args:
            model: The model in training, PEFT around it where there is an adapter.
            batch: ``input_ids``, ``attention_mask`` and ``labels``, each (rows, tokens), padded
                on the right; a label is the token itself where it is learnt, and -100 elsewhere.
            outputs: The model's: ``logits`` (rows, tokens, vocabulary), and where they are asked
                for ``hidden_states``, a tuple of (rows, tokens, hidden).

        Returns:
            A finite scalar that carries a gradient; the mean over the batch.
        """


class CheckedLoss:
    """A user's loss whose mistakes are told with its name.

    Args:
        found: The class.
        options: What it is made with.

    Raises:
        RecipeError: If it cannot be made, or is no loss.
    """

    def __init__(self, found: UserObject, options: Mapping[str, Any]) -> None:
        self.reference = found.reference
        self.identity = found.identity
        with user_code(found.reference, "loss"):
            self._loss: Loss = found.value(**options)
        if not callable(self._loss):
            raise RecipeError(
                f"loss: {found.reference} cannot be called",
                hint="It should be a class with __call__(self, model, batch, outputs).",
            )

    @property
    def needs_hidden_states(self) -> bool:
        """Whether it asks for the hidden states of every layer."""
        return bool(getattr(self._loss, "hidden_states", False))

    def __call__(self, model: Any, batch: Batch, outputs: Any) -> torch.Tensor:
        """Compute and check it.

        Raises:
            RecipeError: If it fails, or is no finite scalar that carries a gradient.
        """
        with user_code(self.reference, "loss"):
            value: object = self._loss(model, batch, outputs)
        if not isinstance(value, torch.Tensor) or value.ndim != 0:
            is_tensor = isinstance(value, torch.Tensor)
            got = f"shape {tuple(value.shape)}" if is_tensor else type(value).__name__  # type: ignore[attr-defined]
            raise RecipeError(
                f"loss: {self.reference}: expected a scalar tensor, got {got}",
                hint="Return the mean over the batch, such as losses.mean().",
            )
        if not value.requires_grad:
            raise RecipeError(
                f"loss: {self.reference}: carries no gradient, so nothing would be learnt",
                hint="Compute it from outputs, without detach(), item() or no_grad().",
            )
        if not torch.isfinite(value):
            raise RecipeError(
                f"loss: {self.reference}: is {value.item()}",
                hint="Look for a division by zero, a logarithm of zero, or a mean of nothing.",
            )
        return value


def completion_loss(batch: Batch, outputs: Any) -> torch.Tensor:
    """Mean cross entropy of the learnt tokens, for a loss that adds something to it."""
    logits, targets = outputs.logits[:, :-1], batch["labels"][:, 1:]
    learnt = targets != IGNORED
    return functional.cross_entropy(logits[learnt].float(), targets[learnt])


def own_loss_of(recipe: TrainRecipe) -> CheckedLoss | None:
    """The recipe's own loss; None for the cross entropy.

    Raises:
        RecipeError: If there is no such class, or it cannot be made.
    """
    if recipe.loss is None:
        return None
    found = load_user_object(recipe.loss, key="loss", group=GROUP)
    return CheckedLoss(found, recipe.loss_options)
