"""Which rows are held out, by share or by group, and in which shares sources are mixed."""

import random
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgekit.data_recipe import DataRecipe
from edgekit.errors import DataError

if TYPE_CHECKING:
    from edgekit.training.examples import Example


def split_examples(
    examples: Sequence["Example"], data: DataRecipe, seed: int, warnings: list[str]
) -> tuple[list["Example"], list["Example"]]:
    """Take a share for validation; each stratum keeps its share, a single row stays in training.

    Args:
        examples: All rows.
        data: Its ``validation`` is the share, its ``group`` says what stays together.
        seed: Of the choice.
        warnings: Are added to.

    Returns:
        Training and validation, in the order of the rows.
    """
    share = data.validation if isinstance(data.validation, float) else 0.0
    if not share:
        return list(examples), []
    if len(examples) < 2:
        warnings.append("one row is too few for validation: training without it")
        return list(examples), []
    if data.group is not None:
        return split_by_group(examples, share, seed)
    strata: dict[str, list[int]] = {}
    for index, example in enumerate(examples):
        strata.setdefault(example.stratum, []).append(index)
    rng = random.Random(seed)
    for indices in strata.values():
        rng.shuffle(indices)
    single = [name for name, indices in strata.items() if len(indices) == 1]
    if single:
        shown = ", ".join(map(repr, sorted(single)[:10])) + (" …" if len(single) > 10 else "")
        warnings.append(f"{len(single)} with a single row, kept in training only: {shown}")
    chosen = {
        index for name, count in _quotas(strata, share).items() for index in strata[name][:count]
    }
    train = [example for index, example in enumerate(examples) if index not in chosen]
    return train, [examples[index] for index in sorted(chosen)]


def _quotas(strata: dict[str, list[int]], share: float) -> dict[str, int]:
    """How many rows each stratum gives: largest remainders, and one always stays."""
    exact = {name: len(indices) * share for name, indices in strata.items()}
    quotas = {name: min(int(value), len(strata[name]) - 1) for name, value in exact.items()}
    wanted = max(1, round(sum(exact.values())))
    by_remainder = sorted(exact, key=lambda name: (int(exact[name]) - exact[name], name))
    for name in by_remainder:
        if sum(quotas.values()) < wanted and quotas[name] + 1 < len(strata[name]):
            quotas[name] += 1
    return quotas


def keep_labels_in_train(
    train: list["Example"], validation: list["Example"]
) -> tuple[list["Example"], list["Example"]]:
    """A share that is not stratified by label may draw a label's only row: put that one back."""
    known = {example.completion for example in train}
    lonely = [example for example in validation if example.completion not in known]
    return [*train, *lonely], [example for example in validation if example.completion in known]


def split_by_group(
    examples: Sequence["Example"], share: float, seed: int
) -> tuple[list["Example"], list["Example"]]:
    """Hold whole groups out, about a share of the rows; strata keep their shares if they can.

    Args:
        examples: Each with a group.
        share: Of the rows, above 0 and below 1; what is held out is as near as groups allow.
        seed: Of the choice.

    Returns:
        Training and validation, in the order of the rows.

    Raises:
        DataError: If there are fewer than two groups.

    Source: scikit-learn's StratifiedGroupKFold (strata) and GroupShuffleSplit (none).
    """
    from sklearn.model_selection import GroupShuffleSplit, StratifiedGroupKFold

    groups = [example.group for example in examples]
    n_groups = len(set(groups))
    if n_groups < 2:
        raise DataError(
            f"data.group: validation needs two groups or more, and every row is of {groups[0]!r}",
            hint="Choose another column, or set data.validation to a file or to 0.",
        )
    strata = [example.stratum for example in examples]
    n_folds = min(max(2, round(1 / share)), n_groups)
    counts = Counter(strata).values()
    if len(counts) > 1 and min(counts) >= n_folds:
        folds = StratifiedGroupKFold(n_splits=n_folds, shuffle=True, random_state=seed)
        _, held_out = next(folds.split(strata, strata, groups))
    else:
        # At least one group is held out, and one stays.
        n_held_out = min(max(1, round(share * n_groups)), n_groups - 1)
        splitter = GroupShuffleSplit(n_splits=1, test_size=n_held_out, random_state=seed)
        _, held_out = next(splitter.split(strata, groups=groups))
    chosen = {int(index) for index in held_out}
    train = [example for index, example in enumerate(examples) if index not in chosen]
    return train, [examples[index] for index in sorted(chosen)]


def mixed(
    examples: Sequence["Example"], weights: Sequence[float], seed: int
) -> tuple["Example", ...]:
    """Repeat the rows of sources until each has its share.

    No row is lost: the source that is largest for its weight is taken once, the others are
    repeated, whole passes first and a drawn part of one at the end.

    Args:
        examples: Training rows, each with its source.
        weights: By source; only their ratios count.
        seed: Of the draw.
    """
    by_source = [[e for e in examples if e.source == n] for n in range(len(weights))]
    present = [(rows, weight) for rows, weight in zip(by_source, weights, strict=True) if rows]
    unit = max(len(rows) / weight for rows, weight in present)
    rng = random.Random(seed)
    result: list[Example] = []
    for rows, weight in present:
        passes, rest = divmod(round(unit * weight), len(rows))
        result += [*rows * passes, *rng.sample(rows, rest)]
    return tuple(result)
