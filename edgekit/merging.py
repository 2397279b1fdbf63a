"""Merge an adapter into its base: a base of its own, for what no socket expresses exactly.

DoRA, retrained modules and biases reach a device this way. The written directory is loaded again
and compared with the base and the adapter as PEFT computes them.
"""

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.adapters.any_kind import read_config_and_record
from edgekit.adapters.peft_checks import CONFIG_FILE, RECORD_FILE
from edgekit.base_files import write_base_files
from edgekit.bases import Base, resolve_base
from edgekit.errors import BuildError, PeftAdapterError
from edgekit.method_recipes import target_of
from edgekit.quiet import quiet_libraries

MAX_MEAN_KL = 1e-6  # nats a position, the parity gate's own bound on an exact conversion
_N_POSITIONS = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class MergeReport:
    """A merged base.

    Attributes:
        mean_kl: Of the written base's next-token distributions to those of base and adapter.
        max_kl: The same at the worst position.
        n_positions: That were compared.
    """

    output: Path
    base: str
    adapter: str
    fingerprint: str
    license: str | None
    mean_kl: float
    max_kl: float
    n_positions: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "output": self.output.as_posix(),
            "base": self.base,
            "adapter": self.adapter,
            "fingerprint": self.fingerprint,
            "license": self.license,
            "mean_kl": self.mean_kl,
            "max_kl": self.max_kl,
            "n_positions": self.n_positions,
        }


def merge(
    base: str,
    adapter: Path,
    output: Path,
    *,
    assume_base: bool = False,
    on_message: Callable[[str], None] = lambda _: None,
) -> MergeReport:
    """Write a base whose weights hold an adapter.

    Args:
        base: Alias, Hub id, directory or ``.gguf`` file.
        adapter: PEFT directory.
        output: Directory of the new base; must not exist.
        assume_base: Take an adapter whose recorded base name contradicts.
        on_message: Called with a line of progress.

    Raises:
        PeftAdapterError: If the adapter does not fit, or cannot be merged.
        BaseModelError: If the base cannot be resolved.
        BuildError: If the output exists, or does not compute what base and adapter do.
    """
    if output.exists():
        raise BuildError(f"output {output} exists", hint="Choose another output.")
    resolved = resolve_base(base)
    record = _check(adapter, resolved, assume_base=assume_base)
    output.absolute().parent.mkdir(parents=True, exist_ok=True)
    with (
        quiet_libraries(),
        tempfile.TemporaryDirectory(dir=output.absolute().parent, prefix=".merging-") as temporary,
    ):
        staged = Path(temporary) / "base"
        on_message("loading the base and the adapter")
        rows, expected = _merge_into(staged, resolved, adapter, record)
        on_message("comparing the merged base with base and adapter")
        divergence = _divergence(staged, rows, expected)
        mean_kl, max_kl = float(divergence.mean()), float(divergence.max())
        if not mean_kl <= MAX_MEAN_KL:
            raise BuildError(
                f"the merged base does not compute what '{base}' and '{adapter.name}' do",
                problems=[f"mean KL: expected at most {MAX_MEAN_KL}, got {mean_kl:.3g}"],
            )
        staged.replace(output)
    merged = resolve_base(str(output))
    return MergeReport(
        output=output,
        base=base,
        adapter=adapter.name,
        fingerprint=merged.fingerprint,
        license=merged.license,
        mean_kl=mean_kl,
        max_kl=max_kl,
        n_positions=int(divergence.numel()),
    )


def _check(adapter: Path, base: Base, *, assume_base: bool) -> dict[str, Any]:
    """The adapter's record, if it may be merged into this base."""
    problems: list[str] = []
    config, record = read_config_and_record(adapter, base, problems, assume_base=assume_base)
    if (kind := config.get("peft_type")) != "LORA" and config:
        problems.append(
            f"{CONFIG_FILE}: peft_type: expected LORA, got {kind}; what is not linear cannot be "
            "merged into a weight"
        )
    if target_of(record.get("weights")) is not None:
        problems.append(
            f"{RECORD_FILE}: trained on the weights of {record['weights']}; merged into the float "
            "ones it would be another model. Its sockets take it exactly: build with --adapter"
        )
    if problems:
        raise PeftAdapterError(
            f"adapter '{adapter.name}' cannot be merged into base '{base.name}'", problems=problems
        )
    return record


def _merge_into(
    directory: Path, base: Base, adapter: Path, record: dict[str, Any]
) -> tuple[list[list[int]], list[Any]]:
    """Write the merged base; return some rows of tokens and what PEFT computes for them."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32).eval()
    rows = _rows(AutoTokenizer.from_pretrained(base.path), record, model.config.vocab_size)
    try:
        adapted = PeftModel.from_pretrained(model, os.fspath(adapter)).eval()
        expected = _log_probs(adapted, rows)
        merged = adapted.merge_and_unload(safe_merge=True)
    except (ValueError, RuntimeError, KeyError) as err:  # PEFT's own, for what does not fit
        raise PeftAdapterError(
            f"adapter '{adapter.name}' cannot be merged into base '{base.name}': {err}"
        ) from err
    how = f"The base {base.name} with the adapter {adapter.name} merged into it by edgekit."
    write_base_files(directory, merged, base, license=record.get("license"), how=how)
    record = record | {"merged": adapter.name}
    text = json.dumps(record, indent=2, ensure_ascii=False)
    (directory / RECORD_FILE).write_text(text + "\n", encoding="utf-8")
    return rows, expected


def _rows(tokenizer: Any, record: dict[str, Any], vocab_size: int) -> list[list[int]]:
    """Recorded example prompts, then tokens by a fixed seed, to enough positions."""
    import torch

    examples = [text for text in record.get("examples") or [] if isinstance(text, str)]
    rows = [list(tokenizer(text)["input_ids"])[:128] for text in examples]
    generator = torch.Generator().manual_seed(0)
    while sum(map(len, rows)) < _N_POSITIONS:
        rows.append(torch.randint(vocab_size, (64,), generator=generator).tolist())
    return [row for row in rows if row]


def _log_probs(model: Any, rows: Sequence[Sequence[int]]) -> list[Any]:
    """Log-probabilities (positions, vocabulary) of every row, in float64."""
    import torch

    with torch.inference_mode():
        return [model(torch.tensor([list(row)])).logits[0].double().log_softmax(-1) for row in rows]


def _divergence(directory: Path, rows: Sequence[Sequence[int]], expected: Sequence[Any]) -> Any:
    """KL of each position, expected to written, in nats."""
    import torch
    from transformers import AutoModelForCausalLM

    written = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    pairs = zip(expected, _log_probs(written, rows), strict=True)
    return torch.cat([(left.exp() * (left - right)).sum(-1) for left, right in pairs])
