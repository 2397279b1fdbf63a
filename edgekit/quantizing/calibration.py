"""Calibration text: what the float base itself says, or a text that a person names.

Text that the base samples, at temperature 1 and from nothing but its first token, follows the
base's own distribution, whatever it was trained on. So no calibration data has to be shipped or
licensed (LLM-QAT, Liu et al. 2023, https://arxiv.org/abs/2305.17888).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from edgekit.bases import Base
from edgekit.errors import BuildError, RecipeError
from edgekit.quantizing.options import Calibration

SELF = "self"


def calibration_rows(
    model: Any,
    base: Base,
    options: Calibration,
    on_message: Callable[[str], None] = lambda _: None,
) -> torch.Tensor:
    """Rows of tokens to calibrate on.

    Args:
        model: The float base in transformers.
        base: Where its tokenizer is.
        options: Source, number and length of the rows.
        on_message: Called with a line of progress.

    Returns:
        int64 (rows, tokens).

    Raises:
        EdgekitError: If a text file cannot be read or is too short.
    """
    if options.source == SELF:
        return _sample(model, _first_token(model), options, on_message)
    return _from_file(Path(options.source), base, options)


def _sample(
    model: Any, first: int, options: Calibration, on_message: Callable[[str], None]
) -> torch.Tensor:
    """Rows that the model makes up, all at a time."""
    generator = torch.Generator().manual_seed(options.seed)
    latest = torch.full((options.rows, 1), first)
    rows, cache = [latest], None
    with torch.inference_mode():
        while len(rows) < options.row_tokens:
            if len(rows) % 32 == 0:
                on_message(f"calibration: {len(rows)} of {options.row_tokens} tokens a row sampled")
            out = model(latest, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            shares = out.logits[:, -1].double().softmax(-1).cumsum(-1)
            dice = torch.rand(options.rows, 1, generator=generator, dtype=torch.float64)
            latest = torch.searchsorted(shares, dice).clamp(max=shares.shape[1] - 1)
            rows.append(latest)
    return torch.cat(rows, 1)


def _first_token(model: Any) -> int:
    """What stands before a text: the beginning-of-text token, or an end of the text before."""
    config = model.generation_config
    for token in (config.bos_token_id, config.eos_token_id, model.config.bos_token_id):
        if isinstance(token, list):
            token = token[0]
        if token is not None:
            return int(token)
    return 0


def _from_file(path: Path, base: Base, options: Calibration) -> torch.Tensor:
    from transformers import AutoTokenizer

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise RecipeError(
            f"calibration text '{path}' cannot be read: {err}",
            hint="Name a UTF-8 text file, or `self` for text that the base samples.",
        ) from err
    tokens = AutoTokenizer.from_pretrained(base.path).encode(text)
    available = len(tokens) // options.row_tokens
    if available < options.rows:
        raise BuildError(
            f"calibration text '{path}' is too short: {len(tokens)} tokens make {available} rows "
            f"of {options.row_tokens}, {options.rows} are asked for",
            hint="Give more text, or fewer rows.",
        )
    rows = torch.tensor(tokens[: available * options.row_tokens]).reshape(available, -1)
    # Spread over the whole text, whose parts may differ.
    return rows[torch.arange(options.rows) * available // options.rows]
