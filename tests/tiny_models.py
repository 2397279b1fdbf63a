"""Tiny random bases for tests: two layers, hidden size 64, a real little tokenizer.

They are written as Hugging Face directories, so everything that takes a base takes them.
The weights are large and seeded: logits are far from uniform, so a wrong adapter shows.
"""

from pathlib import Path
from typing import Any

VOCAB_SIZE = 320
EOS_TOKEN_ID = 2

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_TOKENIZER_TEXT = [
    "the card is lost and the payment was not found",
    "turn on the light in the kitchen",
    "what is the meaning of this order",
    "she was there when the money came and the answer was short",
    "Query: Intent: user assistant system tone label text",
]

_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "phi4": "Phi3ForCausalLM",
}
# As the real ones do; the others put nothing before a text.
_ADD_BOS = {"mistral", "gemma", "gemma2", "gemma3"}

_WINDOW = 32  # tokens; far shorter than the rows that a window is checked on
# What each family has beyond the common values.
_FAMILY_VALUES: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": _WINDOW},
    "gemma2": {"query_pre_attn_scalar": 32, "sliding_window": _WINDOW},
    "gemma3": {
        "query_pre_attn_scalar": 32,
        "sliding_window": _WINDOW,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "phi3": {"sliding_window": _WINDOW, "original_max_position_embeddings": 512},
    "phi4": {
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 512,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "partial_rotary_factor": 0.5,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0 + index / 8 for index in range(8)],
            "long_factor": [2.0 + index for index in range(8)],
        },
    },
}

# What makes the tiny tokenizer put its beginning-of-text token before every text.
ADDS_BOS = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ],
    "pair": [],
    "special_tokens": {
        "<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}
    },
}


def architecture_of(family: str) -> str:
    """The transformers class of a family's models."""
    return _ARCHITECTURES[family]


def make_tiny_model(
    directory: Path, family: str = "llama", seed: int = 0, *, tied: bool = True
) -> Path:
    """Write a tiny random model and its tokenizer to a directory.

    Args:
        directory: Made if it does not exist.
        family: "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3", or
            "phi4" (Phi-4-mini: Phi-3 with longrope on half of each head).
        seed: Of the weights.
        tied: Whether the head shares the embedding's weights.

    Returns:
        The directory.
    """
    import torch
    import transformers

    directory.mkdir(parents=True, exist_ok=True)
    architecture = architecture_of(family)
    model_class = getattr(transformers, architecture)
    config = model_class.config_class(**_config_values(family, tied))
    config.architectures = [architecture]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config).to(torch.float32).eval()
        _randomize(model)
    model.generation_config.update(
        bos_token_id=1, eos_token_id=EOS_TOKEN_ID, pad_token_id=EOS_TOKEN_ID
    )
    model.save_pretrained(directory)
    make_tiny_tokenizer(directory, adds_bos=family in _ADD_BOS)
    return directory


def make_tiny_tokenizer(directory: Path, *, adds_bos: bool = False) -> None:
    """Write a byte-level BPE tokenizer with SmolLM2's special tokens; pad equals EOS (2)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=specials,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TOKENIZER_TEXT, trainer)
    assert tokenizer.get_vocab_size() == VOCAB_SIZE
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
        )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(directory)


def _config_values(family: str, tied: bool) -> dict[str, Any]:
    values: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 512,
        "initializer_range": 0.15,
        "tie_word_embeddings": tied,
        "bos_token_id": 1,
        "eos_token_id": EOS_TOKEN_ID,
        "pad_token_id": EOS_TOKEN_ID,
    }
    return values | _FAMILY_VALUES.get(family, {})


def _randomize(model: Any) -> None:
    """Give biases and norms, which start at 0 or 1, values that a wrong graph would get wrong."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):
                parameter.normal_(0.0, 0.2)
            elif "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
        model.model.norm.weight.add_(2.0)  # sharper logits: 1 + 2 = 3 times, Gemma's norm too
