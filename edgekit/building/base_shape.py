"""The sizes of a base that decide how much room it takes; read from headers, no weight loaded."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekit.adapters.peft_dir import base_linear_shapes
from edgekit.bases import Base
from edgekit.building.prebuilt import decoder_config, graph_files, linear_shapes
from edgekit.errors import BaseModelError
from edgekit.quiet import quiet_libraries


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseShape:
    """A base in numbers.

    Attributes:
        linears: Module path of every decoder linear to its shape (out, in).
        hidden_size: Width of the residual stream.
        vocab_size: Rows of the embedding and of the head.
        is_tied: Whether the head uses the embedding's weights.
        n_layers: Decoder layers.
        n_key_value_heads: Heads of keys, and of values, in each layer.
        head_size: Width of one head.
        max_positions: The base's own context limit, in tokens.
        tokenizer_bytes: Size of tokenizer.json.
        float_bytes: Size of the float weights.
        stored_bytes: Size of the weight files that somebody else built; None where we build.
    """

    linears: Mapping[str, tuple[int, int]]
    hidden_size: int
    vocab_size: int
    is_tied: bool
    n_layers: int
    n_key_value_heads: int
    head_size: int
    max_positions: int
    tokenizer_bytes: int
    float_bytes: int
    stored_bytes: int | None = None

    @property
    def n_linear_weights(self) -> int:
        """Weights of all decoder linears."""
        return sum(out * into for out, into in self.linears.values())

    @property
    def n_table_weights(self) -> int:
        """Weights of the embedding, and as many again of the head."""
        return self.vocab_size * self.hidden_size

    @property
    def n_weights(self) -> int:
        """Weights of all matrices, a tied table once."""
        return self.n_linear_weights + self.n_table_weights * (1 if self.is_tied else 2)

    @property
    def mlp_size(self) -> int:
        """Width of the feed-forward part: outputs of its widest linear, halved where two are one.

        Phi stores gate and up as one ``gate_up_proj``.
        """
        widths = [
            out // 2 if module.endswith("gate_up_proj") else out
            for module, (out, _) in self.linears.items()
            if ".mlp." in module
        ]
        return max(widths, default=4 * self.hidden_size)


def shape_of(base: Base) -> BaseShape:
    """Read the sizes of a base.

    Raises:
        BaseModelError: If its config.json makes no sense.
    """
    if base.is_prebuilt:
        return _prebuilt_shape(base)
    from optimum.utils import NormalizedTextConfigWithGQA

    config = _load_config(base)
    sizes = NormalizedTextConfigWithGQA(config)
    tokenizer = base.path / "tokenizer.json"
    head_size = getattr(config, "head_dim", None) or sizes.hidden_size // sizes.num_attention_heads
    return BaseShape(
        linears=base_linear_shapes(base.path),
        hidden_size=sizes.hidden_size,
        vocab_size=config.vocab_size,
        is_tied=bool(config.tie_word_embeddings),
        n_layers=sizes.num_layers,
        n_key_value_heads=sizes.num_key_value_heads,
        head_size=head_size,
        max_positions=int(getattr(config, "max_position_embeddings", 0) or 0),
        tokenizer_bytes=tokenizer.stat().st_size if tokenizer.is_file() else 0,
        float_bytes=sum(file.stat().st_size for file in base.path.glob("*.safetensors")),
    )


def _prebuilt_shape(base: Base) -> BaseShape:
    """The sizes of an ONNX model that somebody else built, from its own configuration."""
    config = json.loads((base.path / "genai_config.json").read_text(encoding="utf-8"))["model"]
    decoder = decoder_config(base.path)
    stored = sum(path.stat().st_size for path in graph_files(base.path))
    return BaseShape(
        linears=linear_shapes(base),
        hidden_size=decoder["hidden_size"],
        vocab_size=config["vocab_size"],
        is_tied=True,
        n_layers=decoder["num_hidden_layers"],
        n_key_value_heads=decoder["num_key_value_heads"],
        head_size=decoder["head_size"],
        max_positions=config["context_length"],
        tokenizer_bytes=(base.path / "tokenizer.json").stat().st_size,
        float_bytes=8 * stored,  # the gate dequantizes 4 bits to 32
        stored_bytes=stored,
    )


def _load_config(base: Base) -> Any:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        with quiet_libraries():
            return AutoConfig.from_pretrained(base.path)
    except (OSError, ValueError, TypeError, StrictDataclassError) as err:
        raise BaseModelError(f"base '{base.name}': config.json makes no sense: {err}") from err
