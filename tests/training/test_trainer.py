"""The loss equals the plain one, and batches come in an order that a resume can repeat."""

from pathlib import Path
from typing import Any

import pytest

from tests.tiny_models import EOS_TOKEN_ID, make_tiny_model


def sequences() -> list[Any]:
    from edgekit.training.tokens import IGNORED, TokenizedExample

    made = []
    for n_prompt, n_completion in ((3, 2), (9, 4), (1, 1)):
        ids = (*range(5, 5 + n_prompt + n_completion - 1), EOS_TOKEN_ID)
        labels = (IGNORED,) * n_prompt + ids[n_prompt:]
        made.append(TokenizedExample(input_ids=ids, labels=labels))
    return made


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3"])
def test_the_loss_over_learnt_tokens_equals_the_plain_loss(tmp_path: Path, family: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from edgekit.training.trainer import PaddingCollator, completion_logits

    model = AutoModelForCausalLM.from_pretrained(make_tiny_model(tmp_path / family, family))
    batch = PaddingCollator(EOS_TOKEN_ID)(sequences())
    logits, targets = completion_logits(model, batch)
    loss = torch.nn.functional.cross_entropy(logits, targets)
    assert loss.item() == pytest.approx(model(**batch).loss.item(), abs=1e-5)


def test_the_gradients_equal_the_plain_ones(tiny_base: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from edgekit.training.trainer import PaddingCollator, completion_logits

    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    batch = PaddingCollator(EOS_TOKEN_ID)(sequences())
    weight = model.model.layers[0].self_attn.q_proj.weight
    model(**batch).loss.backward()
    expected = weight.grad.clone()
    model.zero_grad()
    torch.nn.functional.cross_entropy(*completion_logits(model, batch)).backward()
    torch.testing.assert_close(weight.grad, expected, atol=1e-5, rtol=1e-4)


def test_the_head_is_whole_again_afterwards(tiny_base: Path) -> None:
    from transformers import AutoModelForCausalLM

    from edgekit.training.trainer import PaddingCollator, completion_logits

    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    batch = PaddingCollator(EOS_TOKEN_ID)(sequences())
    completion_logits(model, batch)
    assert model(input_ids=batch["input_ids"]).logits.shape[:2] == batch["input_ids"].shape


def test_every_row_comes_once_an_epoch_and_batches_are_of_similar_length() -> None:
    from edgekit.training.trainer import LengthGroupedSampler

    lengths = [(i * 37) % 101 for i in range(100)]
    order = list(LengthGroupedSampler(lengths, 8, seed=1))
    assert sorted(order) == list(range(100))
    spreads = [
        max(lengths[i] for i in order[s : s + 8]) - min(lengths[i] for i in order[s : s + 8])
        for s in range(0, 96, 8)
    ]
    assert max(spreads) < 50


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    from edgekit.training.trainer import LengthGroupedSampler

    sampler = LengthGroupedSampler(range(50), 8, seed=1)
    first = list(sampler)
    assert list(LengthGroupedSampler(range(50), 8, seed=1)) == first
    assert list(LengthGroupedSampler(range(50), 8, seed=2)) != first
    sampler.set_epoch(1)
    assert list(sampler) != first


def test_generation_in_a_padded_batch_equals_one_by_one(tiny_base: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from edgekit.training.generating import generate_texts

    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    prompts = [tokenizer(text).input_ids for text in ("turn on the light", "a", "what is the")]
    ends = frozenset([EOS_TOKEN_ID])
    together = generate_texts(model, tokenizer, prompts, max_new_tokens=8, end_ids=ends)
    alone = [
        generate_texts(model, tokenizer, [prompt], max_new_tokens=8, end_ids=ends)[0]
        for prompt in prompts
    ]
    assert together == alone
