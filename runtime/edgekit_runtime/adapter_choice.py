"""What a request chooses: an adapter by its name, or several with weights."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from edgekit_runtime.card import AdapterCard
from edgekit_runtime.errors import AdapterError

AdapterChoice = str | Mapping[str, float] | None
"""An adapter's name, or several names with weights; None for the base."""


def adapter_text(choice: AdapterChoice) -> str | None:
    """What a request chooses, in one form: ``legal``, or ``legal=0.7,tone=0.3`` in order of names.

    >>> adapter_text({"tone": 0.3, "legal": 0.7})
    'legal=0.7,tone=0.3'
    >>> adapter_text("tone=1")
    'tone'

    Raises:
        AdapterError: If weights are no numbers other than 0, with every problem.
    """
    return None if choice is None else adapter_name(choice)


def adapter_name(choice: str | Mapping[str, float]) -> str:
    """:func:`adapter_text` of what is not the base."""
    if isinstance(choice, str) and "=" not in choice:
        return choice
    weights = _checked(_pairs(choice) if isinstance(choice, str) else list(choice.items()))
    if list(weights.values()) == [1.0]:
        return next(iter(weights))
    return ",".join(f"{name}={weights[name]!r}" for name in sorted(weights))


def blend_weights(name: str) -> dict[str, float] | None:
    """Names and weights of a blend in the form of :func:`adapter_text`; None of a plain name."""
    return {part: float(weight) for part, weight in _pairs(name)} if "=" in name else None


def blend_card(name: str, cards: Sequence[AdapterCard]) -> AdapterCard:
    """A card that says of a blend what is true of all its adapters."""
    first, r = cards[0], sum(card.r for card in cards)

    def shared(values: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {k: v for k, v in values[0].items() if all(v == other.get(k) for other in values)}

    recipe = shared([card.recipe for card in cards])
    return replace(
        first,
        name=name,
        r=r,
        lora_alpha=r,
        target_modules=tuple(sorted({module for card in cards for module in card.target_modules})),
        binding="assumed" if any(card.binding == "assumed" for card in cards) else first.binding,
        license=first.license if len({card.license for card in cards}) == 1 else None,
        defaults=shared([card.defaults for card in cards]),
        recipe=dict.fromkeys(first.recipe) | recipe,
        examples=first.examples if len(cards) == 1 else (),
        metrics={},
    )


def _pairs(text: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for part in text.split(","):
        name, _, weight = part.partition("=")
        try:
            found.append((name.strip(), float(weight)))
        except ValueError:
            found.append((name.strip(), weight))
    return found


def _checked(pairs: Sequence[tuple[str, Any]]) -> dict[str, float]:
    problems, weights = [], dict[str, float]()
    for name, weight in pairs:
        if not isinstance(name, str) or not name or "=" in name or "," in name:
            problems.append(f"{name!r}: expected an adapter's name")
        elif name in weights:
            problems.append(f"{name}: there twice")
        elif isinstance(weight, bool) or not isinstance(weight, int | float):
            problems.append(f"{name}: expected a number as its weight, got {weight!r}")
        elif not math.isfinite(weight) or not weight:
            problems.append(f"{name}: expected a finite weight other than 0, got {weight}")
        else:
            weights[name] = float(weight)
    if problems or not weights:
        raise AdapterError(
            "adapters cannot be blended so",
            problems=problems or ["no adapter is named"],
            hint="Give names with weights: {'legal': 0.7, 'tone': 0.3}, or legal=0.7,tone=0.3.",
        )
    return weights
