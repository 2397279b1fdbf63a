"""The model builder of onnxruntime-genai as a child process, its blind spots corrected.

    python -m edgekit.building.model_builder -i BASE -o OUT -p int4 -e cpu …

takes the builder's own arguments. onnxruntime-genai 0.18 was written for transformers 4 and reads
some configs of transformers 5 wrongly or not at all; they are said here in the words it reads.

Source: onnxruntime_genai/models/builders/base.py (``make_rope_init``, ``is_local``), gemma.py.
"""

from typing import Any

# Every layer of these has the config's sliding window, which names no layer types.
_WINDOW_ON_EVERY_LAYER = ("MistralForCausalLM", "Phi3ForCausalLM")


def restate_config(config: Any) -> None:
    """Say a transformers 5 config in the builder's words, in place.

    Args:
        config: A transformers config, as loaded.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    if "full_attention" in rope:
        # Gemma 3: rope by layer type, once two flat keys.
        config.rope_parameters = rope["full_attention"]
        config.rope_theta = rope["full_attention"]["rope_theta"]
        config.rope_local_base_freq = rope["sliding_attention"]["rope_theta"]
    elif rope.get("rope_type") == "longrope":
        rope["type"] = "longrope"  # the key's old name
    architecture = config.architectures[0]
    if architecture in _WINDOW_ON_EVERY_LAYER and config.sliding_window:
        config.layer_types = ["sliding_attention"] * config.num_hidden_layers


def main() -> None:
    """Run the builder with the arguments of this process."""
    from onnxruntime_genai.models import builder

    load = builder.get_hf_details

    def load_restated(*args: Any, **options: Any) -> Any:
        details = load(*args, **options)
        restate_config(details["hf_config"])
        return details

    builder.get_hf_details = load_restated
    args = builder.get_args()
    said = (args.model_name, args.input, args.output, args.precision, args.execution_provider)
    options = builder.parse_extra_options(*said, args.cache_dir, args.extra_options)
    builder.create_model(*said, args.cache_dir, **options)


if __name__ == "__main__":
    main()
