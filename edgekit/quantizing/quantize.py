"""From a float base and what was chosen to the blocks that its graphs get."""

import hashlib
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from edgekit.bases import Base, default_cache_dir
from edgekit.errors import BuildError
from edgekit.quantizing.blocks import Blocks, round_to_nearest, round_with_zero_points
from edgekit.quantizing.options import Quantization
from edgekit.quantizing.weights import (
    EMBEDDING,
    HEAD,
    block_size_of,
    budget_bytes,
    float_weight,
    has_own_head,
    has_zero_points,
    site_of,
    weight_sizes,
    widening_bytes,
    widths,
)
from edgekit_runtime.digests import sha256_of_file

# Part of the cache's key: raise it when a change here or in an algorithm changes the blocks.
_REVISION = 4


def quantize_base(
    base: Base,
    options: Quantization,
    *,
    every: bool = False,
    cache_dir: Path | None = None,
    on_message: Callable[[str], None] = lambda _: None,
) -> dict[str, Blocks]:
    """Quantize a base's weights, or take them from the cache.

    Args:
        base: The float base.
        options: What was chosen.
        every: Also return what the model builder rounds to the same numbers, if its weights are
            float32. Float16 builders round what they have rounded to float16 before.
        cache_dir: The user's cache by default.
        on_message: Called with a line of progress.

    Returns:
        By Hugging Face name, every weight that differs from the model builder's rounding, which is
        to symmetric blocks of 4 bits: nothing for ``rtn`` with 4 bits everywhere, everything for
        calibrated algorithms, and where blocks are not symmetric.

    Raises:
        EdgekitError: If options name what the base does not have, or calibration text is unfit.
    """
    sizes = weight_sizes(base)
    if not options.needs_text:
        bits = widths(sizes, options)
        if not has_own_head(base):
            bits.pop(EMBEDDING, None)  # it reads the head's bytes
        return _rounded(base, bits if every else _unlike_the_builders(bits, options), options)
    file = quantized_path(base, options, cache_dir=cache_dir)
    directory = file.parent
    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):  # a second build of it waits for the first
        if file.is_file():
            on_message("quantized weights found in the cache")
            return _read(file)
        blocks = _calibrated(base, sizes, options, directory, on_message)
        _write(file, blocks)
    return blocks


def quantized_path(base: Base, options: Quantization, *, cache_dir: Path | None = None) -> Path:
    """Where the cache keeps weights that needed calibration text, there or not."""
    directory = (cache_dir or default_cache_dir()) / "quantized"
    return directory / f"{_key(base, options)}.safetensors"


def _unlike_the_builders(bits: Mapping[str, int], options: Quantization) -> dict[str, int]:
    return {name: width for name, width in bits.items() if width != 4 or not options.is_symmetric}


def _rounded(base: Base, bits: Mapping[str, int], options: Quantization) -> dict[str, Blocks]:
    blocks = {}
    for name, width in bits.items():
        weight = float_weight(base, name)
        n_inputs = weight.shape[1]
        size = block_size_of(n_inputs, width, options)
        has_zeros = has_zero_points(name, n_inputs, width, options)
        round_weight = round_with_zero_points if has_zeros else round_to_nearest
        blocks[name] = round_weight(weight, bits=width, block_size=size)
    return blocks


def _calibrated(
    base: Base,
    sizes: Mapping[str, int],
    options: Quantization,
    directory: Path,
    on_message: Callable[[str], None],
) -> dict[str, Blocks]:
    import torch
    from transformers import AutoModelForCausalLM

    from edgekit.quantizing.calibration import calibration_rows
    from edgekit.quantizing.confidence import head_factor
    from edgekit.quantizing.gptq import round_with_gptq
    from edgekit.quantizing.sensitivity import kl_by_site, worth_eight_bits
    from edgekit.quantizing.tuning import tune_blocks
    from edgekit.quiet import quiet_libraries

    with quiet_libraries():
        model = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    rows = calibration_rows(model, base, options.calibration, directory, on_message)
    sites: tuple[str, ...] = ()
    names = dict(model.named_parameters(remove_duplicate=False))
    is_tied = names[HEAD] is names[EMBEDDING]
    tied = {HEAD: [EMBEDDING]} if is_tied and options.embedding else {}
    if options.eight_bit_budget:
        on_message("measuring which weights need 8 bits most")
        candidates = [
            name
            for name, width in widths(sizes, options).items()
            if width == 4 and name != EMBEDDING
        ]
        rounded = _rounded(base, dict.fromkeys(candidates, 4), options)
        parts = kl_by_site(model, rounded, rows, tied=tied)
        costs: dict[str, float] = defaultdict(float)
        for name in candidates:
            inputs = names[name].shape[1]
            costs[site_of(name)] += widening_bytes(name, sizes[name], inputs, options)
        sites = worth_eight_bits(parts, costs, budget_bytes(sizes, options))
    bits = widths(sizes, options, sites)
    if problems := [f"{name}: not in the loaded model" for name in bits if name not in names]:
        raise BuildError(f"base '{base.name}' cannot be calibrated", problems=problems)
    if is_tied:
        bits.pop(EMBEDDING, None)
    if not options.is_calibrated:
        return _rounded(base, _unlike_the_builders(bits, options), options)
    if options.algorithm == "gptq":
        # What has 8 bits needs no help, and an embedding is read, not multiplied.
        helped = {name: w for name, w in bits.items() if w == 4 and name != EMBEDDING}
        blocks = _rounded(
            base, {name: w for name, w in bits.items() if name not in helped}, options
        )
        uneven = {
            name for name in helped if has_zero_points(name, names[name].shape[1], 4, options)
        }
        for name, block in round_with_gptq(
            model, helped, rows, block_size=options.block_size, with_zero_points=uneven
        ):
            on_message(f"gptq: {name} ({len(blocks) + 1} of {len(bits)})")
            blocks[name] = block
    else:
        steps = options.calibration.steps
        blocks = tune_blocks(
            model,
            _rounded(base, bits, options),
            rows,
            tied=tied,
            steps=steps,
            on_step=lambda step, kl: on_message(
                f"tuning: step {step} of {steps}, KL {kl:.3f} nats"
            ),
        )
    on_message("setting how sure the base is of its next token")
    factor = head_factor(model, blocks, rows[: len(rows) // 2 or 1], tied=tied)
    return blocks | {HEAD: _with_factor(blocks[HEAD], factor, shared=bool(tied))}


def _with_factor(head: Blocks, factor: float, *, shared: bool) -> Blocks:
    """A head with a factor, which its scales take in unless the embedding reads them as well."""
    if shared:
        return replace(head, input_scale=factor)
    return replace(head, scales=head.scales * np.float32(factor))


def quantization_facts(options: Quantization) -> dict[str, Any]:
    """What the blocks depend on beside the base and the machine, for keys of caches."""
    source = Path(options.calibration.source)
    text = sha256_of_file(source) if options.needs_text and source.is_file() else None
    unused = {"tier", "accuracy_level"} | (set() if options.needs_text else {"calibration"})
    return {
        "options": options.model_dump(mode="json", exclude=unused),
        "text": text,
        "revision": _REVISION,
    }


def _key(base: Base, options: Quantization) -> str:
    facts = {
        "base": base.fingerprint,
        "quantization": quantization_facts(options),
        "versions": {name: version(name) for name in ("torch", "transformers")},
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


def _write(file: Path, blocks: Mapping[str, Blocks]) -> None:
    """Write blocks to safetensors: what they hold by name, bits as metadata."""
    from safetensors.numpy import save_file

    tensors: dict[str, np.ndarray] = {}
    for name, block in blocks.items():
        tensors[f"{name}.codes"], tensors[f"{name}.scales"] = block.codes, block.scales
        if block.zero_points is not None:
            tensors[f"{name}.zero_points"] = block.zero_points
        if block.input_scale != 1:
            tensors[f"{name}.input_scale"] = np.array(block.input_scale, np.float32)
    bits = {name: str(block.bits) for name, block in blocks.items()}
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{file.stem}-") as temporary:
        written = Path(temporary) / file.name
        save_file(tensors, written, metadata=bits)
        written.replace(file)


def _read(file: Path) -> dict[str, Blocks]:
    from safetensors import safe_open

    with safe_open(file, framework="np") as tensors:
        stored = set(tensors.keys())

        def optional(name: str) -> Any:
            return tensors.get_tensor(name) if name in stored else None

        return {
            name: Blocks(
                codes=tensors.get_tensor(f"{name}.codes"),
                scales=tensors.get_tensor(f"{name}.scales"),
                bits=int(bits),
                zero_points=optional(f"{name}.zero_points"),
                input_scale=float(optional(f"{name}.input_scale") or 1.0),
            )
            for name, bits in tensors.metadata().items()
        }
