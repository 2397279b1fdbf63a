"""Routing, on a tiny random base: what it computes, not how well it knows meanings."""

import numpy as np
import pytest

from edgekit_runtime import AdapterCard, Engine, GenerationError, Router
from edgekit_runtime.routing import general_requests, recorded_examples

EXAMPLES = {
    "alpha": ["where is my card", "my card is lost", "the payment was not found"],
    "beta": ["turn on the light", "light off", "open the door"],
}


@pytest.fixture(scope="module")
def router(engine: Engine) -> Router:
    return engine.router(EXAMPLES)


def vector(engine: Engine, text: str) -> np.ndarray:
    logits = engine.next_logits(
        engine.tokenize(f'This sentence: "{text}" means in one word: "')
    ).astype(np.float64)
    return logits - logits.mean()


def test_similarities_are_cosines_with_the_mean_of_the_examples(
    engine: Engine, router: Router
) -> None:
    groups = [[vector(engine, text) for text in texts] for texts in EXAMPLES.values()]
    general = [vector(engine, text) for text in general_requests()]
    mean = np.mean([*groups[0], *groups[1], *general], axis=0)

    def unit(x: np.ndarray) -> np.ndarray:
        return x / np.linalg.norm(x)

    asked = unit(vector(engine, "my light is lost") - mean)
    expected = {
        name: float(asked @ unit(np.mean([unit(one - mean) for one in group], axis=0)))
        for name, group in zip(EXAMPLES, groups, strict=True)
    }
    found = router.route("my light is lost")
    assert found.similarities == pytest.approx(expected, abs=1e-3)
    assert list(found.similarities) == sorted(expected, key=lambda name: -expected[name])


def test_an_example_goes_to_its_adapter_and_the_threshold_decides(engine: Engine) -> None:
    everything = engine.router(EXAMPLES, threshold=-1.0)
    for name, texts in EXAMPLES.items():
        for text in texts:
            assert everything.route(text).adapter == name
    nothing = engine.router(EXAMPLES, threshold=1.1)
    found = nothing.route("where is my card")
    assert found.adapter is None
    assert found.to_dict() == {
        "adapter": None,
        "similarities": dict(found.similarities),
        "threshold": 1.1,
    }


def test_the_threshold_keeps_examples_apart_from_general_requests(router: Router) -> None:
    general = general_requests()
    assert len(general) >= 30
    kept = sum(router.route(text).adapter is None for text in general)
    examples = [text for texts in EXAMPLES.values() for text in texts]
    taken = sum(router.route(text).adapter is not None for text in examples)
    assert kept / len(general) + taken / 6 > 1  # better than a coin


def test_adapters_bring_their_own_examples(engine: Engine) -> None:
    """alpha records two, in its template; beta records none."""
    with_own = engine.router()
    assert with_own.adapters == ("alpha",)
    same = engine.router({"alpha": ["where is my card", "turn on the light"]})
    assert with_own.route("card").to_dict() == same.route("card").to_dict()


def test_the_template_around_an_example_is_taken_off(engine: Engine) -> None:
    card = engine.bundle.adapter_card("alpha")
    assert recorded_examples(card) == ["where is my card", "turn on the light"]
    values = card.to_dict() | {"recipe": {"messages": "messages"}}
    assert recorded_examples(from_dict(values)) == []
    values["recipe"] = {}
    assert recorded_examples(from_dict(values)) == list(card.examples)


def from_dict(values: dict[str, object]) -> AdapterCard:
    import json

    return AdapterCard.from_bytes(json.dumps(values).encode(), where="card")


def test_a_long_text_counts_by_its_beginning(router: Router, engine: Engine) -> None:
    beginning = ("where is my card " * 40)[:400]
    assert router.route(beginning + "x" * 100_000) == router.route(beginning)


def test_what_cannot_be_routed_is_told(engine: Engine, router: Router) -> None:
    with pytest.raises(GenerationError, match="cannot be routed") as caught:
        engine.router({"alhpa": ["a", "b"], "beta": ["one"], "alpha": ["a", " "]})
    told = [problem.partition(":")[0] for problem in caught.value.problems]
    assert told == ["alhpa", "beta", "alpha"]
    with pytest.raises(GenerationError, match="nothing to route"):
        router.route(" ")


def test_a_bundle_without_examples_says_so(engine: Engine) -> None:
    with pytest.raises(GenerationError, match="no adapter of this bundle records examples"):
        engine.router({})
