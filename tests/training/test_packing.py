"""Packed rows lose nothing, and no sequence sees another."""

from pathlib import Path
from typing import Any

import pytest

from edgekit.training.packing import packed
from edgekit.training.tokens import IGNORED, TokenizedExample
from tests.tiny_models import EOS_TOKEN_ID, make_tiny_model


def sequences() -> list[TokenizedExample]:
    made = []
    for n_prompt, n_completion in ((3, 2), (9, 4), (1, 1), (0, 6)):
        ids = (*range(5, 5 + n_prompt + n_completion - 1), EOS_TOKEN_ID)
        labels = (IGNORED,) * n_prompt + ids[n_prompt:]
        made.append(TokenizedExample(input_ids=ids, labels=labels))
    return made


def test_every_sequence_is_in_one_row_and_no_row_is_too_long() -> None:
    rows = packed(sequences(), 15)
    assert sorted(length for row in rows for length in row.lengths) == [2, 5, 6, 13]
    assert [len(row.input_ids) for row in rows] == [15, 11]


def test_the_first_token_of_a_sequence_is_not_learnt_from_the_last_of_another() -> None:
    (row,) = packed(sequences(), 64)
    starts = [sum(row.lengths[:number]) for number in range(len(row.lengths))]
    assert [row.labels[start] for start in starts] == [IGNORED] * 4


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "phi3"])
def test_loss_and_gradients_equal_those_of_the_sequences(
    tmp_path: Path, family: str, attention: str
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from edgekit.training.trainer import PaddingCollator, completion_logits

    path = make_tiny_model(tmp_path / family, family)
    model = AutoModelForCausalLM.from_pretrained(path, attn_implementation=attention)
    weight = model.model.layers[0].self_attn.o_proj.weight
    collate = PaddingCollator(EOS_TOKEN_ID)

    def loss_and_gradient(rows: Any) -> tuple[float, torch.Tensor]:
        model.zero_grad()
        logits, targets = completion_logits(model, collate(rows))
        loss = torch.nn.functional.cross_entropy(logits, targets)
        loss.backward()
        return loss.item(), weight.grad.clone()

    loss, gradient = loss_and_gradient(sequences())
    packed_loss, packed_gradient = loss_and_gradient(packed(sequences(), 15))
    assert packed_loss == pytest.approx(loss, abs=1e-5)
    torch.testing.assert_close(packed_gradient, gradient, atol=1e-5, rtol=1e-4)
