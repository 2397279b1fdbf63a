"""QLoRA on bitsandbytes' NF4, the usual 4-bit format, which no target computes in.

Source: Dettmers et al. 2023, https://arxiv.org/abs/2305.14314, as transformers has it.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from packaging.version import Version

from edgekit.errors import RecipeError

_OLDEST = "0.46.1"  # that transformers 5 takes


def check_nf4() -> None:
    """Raise if bitsandbytes is not there, or too old.

    Raises:
        RecipeError: With the command that installs it.
    """
    try:
        found = version("bitsandbytes")
    except PackageNotFoundError:
        found = None
    if found is None or Version(found) < Version(_OLDEST):
        got = "is not installed" if found is None else f"is {found}"
        raise RecipeError(
            f"weights: nf4 needs bitsandbytes {_OLDEST} or newer, and it {got}",
            hint=f"Install it: pip install 'bitsandbytes>={_OLDEST}' (Linux, Windows or macOS; an "
            "NVIDIA GPU with CUDA 11.8 or newer, or slowly on a CPU). Or take weights: "
            "target:NAME, which needs nothing more and is what that device computes with.",
        )


def nf4_options(dtype: Any) -> dict[str, Any]:
    """What ``from_pretrained`` takes to hold linears in NF4, computing in ``dtype``."""
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": config}
