"""What a decoder of a supported family consists of, read from transformers' own model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.bases import Base
from edgekit.errors import BaseModelError, BuildError
from edgekit.quiet import quiet_libraries
from edgekit_runtime.static_layout import Rope

Weights = Mapping[str, npt.NDArray[np.float32]]

STATIC_ARCHITECTURES = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "GemmaForCausalLM",
    "Gemma2ForCausalLM",
    "Gemma3ForCausalLM",
    "Phi3ForCausalLM",
)
# Their frequencies do not depend on how long the text is, so they can be stored.
_FIXED_ROPES = {"default", "linear", "llama3", "yarn"}
_SILU = {"silu", "swish"}
_GELU_TANH = {"gelu_pytorch_tanh", "gelu_new", "gelu_fast"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """How one layer differs from the others: which mask and which rotary table it takes."""

    mask: int
    rope: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoder:
    """Everything that the graph writer must know of a decoder.

    Attributes:
        windows: Attention window of each mask, in tokens; None sees everything before.
        norm_offset: Added to the weight of every norm (1 for Gemma).
        has_sandwich_norms: Norms after attention and MLP too (Gemma 2 and 3).
        has_qk_norms: Norms on the heads of queries and keys (Qwen3, Gemma 3).
        is_fused: q/k/v are one projection and gate/up another (Phi-3).
        uses_gelu: tanh-GELU, otherwise SiLU.
    """

    hidden_size: int
    vocab_size: int
    heads: int
    kv_heads: int
    head_dim: int
    epsilon: float
    attention_scale: float
    attention_softcap: float | None
    logit_softcap: float | None
    embedding_scale: float
    norm_offset: float
    has_sandwich_norms: bool
    has_qk_norms: bool
    is_fused: bool
    uses_gelu: bool
    layers: tuple[Layer, ...]
    windows: tuple[int | None, ...]
    ropes: tuple[Rope, ...]


def load_decoder(base: Base) -> tuple[Decoder, dict[str, npt.NDArray[np.float32]]]:
    """Load a base with transformers and describe its decoder.

    Returns:
        The description, and every weight in float32 by its Hugging Face name.

    Raises:
        BuildError: If the family, its activation or its rotary embedding has no static form.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if base.is_prebuilt:
        raise BuildError(
            f"base '{base.name}' is an ONNX model; static graphs are written from float weights",
            hint="Give the Hugging Face base for this target, or take it out of `targets`.",
        )
    if base.architecture not in STATIC_ARCHITECTURES:
        raise BuildError(
            f"base '{base.name}' has the architecture {base.architecture}, "
            "which has no static graph yet",
            hint=f"Supported: {', '.join(STATIC_ARCHITECTURES)}.",
        )
    try:
        with quiet_libraries():
            model = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32).eval()
    except (OSError, ValueError) as err:
        raise BaseModelError(f"base '{base.name}' cannot be loaded: {err}") from err
    decoder = describe(model, base.name)
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    return decoder, weights


def describe(model: Any, name: str) -> Decoder:
    """Describe a transformers model; ``name`` is what messages call it."""
    config, first = model.config, model.model.layers[0]
    offset = norm_offset(type(model).__name__)
    types = _layer_types(config)
    ropes, rope_of = _ropes(model.model.rotary_emb, types, name)
    windows = tuple(dict.fromkeys(_window(config, kind) for kind in types))
    attention = first.self_attn
    return Decoder(
        hidden_size=config.hidden_size,
        vocab_size=config.vocab_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=attention.head_dim,
        epsilon=config.rms_norm_eps,
        attention_scale=float(attention.scaling),
        attention_softcap=getattr(config, "attn_logit_softcapping", None),
        logit_softcap=getattr(config, "final_logit_softcapping", None),
        embedding_scale=float(config.hidden_size) ** 0.5 if offset else 1.0,
        norm_offset=offset,
        has_sandwich_norms=hasattr(first, "pre_feedforward_layernorm"),
        has_qk_norms=hasattr(attention, "q_norm"),
        is_fused=hasattr(attention, "qkv_proj"),
        uses_gelu=_uses_gelu(config, name),
        layers=tuple(
            Layer(mask=windows.index(_window(config, kind)), rope=rope_of[kind]) for kind in types
        ),
        windows=windows,
        ropes=ropes,
    )


def norm_offset(architecture: str) -> float:
    """What a family adds to the weights of its norms; Gemma stores their distance from 1."""
    return 1.0 if architecture.startswith("Gemma") else 0.0


def _layer_types(config: Any) -> list[str]:
    """Transformers' name of each layer's attention; families without types have one for all."""
    if types := getattr(config, "layer_types", None):
        return list(types)
    kind = "sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"
    return [kind] * int(config.num_hidden_layers)


def _window(config: Any, kind: str) -> int | None:
    return int(config.sliding_window) if kind == "sliding_attention" else None


def _uses_gelu(config: Any, name: str) -> bool:
    activation = getattr(config, "hidden_activation", None) or config.hidden_act
    if activation not in _SILU | _GELU_TANH:
        raise BuildError(
            f"base '{name}' uses the activation '{activation}', which has no static form yet",
            hint=f"Known: {', '.join(sorted(_SILU | _GELU_TANH))}.",
        )
    return activation in _GELU_TANH


def _ropes(rotary: Any, types: list[str], name: str) -> tuple[tuple[Rope, ...], dict[str, int]]:
    """Rotary tables, and which of them each kind of layer uses."""
    by_kind = isinstance(rotary.rope_type, dict)
    ropes: list[Rope] = []
    place: dict[str, int] = {}
    for kind in dict.fromkeys(types):
        rope_type = rotary.rope_type[kind] if by_kind else rotary.rope_type
        if rope_type not in _FIXED_ROPES:
            raise BuildError(
                f"base '{name}' has rotary embeddings of type '{rope_type}', whose frequencies "
                "depend on the length of the text: a static graph cannot hold them",
                hint=f"Take a base with one of: {', '.join(sorted(_FIXED_ROPES))}.",
            )
        prefix = f"{kind}_" if by_kind else ""
        rope = Rope(
            inverse_frequencies=tuple(getattr(rotary, f"{prefix}inv_freq").tolist()),
            scaling=float(getattr(rotary, f"{prefix}attention_scaling")),
        )
        if rope not in ropes:
            ropes.append(rope)
        place[kind] = ropes.index(rope)
    return tuple(ropes), place
