"""Adding and removing adapters: the base is never touched, and nothing is ever half done."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.building.build import build
from edgekit.building.dequantize import quantized_weights
from edgekit.building.sessions import TargetSessions
from edgekit.building.weights import load_graph
from edgekit.bundling import edit
from edgekit.bundling.adapters import AdapterSource
from edgekit.bundling.edit import add_adapter, remove_adapter
from edgekit.errors import BaseModelError, BuildError, ParityError, PeftAdapterError
from edgekit.targets import targets_dir
from edgekit_runtime.bundle import Bundle
from edgekit_runtime.contract import SocketContract
from edgekit_runtime.digests import sha256_of_file
from edgekit_runtime.errors import BundleError
from tests.runtime.bundle_edits import seal
from tests.tiny_models import make_tiny_model

# As somebody who never heard of edgekit would write it.
PLAIN_PEFT = """
import sys, torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
torch.manual_seed(11)
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
model = get_peft_model(model, LoraConfig(r=3, lora_alpha=9, target_modules=["k_proj", "up_proj"]))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
for _ in range(5):
    ids = torch.randint(3, 300, (2, 24))
    model(input_ids=ids, labels=ids).loss.backward(), optimizer.step(), optimizer.zero_grad()
model.save_pretrained(sys.argv[2])
"""


def files_of(bundle: Path) -> dict[str, str]:
    return {
        path.relative_to(bundle).as_posix(): sha256_of_file(path)
        for path in sorted(bundle.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def bundle(built_tiny_bundle: Path, tmp_path: Path) -> Path:
    """A bundle to change: alpha and beta in it."""
    return shutil.copytree(built_tiny_bundle, tmp_path / "bundle")


@pytest.fixture(scope="module")
def plain_peft(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained for five steps by plain peft code; its B is no longer zero."""
    path = tmp_path_factory.mktemp("plain") / "adapter"
    command = [sys.executable, "-c", PLAIN_PEFT, tiny_base, path]
    subprocess.run(command, check=True, capture_output=True)
    return path


def add(bundle: Path, base: Path, path: Path, name: str = "gamma", **options: Any) -> Any:
    return add_adapter(bundle, name, AdapterSource(path=path), base=str(base), **options)


def test_plain_peft_is_added_and_changes_no_file_of_the_base(
    bundle: Path, tiny_base: Path, plain_peft: Path
) -> None:
    before = files_of(bundle)
    figures = add(bundle, tiny_base, plain_peft)["cpu"]
    after = files_of(bundle)
    assert set(before) <= set(after)
    assert {path for path in after if after[path] != before.get(path)} == {
        "manifest.json",
        "adapters/gamma/adapter.json",
        "adapters/gamma/float32.onnx_adapter",
    }
    opened = Bundle.open(bundle, verify="full")
    assert opened.verify() == []
    assert opened.adapter_card("gamma").r == 3
    assert opened.manifest.targets["cpu"].verified_on is not None
    assert figures.exact_mean_kl < 1e-6
    assert figures.effect_kl > 0.1


def test_plain_peft_has_pefts_logits_on_the_same_weights(
    bundle: Path, tiny_base: Path, plain_peft: Path
) -> None:
    """The gate's own comparison, made again with nothing of the gate."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    add(bundle, tiny_base, plain_peft, parity=False)
    target = bundle / "targets" / "cpu"
    contract = SocketContract.from_dict(json.loads((target / "sockets.json").read_text()), [])
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    weights = quantized_weights(load_graph(target / "score.onnx"), contract)
    model.load_state_dict(
        {name: torch.from_numpy(weight.values) for name, weight in weights.items()}, strict=False
    )
    model = PeftModel.from_pretrained(model, str(plain_peft)).eval()
    row = list(range(5, 45))
    with torch.no_grad():
        expected = model(torch.tensor([row])).logits[0].numpy()
    sessions = TargetSessions(target, threads=1)
    logits = sessions.exact(row, bundle / "adapters" / "gamma" / "float32.onnx_adapter")
    np.testing.assert_allclose(logits, expected, atol=1e-3)
    assert np.abs(sessions.exact(row, None) - expected).max() > 1


def test_adding_without_the_gate_marks_the_bundle_as_unchecked(
    bundle: Path, tiny_base: Path, beta_adapter: Path
) -> None:
    assert add(bundle, tiny_base, beta_adapter, parity=False) == {}
    opened = Bundle.open(bundle, verify="full")
    assert opened.verify() == []
    assert opened.manifest.targets["cpu"].verified_on is None
    raw = json.loads((bundle / "adapters/gamma/adapter.json").read_text())
    assert raw["parity"] == {}


def test_adding_gives_what_building_with_it_gives(
    tiny_base: Path, alpha_adapter: Path, beta_adapter: Path, bundle: Path, tmp_path: Path
) -> None:
    build(
        name="tiny",
        base=str(tiny_base),
        output=tmp_path / "grown",
        adapters={"alpha": AdapterSource(path=alpha_adapter)},
        quantization="tier=fast",
    )
    add(tmp_path / "grown", tiny_base, beta_adapter, name="beta")
    assert files_of(tmp_path / "grown") == files_of(bundle)


def test_removing_leaves_a_sound_bundle_without_it(bundle: Path) -> None:
    before = files_of(bundle)
    remove_adapter(bundle, "alpha")
    opened = Bundle.open(bundle, verify="full")
    assert opened.verify() == []
    assert list(opened.manifest.adapters) == ["beta"]
    after = files_of(bundle)
    assert {path for path in before if before[path] != after.get(path)} == {
        "manifest.json",
        "adapters/alpha/adapter.json",
        "adapters/alpha/float32.onnx_adapter",
    }


def test_add_and_remove_is_where_it_began(
    bundle: Path, tiny_base: Path, beta_adapter: Path
) -> None:
    before = files_of(bundle)
    add(bundle, tiny_base, beta_adapter)
    remove_adapter(bundle, "gamma")
    assert files_of(bundle) == before


def test_a_bundle_of_a_newer_edgekit_is_not_changed(bundle: Path) -> None:
    seal(bundle, lambda value: value.update(schema_version="1.9"))
    before = files_of(bundle)
    with pytest.raises(BuildError, match=r"has version 1\.9, this edgekit writes 1\.1"):
        remove_adapter(bundle, "alpha")
    assert files_of(bundle) == before


def test_removing_an_unknown_adapter_names_the_near_one(bundle: Path) -> None:
    with pytest.raises(BuildError, match="no adapter 'alhpa'; did you mean 'alpha'"):
        remove_adapter(bundle, "alhpa")


def broken_half(directory: Path, beta_adapter: Path) -> Path:
    from safetensors.numpy import load_file, save_file

    path = shutil.copytree(beta_adapter, directory / "broken")
    tensors = load_file(path / "adapter_model.safetensors")
    del tensors[min(tensors)]
    save_file(tensors, path / "adapter_model.safetensors")
    return path


def test_a_failing_add_leaves_the_bundle_byte_identical(
    bundle: Path,
    tiny_base: Path,
    beta_adapter: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = files_of(bundle)
    with pytest.raises(PeftAdapterError, match="missing, its other half is there"):
        add(bundle, tiny_base, broken_half(tmp_path, beta_adapter))
    assert files_of(bundle) == before

    def fail(*_: object, **__: object) -> None:
        raise ParityError("the parity gate failed")

    monkeypatch.setattr(edit, "check_parity", fail)
    with pytest.raises(ParityError):
        add(bundle, tiny_base, beta_adapter)
    assert files_of(bundle) == before
    assert not (bundle / "adapters" / "gamma").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("alpha", "has an adapter 'alpha' already\nRemove it first: edgekit bundle remove "),
        ("Alpha", "'Alpha': differs from another adapter's name in case only"),
        ("../out", "'../out': expected letters, digits"),
        ("base", "'base': means the base without an adapter"),
    ],
)
def test_a_name_that_cannot_be(
    name: str, message: str, bundle: Path, tiny_base: Path, beta_adapter: Path
) -> None:
    before = files_of(bundle)
    with pytest.raises(BuildError) as caught:
        add(bundle, tiny_base, beta_adapter, name=name)
    assert message in str(caught.value)
    assert files_of(bundle) == before


def test_another_base_is_refused(bundle: Path, beta_adapter: Path, tmp_path: Path) -> None:
    other = make_tiny_model(tmp_path / "other", seed=5)
    with pytest.raises(BaseModelError) as caught:
        add(bundle, other, beta_adapter)
    assert str(caught.value).startswith("'other' is not the base of this bundle:\n  fingerprint: ")
    assert "('tiny-llama')" in str(caught.value)


def test_a_base_that_is_not_found_asks_for_it(bundle: Path, beta_adapter: Path) -> None:
    with pytest.raises(BaseModelError) as caught:
        add_adapter(bundle, "gamma", AdapterSource(path=beta_adapter))
    assert str(caught.value).startswith(
        "the bundle's base 'tiny-llama' (dir:tiny-llama) was not found:\n"
    )
    assert str(caught.value).endswith("\nSay where it is with --base.")


def test_a_changed_bundle_is_not_built_upon(
    bundle: Path, tiny_base: Path, beta_adapter: Path
) -> None:
    data = bundle / "weights" / "cpu.data"
    content = bytearray(data.read_bytes())
    content[100] ^= 1
    data.write_bytes(content)
    with pytest.raises(BundleError, match=r"weights/cpu\.data: expected sha256:"):
        add(bundle, tiny_base, beta_adapter)


def test_a_bundle_of_an_own_profile_can_be_added_to_under_its_own_bounds(
    tiny_base: Path, alpha_adapter: Path, tmp_path: Path
) -> None:
    profile = tmp_path / "mine.yaml"
    text = (targets_dir() / "cpu.yaml").read_text(encoding="utf-8")
    profile.write_text(text.replace("name: cpu", "name: mine"), encoding="utf-8")
    output = tmp_path / "bundle"
    build(
        name="b", base=str(tiny_base), output=output, targets=(str(profile),), max_nll_increase=9.0
    )
    profile.unlink()
    assert list(add(output, tiny_base, alpha_adapter)) == ["mine"]
    strict = json.loads((output / "reports" / "parity.json").read_text())["mine"]["bounds"]
    assert strict["max_nll_increase"] == 9.0


ADD_AND_DIE = """
import os, signal, sys
from pathlib import Path
from edgekit.bundling import edit
from edgekit.bundling.adapters import AdapterSource

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

edit.replace_file = die
edit.add_adapter(
    Path(sys.argv[1]), "gamma", AdapterSource(path=Path(sys.argv[3])), base=sys.argv[2],
    parity=False,
)
"""


def test_a_kill_before_the_switch_leaves_a_bundle_that_opens_and_the_next_edit_sweeps(
    bundle: Path, tiny_base: Path, beta_adapter: Path
) -> None:
    before = files_of(bundle)
    command = [sys.executable, "-c", ADD_AND_DIE, bundle, tiny_base, beta_adapter]
    done = subprocess.run(command)
    assert done.returncode == -signal.SIGKILL
    assert (bundle / "adapters" / "gamma" / "adapter.json").is_file()
    assert list(Bundle.open(bundle, verify="full").manifest.adapters) == ["alpha", "beta"]
    (bundle / ".manifest.json.tmp").write_text("half a manif")
    remove_adapter(bundle, "beta")
    assert Bundle.open(bundle).verify() == []
    kept = {path for path in before if not path.startswith("adapters/beta/")}
    assert set(files_of(bundle)) == kept


def test_an_interrupt_just_after_the_switch_keeps_the_added_adapter(
    bundle: Path, tiny_base: Path, beta_adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_file: Callable[[Path, bytes], None] = edit.replace_file

    def replace_and_interrupt(path: Path, data: bytes) -> None:
        replace_file(path, data)
        raise KeyboardInterrupt

    monkeypatch.setattr(edit, "replace_file", replace_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        add(bundle, tiny_base, beta_adapter, parity=False)
    opened = Bundle.open(bundle, verify="full")
    assert "gamma" in opened.manifest.adapters
    assert opened.verify() == []


def test_two_adds_at_once_lose_none(
    bundle: Path, tiny_base: Path, beta_adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second reads the manifest only when it may change it, so it is refused, not stale."""
    refusals: list[str] = []
    switch: Any = edit._switch

    def add_another_meanwhile(*arguments: Any) -> None:
        def second() -> None:
            try:
                add(bundle, tiny_base, beta_adapter, name="second", parity=False)
            except BuildError as err:
                refusals.append(err.what)

        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        switch(*arguments)

    monkeypatch.setattr(edit, "_switch", add_another_meanwhile)
    add(bundle, tiny_base, beta_adapter, name="first", parity=False)
    assert refusals == [f"another edgekit is changing '{bundle}'"]
    assert "first" in Bundle.open(bundle, verify="full").manifest.adapters


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_bundle_that_may_not_be_written_is_refused(
    bundle: Path, tiny_base: Path, beta_adapter: Path
) -> None:
    (bundle / "adapters").chmod(0o555)
    with pytest.raises(BuildError, match=r"cannot be changed: .*Permission denied"):
        add(bundle, tiny_base, beta_adapter, parity=False)


def test_no_bundle(tmp_path: Path, tiny_base: Path, beta_adapter: Path) -> None:
    with pytest.raises(BundleError, match="is not a bundle"):
        add(tmp_path, tiny_base, beta_adapter)


def test_for_target_falls_back_to_the_default() -> None:
    by_target: Mapping[str, Path] = {"cuda": Path("b")}
    source = AdapterSource(path=Path("a"), by_target=by_target)
    assert (source.for_target("cuda"), source.for_target("cpu")) == (Path("b"), Path("a"))
