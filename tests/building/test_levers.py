"""A build that cannot fit is refused with what would make it fit, each change with its number."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.bases import resolve_base
from edgekit.building.base_shape import shape_of
from edgekit.building.inputs import check_inputs
from edgekit.building.levers import Setup, levers, way_to_fit
from edgekit.bundling.adapters import AdapterSource
from edgekit.errors import BuildError
from edgekit.targets import load_target
from tests.building.test_memory import SHAPE

# 67 MB of cache for a context of 8192, 13 MB of weights, 74 MB for the process.
LONG = {"n_layers": 16, "max_positions": 8192, "vocab_size": 65536}


def setup(budget: int, **quantization: object) -> Setup:
    profile = load_target("cpu-fast").model_copy(
        update={"memory_budget_bytes": budget, "context_length": 8192}
    )
    changed = profile.quantization.model_copy(update=quantization)
    profile = profile.model_copy(update={"quantization": changed})
    return Setup(shape=replace(SHAPE, **LONG), profile=profile, adapters={})


def test_the_gentlest_context_that_is_enough() -> None:
    tight = setup(130_000_000)
    assert not tight.fits
    lever = levers(tight)[0]
    assert lever.change == "context_length 8192 -> 4096"
    assert lever.saved_bytes == 4096 * (2 * 16 * 2 * 32 * 4 + 32 * 4)  # the cache, rotary rows
    changes, fitted = way_to_fit(tight)
    assert changes == ["context_length 8192 -> 4096"]
    assert fitted.fits


def test_every_lever_has_its_own_saving() -> None:
    tight = setup(80_000_000, head_bits=8, embedding=False)
    changes = [lever.change for lever in levers(tight)]
    assert changes == [
        "context_length 8192 -> 512",
        "quantization.head_bits 8 -> 4",
        "quantization.block_size 32 -> 128",
    ]
    assert all(lever.saved_bytes > 0 for lever in levers(tight))


def test_several_changes_together() -> None:
    changes, fitted = way_to_fit(setup(94_000_000, head_bits=8))
    assert changes == ["context_length 8192 -> 512", "quantization.head_bits 8 -> 4"]
    assert fitted.fits


def test_no_change_is_enough() -> None:
    _, changed = way_to_fit(setup(1_000_000))
    assert not changed.fits


def test_ranks_and_numbers_of_adapters_are_levers(
    tiny_base: Path, alpha_adapter: Path, beta_adapter: Path, tmp_path: Path
) -> None:
    own = tmp_path / "watch.yaml"
    own.write_text("extends: cpu\nname: watch\nmemory_budget_bytes: 1000000\n", encoding="utf-8")
    with pytest.raises(BuildError) as caught:
        check_inputs(
            name="b",
            base=str(tiny_base),
            output=tmp_path / "b",
            targets=(str(own), "cpu"),
            adapters={
                "alpha": AdapterSource(path=alpha_adapter),
                "beta": AdapterSource(path=beta_adapter),
            },
            max_nll_increase=None,
            parity=True,
            assume_base=False,
            overwrite=False,
        )
    message = str(caught.value)
    assert re.search(
        r"\n    adapters.max_rank 8 -> 4 \(adapters of that rank\) saves 0\.\d MiB", message
    )
    assert "\n    adapters 2 -> 1 saves " in message
    assert "\n    all of these together still need 65." in message
    assert message.endswith("Take a smaller base, or the changes above in a profile of your own.")


def test_the_savings_add_up(tiny_base: Path) -> None:
    shape = shape_of(resolve_base(str(tiny_base)))
    profile = load_target("cpu-fast").model_copy(update={"memory_budget_bytes": 1})
    whole = Setup(shape=shape, profile=profile, adapters={})
    (block,) = [lever for lever in levers(whole) if "block_size" in lever.change]
    _, changed = way_to_fit(whole)
    assert whole.needed_bytes - changed.needed_bytes == block.saved_bytes
