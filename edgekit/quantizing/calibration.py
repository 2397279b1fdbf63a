"""Calibration text: prose and what the float base itself says, or a text that a person names.

Prose is what people read and write: calibration_text.txt has a stretch of each State of the Union
address from 1947 to 2021, works of the United States government and so in the public domain
(gathered by stdlib, https://github.com/stdlib-js/datasets-sotu, contents under CC0 1.0).

Text that the base samples, at temperature 1 and from nothing but its first token, follows the
base's own distribution, whatever it was trained on: other languages, code, a chat's turns (LLM-QAT,
Liu et al. 2023, https://arxiv.org/abs/2305.17888).
"""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from edgekit.bases import Base
from edgekit.errors import RecipeError
from edgekit.quantizing.options import MIXED, SELF, Calibration
from edgekit_runtime.digests import sha256_of_bytes

_PROSE = Path(__file__).with_name("calibration_text.txt")
# Between the texts of GPT-2, Qwen, Phi and SmolLM; an instruct model's "beginning of text" may be
# the beginning of a chat turn instead.
_SEPARATOR = "<|endoftext|>"


def calibration_rows(
    model: Any,
    base: Base,
    options: Calibration,
    directory: Path,
    on_message: Callable[[str], None] = lambda _: None,
) -> torch.Tensor:
    """Rows of tokens to calibrate on.

    Args:
        model: The float base in transformers.
        base: Where its tokenizer is.
        options: Source, number and length of the rows.
        directory: Keeps what the base sampled for the next time.
        on_message: Called with a line of progress.

    Returns:
        int64 (rows, tokens).

    Raises:
        EdgekitError: If a text file cannot be read or is too short.
    """
    if options.source == SELF:
        return _sampled(model, base, options, directory, on_message)
    if options.source != MIXED:
        return _from_file(Path(options.source), base, options)
    n_prose = options.rows * 5 // 6
    n_sampled = options.rows - n_prose
    sampled = options.model_copy(update={"rows": n_sampled})
    parts = [_sampled(model, base, sampled, directory, on_message)]
    if n_prose:
        parts.append(_from_file(_PROSE, base, options.model_copy(update={"rows": n_prose})))
    # Turn by turn: whoever uses only the first few has both kinds.
    rows = torch.cat(parts)
    turns = sorted(
        range(options.rows),
        key=lambda row: (row + 0.5) / n_sampled if row < n_sampled else (row - n_sampled) / n_prose,
    )
    return rows[turns]


def _sampled(
    model: Any,
    base: Base,
    options: Calibration,
    directory: Path,
    on_message: Callable[[str], None],
) -> torch.Tensor:
    """Rows that the base makes up, from the directory where it has done so before."""
    facts = [base.fingerprint, options.rows, options.row_tokens, options.seed, torch.__version__]
    key = sha256_of_bytes(json.dumps(facts).encode()).removeprefix("sha256:")[:24]
    file = directory / f"sampled-{key}.safetensors"
    if not file.is_file():
        rows = _sample(model, _first_token(model, base), options, on_message)
        with tempfile.TemporaryDirectory(dir=directory, prefix=f".{file.stem}-") as temporary:
            written = Path(temporary) / file.name
            save_file({"rows": rows}, written)
            written.replace(file)
    kept: torch.Tensor = load_file(file)["rows"]
    return kept


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


def _first_token(model: Any, base: Base) -> int:
    """What stands before a text of the pretraining: its separator, or the beginning of a text."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base.path)
    separator = tokenizer.get_vocab().get(_SEPARATOR)
    for token in (separator, tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None and token < model.config.vocab_size:
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
        raise RecipeError(
            f"calibration text '{path}' is too short: {len(tokens)} tokens make {available} rows "
            f"of {options.row_tokens}, {options.rows} are asked for",
            hint="Give more text (calibration.source), or ask for fewer or shorter rows.",
        )
    rows = torch.tensor(tokens[: available * options.row_tokens]).reshape(available, -1)
    # Spread over the whole text, whose parts may differ.
    return rows[torch.arange(options.rows) * available // options.rows]
