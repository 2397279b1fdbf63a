"""What a real base loses in each tier; the figures on a whole test text are in docs/quality.md."""

import pytest

from edgekit.bases import resolve_base
from edgekit.quantizing.report import text_rows
from edgekit.quantizing.sweep import sweep
from edgekit.targets import load_target

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(3600)]


def test_the_default_tier_loses_far_less_than_the_fast_one_for_few_more_bytes() -> None:
    base = resolve_base("smollm2-135m")
    fast, default = sweep(
        base,
        load_target("cpu"),
        text_rows(base, None, None),
        ["tier=fast", "tier=default"],
        threads=2,
    )
    assert default.size_bytes <= 1.16 * fast.size_bytes
    assert default.figures.mean_kl < 0.4 * fast.figures.mean_kl
    assert default.figures.nll_increase < 0.7 * fast.figures.nll_increase
    assert fast.figures.top1 + 0.1 < default.figures.top1
