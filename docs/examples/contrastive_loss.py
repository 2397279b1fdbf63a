"""A loss that also pulls rows of one label together and pushes the others apart.

Supervised contrastive loss (Khosla et al. 2020, https://arxiv.org/abs/2004.11362) on the hidden
state of each prompt's last token, added to the cross entropy. Rows that have the same completion
are of one label.
"""

import torch
from torch.nn import functional

from edgekit.training.losses import completion_loss


class ContrastiveLoss:
    """Cross entropy + ``weight`` × supervised contrastive loss."""

    hidden_states = True  # ask for outputs.hidden_states

    def __init__(self, weight: float = 0.5, temperature: float = 0.1) -> None:
        self.weight = weight
        self.temperature = temperature

    def __call__(self, model, batch, outputs):
        """Return a scalar."""
        labels = batch["labels"]
        learnt = labels != -100
        last_of_prompt = learnt.int().argmax(dim=1) - 1
        rows = torch.arange(len(labels), device=labels.device)
        states = outputs.hidden_states[-1][rows, last_of_prompt].float()
        states = functional.normalize(states, dim=-1)

        # The tokens of each completion, and nothing else, say which rows belong together.
        completions = [tuple(row[mask].tolist()) for row, mask in zip(labels, learnt, strict=True)]
        same = torch.tensor(
            [[a == b for b in completions] for a in completions], device=labels.device
        )
        itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        same = same & ~itself

        likeness = (states @ states.T / self.temperature).masked_fill(itself, -1e9)
        log_share = likeness.log_softmax(dim=-1)
        n_same = same.sum(dim=1)
        has_same = n_same > 0
        per_row = -(log_share * same).sum(dim=1)[has_same] / n_same[has_same]
        contrast = per_row.mean() if len(per_row) else states.sum() * 0.0
        return completion_loss(batch, outputs) + self.weight * contrast
