"""Greedy generation in batches with transformers, for scoring."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any


def generate_texts(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    end_ids: frozenset[int],
    stops: Sequence[str] = (),
    batch_size: int = 16,
    on_progress: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """Continue every prompt greedily.

    Args:
        model: A causal LM or PEFT model.
        tokenizer: Its tokenizer.
        prompts: Token ids.
        max_new_tokens: Limit for each.
        end_ids: Tokens that end an answer.
        stops: Texts that end an answer, and are no part of it.
        batch_size: Prompts in one batch; they are padded on the left, short ones first.
        on_progress: Told how many are done.

    Returns:
        The new text of each prompt, special tokens left out, in the order of the prompts.
    """
    import torch
    from transformers import GenerationConfig

    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(end_ids),
        pad_token_id=min(end_ids),
        use_cache=True,
    )
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    texts = [""] * len(prompts)
    model.eval()
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        width = max(len(prompts[index]) for index in chosen)
        gaps = [width - len(prompts[index]) for index in chosen]
        pairs = list(zip(chosen, gaps, strict=True))
        ids = torch.tensor([[min(end_ids)] * gap + list(prompts[index]) for index, gap in pairs])
        mask = torch.tensor([[0] * gap + [1] * (width - gap) for gap in gaps])
        with torch.no_grad():
            out = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                generation_config=config,
                stopping_criteria=(
                    [partial(_hold_a_stop, tokenizer, tuple(stops), width)] if stops else None
                ),
            )
        for index, row in zip(chosen, out[:, width:], strict=True):
            texts[index] = _up_to(stops, tokenizer.decode(row, skip_special_tokens=True))
        on_progress(start + len(chosen))
    return texts


def _hold_a_stop(
    tokenizer: Any, stops: tuple[str, ...], width: int, ids: Any, scores: Any, **_: Any
) -> Any:
    """Which rows have written one of the stop texts, as transformers asks after every token."""
    import torch

    # A token is a byte at least; the few more are for a character that the first ones are cut from.
    n_tokens = max(len(stop.encode()) for stop in stops) + 4
    newest = ids[:, max(width, ids.shape[1] - n_tokens) :]
    texts = tokenizer.batch_decode(newest, skip_special_tokens=True)
    held = [any(stop in text for stop in stops) for text in texts]
    return torch.tensor(held, device=ids.device)


def _up_to(stops: Sequence[str], text: str) -> str:
    for stop in stops:
        text = text.partition(stop)[0]
    return text


def end_token_ids(tokenizer: Any, generation_config: Any) -> frozenset[int]:
    """EOS of the tokenizer, and every end that a model's generation config names."""
    configured = generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in [*ids, tokenizer.eos_token_id] if token is not None)
