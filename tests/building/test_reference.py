"""The PyTorch original computes with what a float16 graph holds."""

from pathlib import Path

import pytest
import torch

from edgekit.bases import resolve_base
from edgekit.building.reference import torch_reference
from tests.tiny_models import make_tiny_model

NORM = "model.layers.0.input_layernorm.weight"


@pytest.mark.parametrize(("family", "offset"), [("llama", 0.0), ("gemma", 1.0)])
def test_norms_are_rounded_as_the_graph_stores_them(
    family: str, offset: float, tmp_path: Path
) -> None:
    base = resolve_base(str(make_tiny_model(tmp_path / family, family, tied=True)))
    with torch_reference(base, {}) as reference:
        before = torch.tensor(reference.weight(NORM))
        reference.round_to_float16(keep=())
        after = torch.tensor(reference.weight(NORM))
    assert not torch.equal(before, after)
    assert torch.equal(after + offset, (before + offset).half().float())


def test_float32_norms_and_kept_weights_stay(tmp_path: Path) -> None:
    base = resolve_base(str(make_tiny_model(tmp_path / "gemma2", "gemma2", tied=True)))
    kept = "model.layers.0.mlp.down_proj.weight"
    with torch_reference(base, {}) as reference:
        before = {name: reference.weight(name).copy() for name in (NORM, kept)}
        reference.round_to_float16(keep=(kept,), norms=False)
        for name, weight in before.items():
            assert (reference.weight(name) == weight).all(), name
