"""``edgekit data check``: everything that is known about a recipe's rows without training."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgekit.bases import resolve_base
from edgekit.recipes import TrainRecipe
from edgekit.training.data_checks import N_PLACES, Finding
from edgekit.training.example_splits import load_examples
from edgekit.training.examples import Example
from edgekit.training.generating import end_token_ids
from edgekit.training.tokens import tokenize_examples


@dataclass(frozen=True, kw_only=True, slots=True)
class DataReport:
    """The rows of a recipe.

    Attributes:
        rows: By split ("train", "validation", "test"): how many, repeats by weight included.
        labels: Label set of a classification.
        findings: What is odd; the problems first.
        warnings: What splitting and the problems say, one line each.
    """

    rows: dict[str, int]
    labels: tuple[str, ...] | None
    findings: tuple[Finding, ...]
    warnings: tuple[str, ...]

    @property
    def n_problems(self) -> int:
        """How many findings are likely to spoil the result."""
        return sum(finding.is_problem for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"schema_version": "1.0", "problems": self.n_problems, **asdict(self)}


def check_data(recipe: TrainRecipe, *, lengths: bool = True) -> DataReport:
    """Read, split and look at the rows of a recipe.

    Args:
        recipe: Its base gives the tokenizer.
        lengths: Whether to count tokens, for which the base is needed.

    Raises:
        DataError: If rows cannot be used at all; with every problem.
        BaseModelError: If the base cannot be resolved.
    """
    splits = load_examples(recipe)
    by_name = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    findings = list(splits.findings)
    if lengths:
        findings += _too_long(recipe, by_name)
    return DataReport(
        rows={name: len(examples) for name, examples in by_name.items()},
        labels=splits.labels,
        findings=tuple(sorted(findings, key=lambda finding: not finding.is_problem)),
        warnings=splits.warnings,
    )


def _too_long(recipe: TrainRecipe, by_name: dict[str, tuple[Example, ...]]) -> list[Finding]:
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(resolve_base(recipe.base).path)
    ends = end_token_ids(tokenizer, GenerationConfig())
    limit = recipe.data.max_length

    def is_too_long(example: Example) -> bool:
        split = tokenize_examples([example], tokenizer, max_length=limit, end_ids=ends)
        return bool(split.n_too_long)

    findings = []
    first = ("train",) if recipe.data.streaming else ()
    for name, examples in by_name.items():
        long: Sequence[Example] = [example for example in examples if is_too_long(example)]
        n_looked_at = f"the first {len(examples)}" if name in first else str(len(examples))
        if long:
            findings.append(
                Finding(
                    check="length",
                    n_rows=len(long),
                    text=f"{len(long)} of {n_looked_at} {name} rows are longer than {limit} "
                    "tokens and will be left out (data.max_length)",
                    places=tuple(example.place for example in long[:N_PLACES]),
                )
            )
    return findings
