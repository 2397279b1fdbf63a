"""What an adapter records of its task, as an evaluation takes it."""

import pytest

from edgekit.evaluating.recorded import label_completions


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (" {label}", (" yes", " no")),
        ("\n{label}", ("\nyes", "\nno")),
        ("{label}", ("yes", "no")),
        (None, ("yes", "no")),
    ],
)
def test_labels_begin_as_the_completions_that_were_trained(
    completion: str | None, expected: tuple[str, ...]
) -> None:
    """As ``Engine.classify`` begins them, so that both score the same tokens."""
    assert label_completions({"completion": completion}, ["yes", "no"]) == expected
