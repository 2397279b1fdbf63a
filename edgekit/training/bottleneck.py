"""Houlsby adapters: a bottleneck of two small layers behind the attention and the MLP of a layer.

Source: Houlsby et al. 2019, https://arxiv.org/abs/1902.00751. The library of that name,
``adapters``, is pinned to transformers 4, so the few lines are here.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import nn

from edgekit.errors import PeftAdapterError
from edgekit.method_recipes import BottleneckRecipe
from edgekit.typed_files import problems_of

PEFT_TYPE = "BOTTLENECK"
_BEHIND = ("o_proj", "down_proj")  # what ends attention and MLP, in every family of `build`
_NAME = "bottleneck"
_START = 1e-3  # nearly no change at first: a near-identity start is what the paper trains from
_NON_LINEARITIES = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}


class Bottleneck(nn.Module):
    """``x + up(f(down(x)))`` with x of shape (…, hidden)."""

    def __init__(self, hidden: int, recipe: BottleneckRecipe) -> None:
        super().__init__()
        width = max(1, round(hidden / recipe.reduction_factor))
        self.down = nn.Linear(hidden, width)
        self.up = nn.Linear(width, hidden)
        self.f = _NON_LINEARITIES[recipe.non_linearity]()
        self.dropout = nn.Dropout(recipe.dropout)
        for layer in (self.down, self.up):
            nn.init.normal_(layer.weight, std=_START)
            nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add the bottleneck's output to its input; it computes in float32."""
        change: torch.Tensor = self.up(self.f(self.down(self.dropout(x.to(self.up.weight.dtype)))))
        return x + change.to(x.dtype)


def add_bottlenecks(model: Any, recipe: BottleneckRecipe) -> None:
    """Freeze a model and put bottlenecks behind its attentions and MLPs, in place.

    Args:
        model: A transformers model.
        recipe: Their size and shape.

    Raises:
        PeftAdapterError: If the model has none of the linears that they stand behind.
    """
    model.requires_grad_(False)
    places = [
        linear
        for name, linear in model.named_modules()
        if isinstance(linear, nn.Linear) and name.endswith(_BEHIND)
    ]
    if not places:
        raise PeftAdapterError(
            f"a {type(model).__name__} has no {' or '.join(_BEHIND)}, behind which bottlenecks go",
            hint="Use method: lora.",
        )
    for linear in places:
        linear.add_module(_NAME, Bottleneck(linear.out_features, recipe).to(linear.weight.device))
        linear.register_forward_hook(lambda module, _, out: module.get_submodule(_NAME)(out))


def save_bottlenecks(model: Any, directory: Path, base: str, recipe: BottleneckRecipe) -> None:
    """Write config and weights in the layout of PEFT's directories."""
    config = {
        "peft_type": PEFT_TYPE,
        "base_model_name_or_path": base,
        **recipe.model_dump(mode="json"),
    }
    text = json.dumps(config, indent=2, sort_keys=True)
    (directory / "adapter_config.json").write_text(text + "\n", encoding="utf-8")
    tensors = {name: value.detach().cpu().contiguous() for name, value in _parameters(model)}
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})


def load_bottlenecks(model: Any, directory: Path) -> None:
    """Put stored bottlenecks into a model, in place.

    Raises:
        PeftAdapterError: If they do not fit it.
    """
    config = json.loads((directory / "adapter_config.json").read_text(encoding="utf-8"))
    values = {key: config[key] for key in BottleneckRecipe.model_fields if key in config}
    try:
        add_bottlenecks(model, BottleneckRecipe.model_validate(values))
    except ValidationError as err:
        raise PeftAdapterError(
            f"the bottlenecks in '{directory}' cannot be used",
            problems=problems_of(err, BottleneckRecipe),
        ) from err
    stored = load_file(directory / "adapter_model.safetensors")
    own = dict(_parameters(model))
    problems = [
        f"{name}: expected shape {tuple(own[name].shape) if name in own else 'none'}, "
        f"got {tuple(stored[name].shape) if name in stored else 'none'}"
        for name in sorted(set(own) | set(stored))
        if name not in own or name not in stored or own[name].shape != stored[name].shape
    ]
    if problems:
        raise PeftAdapterError(
            f"the bottlenecks in '{directory}' do not fit the base", problems=problems
        )
    with torch.no_grad():
        for name, value in stored.items():
            own[name].copy_(value)


def _parameters(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    return ((name, value) for name, value in model.named_parameters() if f".{_NAME}." in name)
