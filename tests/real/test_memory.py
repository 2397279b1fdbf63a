"""The memory model against a real process: within 15 %, with and without an adapter."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.real

# A fresh process, as an app would have it: open, answer a prompt that fills the context.
PROGRAM = """
import sys
from edgekit_runtime import Bundle
from edgekit_runtime.meters import peak_rss_bytes

path, adapter, context = sys.argv[1], sys.argv[2] or None, int(sys.argv[3])
with Bundle.open(path, verify="sizes") as bundle:
    with bundle.engine(threads=1, context_length=context) as engine:
        answer = engine.generate(" the" * (context - 24), adapter=adapter, max_new_tokens=8)
        assert answer.usage.prompt_tokens >= context - 24, answer.usage
        print(peak_rss_bytes())
"""


@pytest.mark.parametrize("context", [1024, 4096])
@pytest.mark.parametrize("adapter", ["", "tone"])
def test_what_a_process_takes_is_what_the_plan_says(
    adapter: str, context: int, real_bundle: Path, tone_adapter: Path
) -> None:
    from edgekit.adapters.peft_dir import read_peft_adapter
    from edgekit.bases import resolve_base
    from edgekit.building.base_shape import shape_of
    from edgekit.building.memory import memory_need
    from edgekit.targets import load_target

    command = [sys.executable, "-c", PROGRAM, str(real_bundle), adapter, str(context)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    base = resolve_base("smollm2-135m")
    tone = read_peft_adapter(tone_adapter, base, name="tone", max_rank=256)
    profile = load_target("cpu-fast").model_copy(update={"context_length": context})
    need = memory_need(shape_of(base), profile, [tone.modules] if adapter else [])
    assert need.total_bytes == pytest.approx(int(done.stdout), rel=0.15)
