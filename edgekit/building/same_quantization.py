"""Does an adapter that was trained on quantized weights meet the very weights it was trained on?"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from edgekit.adapters.peft_dir import PeftAdapter
from edgekit.building.dequantize import quantization_fingerprint
from edgekit.building.device_weights import DeviceWeights
from edgekit.errors import PeftAdapterError

_SHOWN = len("sha256:") + 12
_WAYS_OUT = (
    "It repairs the rounding of other weights than these. Build with that quantization, train it "
    "on this target's weights, name an adapter for each target (NAME: {path: {TARGET: PATH}} in "
    "the recipe), or say --allow-other-quantization to take it as it is."
)


def refuse_other_quantization(
    adapters: Mapping[str, Mapping[str, PeftAdapter]],
    options: Mapping[str, Mapping[str, str]],
    weights_of: Callable[[str], DeviceWeights | None],
) -> None:
    """Raise if an adapter records the fingerprint of other quantized weights than a target's.

    Args:
        adapters: Target name to adapter name to the adapter.
        options: Target name to its quantization in words, to say what differs.
        weights_of: Reads a target's weights, asked only where an adapter records some; None where
            they are not to be had yet.

    Raises:
        PeftAdapterError: With every adapter, and which options differ.
    """
    problems: list[str] = []
    for target, read in adapters.items():
        recorded = {
            name: adapter.record["quantization"]
            for name, adapter in read.items()
            if adapter.record.get("quantization")
        }
        weights = weights_of(target) if recorded else None
        if weights is None:
            continue
        here = quantization_fingerprint(weights)
        for name, quantization in recorded.items():
            if quantization["fingerprint"] != here:
                problems.append(_problem(name, quantization, target, here, options[target]))
    if problems:
        raise PeftAdapterError(
            "adapters were trained on other quantized weights than a target's",
            problems=problems,
            hint=_WAYS_OUT,
        )


def _problem(
    name: str,
    quantization: Mapping[str, Any],
    target: str,
    here: str,
    options: Mapping[str, str],
) -> str:
    differing = list(_differing(quantization.get("options") or {}, options))
    why = f"; {', '.join(differing)}" if differing else ""
    return (
        f"adapter '{name}': trained on the weights of target '{quantization.get('target')}' "
        f"({quantization['fingerprint'][:_SHOWN]}…), target '{target}' has others "
        f"({here[:_SHOWN]}…){why}"
    )


def _differing(trained: Mapping[str, str], options: Mapping[str, str]) -> Iterator[str]:
    for key in sorted({*trained, *options} - {"accuracy_level", "tier"}):
        if trained.get(key) != options.get(key):
            yield f"{key} was {trained.get(key, 'unset')} and is {options.get(key, 'unset')}"
