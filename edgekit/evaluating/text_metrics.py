"""Scores of free text by what it shares with a reference: BLEU, chrF, ROUGE.

Source: sacrebleu (Post 2018; chrF: Popović 2015) and rouge-score (Lin 2004).
"""

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from edgekit.evaluating.measuring import Figures, SummedMetric, mean_of_rows, with_ones

_WORD = re.compile(r"[^\W_]+")


def _sacrebleu_metric(make: Callable[[], Any]) -> SummedMetric:
    """Use the figures of each row that sacrebleu itself adds up over a corpus.

    sacrebleu has no public way to them; its own resampling takes the same two methods.
    """

    def rows(
        predictions: Sequence[str], references: Sequence[str], labels: Sequence[str] | None
    ) -> Any:
        texts = [text.strip() for text in predictions]
        return make()._extract_corpus_statistics(texts, [[text.strip() for text in references]])

    def total(sums: Figures) -> float:
        figures = [int(value) for value in np.rint(sums)]
        return float(make()._compute_score_from_stats(figures).score) / 100

    return SummedMetric(rows, total)


@cache
def _bleu() -> Any:
    from sacrebleu.metrics import BLEU

    return BLEU(force=True)  # tokenized predictions are the model's own, no reason to warn


@cache
def _chrf() -> Any:
    from sacrebleu.metrics import CHRF

    return CHRF()


class _Words:
    """rouge-score's own words in ASCII text; unlike its, letters of every other script too."""

    def tokenize(self, text: str) -> list[str]:
        """Lower-case runs of letters and digits."""
        return _WORD.findall(text.lower())


def _rouge(kind: str) -> SummedMetric:
    def rows(
        predictions: Sequence[str], references: Sequence[str], labels: Sequence[str] | None
    ) -> Any:
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer([kind], tokenizer=_Words())
        pairs = zip(predictions, references, strict=True)
        return with_ones([scorer.score(r, p)[kind].fmeasure for p, r in pairs])

    return SummedMetric(rows, mean_of_rows)


bleu = _sacrebleu_metric(_bleu)
"""Corpus BLEU: shared runs of one to four words, with a price for answers that are too short."""

chrf = _sacrebleu_metric(_chrf)
"""chrF2: shared runs of one to six characters; the one to take for short texts."""

rouge1 = _rouge("rouge1")
"""Mean F of shared words."""

rouge2 = _rouge("rouge2")
"""Mean F of shared pairs of words."""

rouge_l = _rouge("rougeL")
"""Mean F of the longest common subsequence of words."""

rouge_lsum = _rouge("rougeLsum")
"""The same, line by line: for summaries of several sentences, one a line."""
