"""LoRA adapters made by plain peft code, as somebody else would make them."""

from pathlib import Path
from typing import Any


def make_peft_adapter(
    base: Path, out: Path, *, seed: int = 0, strength: float = 1.0, **lora: Any
) -> Path:
    """Write a random LoRA for a base with nothing but peft.

    Args:
        base: Hugging Face directory.
        out: Where ``save_pretrained`` writes.
        seed: Of A and B.
        strength: Standard deviation of B's values; PEFT's own zero B would prove nothing.
        lora: Arguments of peft.LoraConfig.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        lora = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"} | lora
        adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **lora))
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=strength)
        adapted.save_pretrained(out)
    return out
