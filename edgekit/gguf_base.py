"""Dequantize a ``.gguf`` file to a Hugging Face directory, once, in the cache."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from filelock import FileLock

from edgekit.bases import fingerprint_of
from edgekit.errors import BaseModelError
from edgekit.licenses import GGUF_LICENSE_FILE, write_gguf_license
from edgekit.quiet import quiet_libraries
from edgekit_runtime.digests import sha256_of_file

_FINGERPRINT = "fingerprint"


def dequantized_gguf(gguf: Path, directory: Path) -> tuple[Path, str]:
    """Return a GGUF's weights as a Hugging Face directory, and their fingerprint.

    Args:
        gguf: The file.
        directory: Where dequantized bases are kept, by the file's digest.

    Raises:
        BaseModelError: If it cannot be read.
    """
    digest = sha256_of_file(gguf).removeprefix("sha256:")[:16]
    key = f"{gguf.stem}-{digest}"
    target = directory / key
    stored = target / _FINGERPRINT
    if not stored.is_file():
        directory.mkdir(parents=True, exist_ok=True)
        with FileLock(directory / f"{key}.lock"):
            if not stored.is_file():  # another process may have just made it
                _dequantize(gguf, target)
    if not (target / GGUF_LICENSE_FILE).is_file():  # one that an earlier edgekit dequantized
        write_gguf_license(gguf, target)
    return target, stored.read_text(encoding="ascii")


def _dequantize(gguf: Path, target: Path) -> None:
    """Write float32 safetensors beside ``target``, then rename."""
    prefix = f".{target.name}-"
    for leftover in (target, *target.parent.glob(f"{prefix}*")):
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=prefix) as temporary:
        out = Path(temporary) / "base"
        with quiet_libraries():
            for part in _load(gguf):
                part.save_pretrained(out)
        (out / _FINGERPRINT).write_text(fingerprint_of(out), encoding="ascii")
        out.replace(target)


def _load(gguf: Path) -> tuple[Any, Any]:
    """Model and tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    try:
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            quantization_config=GgufConfig(gguf_file=gguf.name, dequantize=True),
            dtype=torch.float32,
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    except Exception as err:  # gguf's many kinds; the tokenizers library raises plain Exception
        raise BaseModelError(
            f"base '{gguf.name}' cannot be read: {err}",
            hint="Check the download, or use the model's Hugging Face directory instead.",
        ) from err
    return model, tokenizer
