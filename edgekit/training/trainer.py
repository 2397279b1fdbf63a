"""transformers' Trainer with three changes: a cheaper loss, batches by length, an exact eval loss.

The loss takes logits only where something is learnt. With a vocabulary of 49k and short
completions behind long prompts the head is a large part of a small model's work.
"""

import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from torch.nn import functional
from transformers import (
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from edgekit.errors import RecipeError
from edgekit.training.class_weights import token_weights, weighted_nll
from edgekit.training.events import OnEvent, TrainingStep
from edgekit.training.losses import CheckedLoss
from edgekit.training.processes import processes
from edgekit.training.tokens import IGNORED, TokenizedExample

_BATCHES_PER_GROUP = 8

Batch = dict[str, torch.Tensor]


class PaddingCollator:
    """Pad a batch on the right to its longest sequence."""

    def __init__(self, pad_token_id: int) -> None:
        self._pad_token_id = pad_token_id

    def __call__(self, examples: Sequence[TokenizedExample]) -> Batch:
        """Make tensors of some sequences."""
        length = max(len(example.input_ids) for example in examples)
        # The mask is made of lengths, never of "is not pad": SmolLM2's pad is its EOS.
        batch = {
            "input_ids": _padded([e.input_ids for e in examples], length, self._pad_token_id),
            "labels": _padded([e.labels for e in examples], length, IGNORED),
            "attention_mask": _padded([(1,) * len(e.input_ids) for e in examples], length, 0),
        }
        if any(example.lengths for example in examples):
            batch["position_ids"] = _padded([_positions(e) for e in examples], length, 0)
        if any(example.weight is not None for example in examples):
            batch["row_weights"] = torch.tensor([example.weight for example in examples])
        return batch


def _positions(example: TokenizedExample) -> list[int]:
    """Counted anew in each packed sequence."""
    lengths = example.lengths or (len(example.input_ids),)
    return [position for length in lengths for position in range(length)]


def attention_inputs(batch: Batch) -> Batch:
    """What says who attends to whom: a padding mask, or positions where rows are packed.

    transformers tells packed sequences apart by their positions only where no mask is given.
    """
    name = "position_ids" if "position_ids" in batch else "attention_mask"
    return {name: batch[name]}


def _padded(rows: Sequence[Sequence[int]], length: int, value: int) -> torch.Tensor:
    return torch.tensor([[*row, *[value] * (length - len(row))] for row in rows])


class LengthGroupedSampler(torch.utils.data.Sampler[int]):
    """Shuffle, but put sequences of similar length into one batch: less padding to compute.

    The order depends on seed and epoch alone, so that a resumed run goes on as it began.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self._lengths = lengths
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; accelerate's data loader calls this."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        rng = random.Random(f"{self._seed}/{self._epoch}")
        order = list(range(len(self._lengths)))
        rng.shuffle(order)
        group = self._batch_size * _BATCHES_PER_GROUP
        batches: list[list[int]] = []
        for start in range(0, len(order), group):
            ordered = sorted(order[start : start + group], key=self._lengths.__getitem__)
            batches += _chunks(ordered, self._batch_size)
        # A batch that is not full has to stay last, or every batch behind it would be shifted.
        tail = batches.pop() if len(batches[-1]) < self._batch_size else []
        rng.shuffle(batches)
        yield from (index for batch in [*batches, tail] for index in batch)


def _chunks(items: list[int], size: int) -> list[list[int]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def rows_per_step(arguments: TrainingArguments) -> int:
    """Rows of one step, those of all processes together."""
    n_accumulated: int = arguments.train_batch_size * arguments.gradient_accumulation_steps
    return n_accumulated * processes().n


def completion_logits(model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and targets of the learnt tokens only.

    The head's input is narrowed by a hook, so whatever a family does around its head (Gemma 2
    caps the logits, Granite scales them) happens as the family's own code has it.

    Returns:
        Float32 logits (n, vocabulary) and targets (n,).
    """
    targets = functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)
    learnt = targets != IGNORED
    # Several processes call through a wrapper, which knows nothing of heads.
    head = extract_model_from_parallel(model).get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, args: (args[0][learnt].unsqueeze(0), *args[1:]))
    try:
        outputs = model(input_ids=batch["input_ids"], **attention_inputs(batch), use_cache=False)
    finally:
        hook.remove()
    return outputs.logits[0].float(), targets[learnt]


class CompletionTrainer(Trainer):  # type: ignore[misc]  # transformers is not typed
    """The Trainer of ``edgekit train``; datasets are sequences of ``TokenizedExample``.

    Args:
        own_loss: A user's loss, instead of the cross entropy; evaluation keeps to that.

    Attributes:
        n_tokens_read: Tokens that training has read, padding left out.
    """

    n_tokens_read = 0

    def __init__(self, *args: Any, own_loss: CheckedLoss | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._own_loss = own_loss
        if own_loss is not None:
            # It is the mean of a batch, which the Trainer then divides among accumulated ones.
            self.model_accepts_loss_kwargs = False

    def compute_loss(
        self,
        model: Any,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Mean cross entropy over the learnt tokens of the (accumulated) batch, or a user's."""
        self.n_tokens_read += int(inputs["attention_mask"].sum())
        if self._own_loss is not None:
            outputs = model(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                use_cache=False,
                output_hidden_states=self._own_loss.needs_hidden_states,
            )
            loss = self._own_loss(extract_model_from_parallel(model), inputs, outputs)
            return (loss, outputs) if return_outputs else loss
        if self.args.n_gpu > 1 or return_outputs:  # DataParallel's replicas cannot be hooked
            kept = {"input_ids": inputs["input_ids"], "labels": inputs["labels"]}
            plain = kept | attention_inputs(inputs)
            return super().compute_loss(model, plain, return_outputs, num_items_in_batch)
        logits, targets = completion_logits(model, inputs)
        smoothing = self.args.label_smoothing_factor
        if "row_weights" in inputs:
            weights = token_weights(inputs)
            nll, n_own = weighted_nll(logits, targets, weights, smoothing), float(weights.sum())
        else:
            nll = functional.cross_entropy(
                logits, targets, reduction="sum", label_smoothing=smoothing
            )
            n_own = targets.numel()
        if num_items_in_batch is None:
            return nll / n_own
        # Counted over all processes, of whose gradients the mean is then taken.
        n_shares = processes().n if self.args.average_tokens_across_devices else 1
        return n_shares * nll / num_items_in_batch

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: torch.device) -> Any:
        """Learnt tokens of the accumulated batches, or the sum of their weights."""
        if not batch_samples or "row_weights" not in batch_samples[0]:
            return super()._get_num_items_in_batch(batch_samples, device)
        total = torch.stack([token_weights(batch).sum() for batch in batch_samples]).sum()
        total = total.to(device)
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            total = self.accelerator.gather(total).sum()
        return total

    def evaluate(
        self,
        eval_dataset: Sequence[TokenizedExample] | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Loss per learnt token; the original takes a mean of batch means."""
        examples = self.eval_dataset if eval_dataset is None else eval_dataset
        nll, n_tokens = self.total_nll(examples)
        metrics = {f"{metric_key_prefix}_loss": nll / n_tokens}
        self.log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def total_nll(self, examples: Sequence[TokenizedExample]) -> tuple[float, int]:
        """Summed negative log-likelihood of the learnt tokens, and how many they are.

        Several processes take turns with the batches, and each gets the sum.
        """
        by_length = sorted(examples, key=lambda example: len(example.input_ids))
        size = self.args.per_device_eval_batch_size
        starts = range(0, len(by_length), size)
        all_processes = processes()
        self.model.eval()
        nll, n_tokens = 0.0, 0
        with torch.no_grad():
            for first in range(0, len(starts), all_processes.n):
                turn = first + all_processes.rank
                # Sharded weights are gathered in every forward, so nobody may leave one out.
                start = starts[min(turn, len(starts) - 1)]
                batch = self._prepare_inputs(self.data_collator(by_length[start : start + size]))
                logits, targets = completion_logits(self.model, batch)
                if turn < len(starts):
                    nll += functional.cross_entropy(logits, targets, reduction="sum").item()
                    n_tokens += targets.numel()
        total_nll, total_tokens = all_processes.summed(nll, n_tokens)
        return total_nll, int(total_tokens)

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int]:
        lengths = [len(example.input_ids) for example in self.train_dataset]
        return LengthGroupedSampler(lengths, rows_per_step(self.args), self.args.seed)


class ProgressCallback(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Tell of every step, and end a run with an evaluation and a checkpoint of its last step."""

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event
        self._latest: dict[str, float] = {}

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Report the step; the Trainer itself evaluates at multiples of ``eval_steps`` only."""
        if state.global_step >= state.max_steps:
            control.should_log = True
            control.should_save = True
            control.should_evaluate = args.eval_strategy != "no"
        self._tell(state)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Report the latest figures, and stop where there is nothing to gain any more."""
        for name in ("loss", "eval_loss"):
            if logs and not math.isfinite(logs.get(name, 0.0)):
                raise RecipeError(
                    f"training diverged: {name} is {logs[name]} at step {state.global_step}",
                    hint="Lower training.learning_rate, or look for odd rows in the data.",
                )
        names = ("loss", "learning_rate", "eval_loss")
        self._latest |= {name: logs[name] for name in names if logs and name in logs}
        self._tell(state)

    def _tell(self, state: TrainerState) -> None:
        self._on_event(
            TrainingStep(step=state.global_step, max_steps=state.max_steps, **self._latest)
        )
