"""What a build writes, and what it refuses before it does any work."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekit.building import build as build_module
from edgekit.building.build import build
from edgekit.building.export import SUPPORTED_ARCHITECTURES
from edgekit.bundling.adapters import AdapterSource
from edgekit.errors import BaseModelError, BuildError, PeftAdapterError, RecipeError
from edgekit.targets import targets_dir
from edgekit_runtime.bundle import Bundle
from edgekit_runtime.digests import sha256_of_file
from tests.tiny_models import make_tiny_model


def files_of(bundle: Path) -> dict[str, str]:
    return {
        path.relative_to(bundle).as_posix(): sha256_of_file(path)
        for path in sorted(bundle.rglob("*"))
        if path.is_file()
    }


def test_what_the_gate_checked_is_what_the_manifest_lists(
    tiny_base: Path, alpha_adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: dict[str, str] = {}
    check = build_module.check_parity

    def note_and_check(target: Path, *args: Any, **options: Any) -> Any:
        figures = check(target, *args, **options)
        checked.update(files_of(target.parent.parent))
        return figures

    monkeypatch.setattr(build_module, "check_parity", note_and_check)
    report = build(
        name="checked",
        base=str(tiny_base),
        output=tmp_path / "bundle",
        adapters={"alpha": AdapterSource(path=alpha_adapter)},
    )
    listed = {file.path: file.digest for file in report.manifest.files}
    computed_with = {
        path
        for path in checked
        if path.startswith(("targets/", "weights/")) or path.endswith(".onnx_adapter")
    }
    assert {"weights/cpu.data", "adapters/alpha/float32.onnx_adapter"} <= computed_with
    assert {path: listed[path] for path in computed_with} == {
        path: checked[path] for path in computed_with
    }
    assert listed | {"manifest.json": "-"} == files_of(report.output) | {"manifest.json": "-"}


@pytest.fixture(scope="module")
def again(
    tiny_base: Path,
    alpha_adapter: Path,
    beta_adapter: Path,
    built_tiny_bundle: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """What built_tiny_bundle is, from copies elsewhere, with an empty cache, at another time.

    In another working directory too: the model builder writes the commit of the repository that
    it is started in into its graph.
    """
    directory = tmp_path_factory.mktemp("again")
    base = shutil.copytree(tiny_base, directory / "elsewhere" / tiny_base.name)
    adapters = {
        "alpha": shutil.copytree(alpha_adapter, directory / "a"),
        "beta": shutil.copytree(beta_adapter, directory / "b"),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKIT_CACHE", str(directory / "cache"))
        patch.chdir(directory)
        build(
            name="tiny",
            base=str(base),
            output=directory / "output" / "another-name",
            adapters={name: AdapterSource(path=path) for name, path in adapters.items()},
            quantization="tier=fast",
        )
    return directory / "output" / "another-name"


def test_the_same_inputs_give_the_same_bytes(again: Path, built_tiny_bundle: Path) -> None:
    assert files_of(again) == files_of(built_tiny_bundle)


def test_no_file_holds_a_path_a_host_or_a_date(
    again: Path, tiny_base: Path, alpha_adapter: Path
) -> None:
    import platform

    own = [again.parent, tiny_base.parent, alpha_adapter.parent, Path.home() / ".cache"]
    words = [str(path).encode() for path in own] + [b"/tmp/"]
    # In a text; a host's name can be so short that it stands in any weight file.
    told = re.compile(rf"20[2-3]\d-[01]\d-[0-3]\d|\b{re.escape(platform.node())}\b".encode())
    for path in again.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert not [word for word in words if word in data], path
            assert path.suffix not in {".json", ".txt"} or not told.search(data), path


def test_the_card_says_what_was_trained_and_measured(built_tiny_bundle: Path) -> None:
    with Bundle.open(built_tiny_bundle) as bundle:
        card = bundle.adapter_card("alpha")
        beta = bundle.adapter_card("beta")
    assert (card.r, card.lora_alpha, card.binding, card.license) == (4, 8, "recorded", "apache-2.0")
    assert card.recipe["prompt"] == "Q: {text}\nA:"
    assert card.defaults == {"max_new_tokens": 8}
    assert card.metrics == {"exact_match": 0.5}
    assert card.examples == ("Q: where is my card\nA:", "Q: turn on the light\nA:")
    assert (beta.binding, beta.prompt_template) == ("assumed", None)
    assert beta.target_modules == ("down_proj", "q_proj", "v_proj")
    raw = json.loads((built_tiny_bundle / "adapters/alpha/adapter.json").read_text())
    assert raw["parity"]["cpu"]["exact_mean_kl"] < 1e-6


def test_without_the_gate_the_bundle_says_that_it_is_unchecked(
    tiny_base: Path, tmp_path: Path
) -> None:
    report = build(name="u", base=str(tiny_base), output=tmp_path / "bundle", parity=False)
    assert report.parity == {}
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    assert manifest["targets"]["cpu"]["verified_on"] is None
    assert json.loads((tmp_path / "bundle/reports/parity.json").read_text())["cpu"]["base"] is None


def test_it_prints_nothing_and_tells_its_steps(
    tiny_base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    steps: list[str] = []
    build(
        name="q",
        base=str(tiny_base),
        output=tmp_path / "bundle",
        parity=False,
        on_message=steps.append,
    )
    assert capfd.readouterr() == ("", "")
    assert steps == [
        f"resolving the base '{tiny_base}'",
        "target 'cpu'",
        "int4 graph found in the cache",
        "adding sockets",
        "writing the manifest",
    ]


def test_sources_override_prompt_defaults_and_license(
    tiny_base: Path, alpha_adapter: Path, tmp_path: Path
) -> None:
    source = AdapterSource(
        path=alpha_adapter, prompt="Ask {text}", defaults={"temperature": 0.5}, license="MIT"
    )
    output = tmp_path / "bundle"
    build(name="o", base=str(tiny_base), output=output, adapters={"a": source}, parity=False)
    card = Bundle.open(output).adapter_card("a")
    assert (card.prompt_template, card.license) == ("Ask {text}", "MIT")
    assert card.defaults == {"max_new_tokens": 8, "temperature": 0.5}


def test_the_bases_license_comes_along(tmp_path: Path) -> None:
    base = make_tiny_model(tmp_path / "base")
    (base / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    (base / "LICENSE").write_text("do what you want")
    build(name="l", base=str(base), output=tmp_path / "bundle", parity=False)
    licenses = tmp_path / "bundle" / "licenses"
    assert (licenses / "LICENSES.txt").read_text() == "base base: mit\n"
    assert (licenses / "base-LICENSE").read_text() == "do what you want"
    assert Bundle.open(tmp_path / "bundle").manifest.base.license == "mit"


def refused(kind: type[Exception], output: Path, **arguments: Any) -> str:
    """The message of a build that must fail before it leaves anything."""
    before = sorted(output.parent.iterdir())
    with pytest.raises(kind) as caught:
        build(**{"name": "refused", "output": output} | arguments)
    assert sorted(output.parent.iterdir()) == before
    return str(caught.value)


def test_an_existing_output_is_refused_and_kept(tiny_base: Path, tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    output.mkdir()
    (output / "mine.txt").write_text("precious")
    message = refused(BuildError, output, base=str(tiny_base), targets=("cpu-fast",))
    assert message == f"the output '{output}' exists\nGive another -o, or say --overwrite."
    message = refused(BuildError, output, base=str(tiny_base), overwrite=True)
    assert message.startswith(f"the output '{output}' is no bundle: it is not overwritten")
    assert (output / "mine.txt").read_text() == "precious"


def test_overwrite_replaces_a_bundle(tiny_base: Path, tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    for release in ("1.0.0", "2.0.0"):
        build(
            name="o",
            base=str(tiny_base),
            output=output,
            release=release,
            parity=False,
            overwrite=True,
        )
    assert Bundle.open(output).manifest.version == "2.0.0"
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize("parent", ["file", "file/deeper"])
def test_an_output_below_a_file_is_refused(parent: str, tiny_base: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BuildError, match=r"cannot be written to: .*\nGive another -o"):
        build(name="f", base=str(tiny_base), output=tmp_path / parent / "bundle", parity=False)


def test_bad_names_are_listed_together(tiny_base: Path, tmp_path: Path) -> None:
    adapters = dict.fromkeys(
        ["ok", "../up", "base", "a b", "Twin", "twin", "dot."], AdapterSource(path=tmp_path)
    )
    message = refused(
        BuildError, tmp_path / "b", name=".hidden", base=str(tiny_base), adapters=adapters
    )
    assert message.splitlines() == [
        "bad bundle or adapter name:",
        *(
            f"  {name!r}: expected letters, digits, '.', '_', '-', at most 64"
            for name in (".hidden", "../up", "a b", "dot.")
        ),
        "  'base': means the base without an adapter",
        "  'Twin': differs from another adapter's name in case only",
        "  'twin': differs from another adapter's name in case only",
    ]


def change_config(base: Path, **values: Any) -> None:
    file = base / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_an_unsupported_architecture_names_the_supported_ones(
    tiny_base: Path, tmp_path: Path
) -> None:
    base = shutil.copytree(tiny_base, tmp_path / "mamba")
    change_config(base, architectures=["MambaForCausalLM"])
    message = refused(BuildError, tmp_path / "b", base=str(base))
    assert message == (
        "base 'mamba' has the architecture MambaForCausalLM, which cannot be built yet\n"
        f"Supported: {', '.join(SUPPORTED_ARCHITECTURES)}."
    )


def test_a_config_that_makes_no_sense_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    base = shutil.copytree(tiny_base, tmp_path / "odd")
    change_config(base, hidden_size="many")
    message = refused(BaseModelError, tmp_path / "b", base=str(base))
    assert message.startswith("base 'odd': config.json makes no sense: ")


@pytest.fixture
def own_profile(tmp_path: Path) -> Callable[..., Path]:
    def write(**changes: str) -> Path:
        text = (targets_dir() / "cpu.yaml").read_text(encoding="utf-8")
        for key, value in changes.items():
            text, n = re.subn(rf"(?m)^( *{key}:).*$", rf"\1 {value}", text)
            assert n == 1, key
        path = tmp_path / "own.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_a_memory_budget_that_is_too_small(
    tiny_base: Path, own_profile: Callable[..., Path], tmp_path: Path
) -> None:
    profile = own_profile(name="watch", memory_budget_bytes="1048576")
    message = refused(BuildError, tmp_path / "b", base=str(tiny_base), targets=(str(profile),))
    assert message.startswith("base 'tiny-llama' does not fit:\n  target 'watch': needs 65.")
    assert "its memory_budget_bytes is 1.0 MiB\n    quantization.block_size 32 -> 64" in message
    assert not (tmp_path / "b").exists()


def test_too_little_disk_and_memory_are_told_together(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    import psutil

    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=100))
    output = tmp_path / "b"
    message = refused(BuildError, output, base=str(tiny_base), targets=("cpu-fast",))
    assert f"  disk: needs 0.4 MiB at '{output}', 0.0 MiB are free" in message
    assert "  memory: needs about 1.0 MiB to build and check, 0.0 MiB are available" in message


def test_a_disk_that_fills_up_leaves_nothing(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(build_module, "write_manifest", full)
    message = refused(BuildError, tmp_path / "b", base=str(tiny_base), parity=False)
    assert message.startswith("the disk is full: ")


def test_an_unknown_target_names_the_near_one(tiny_base: Path, tmp_path: Path) -> None:
    message = refused(RecipeError, tmp_path / "b", base=str(tiny_base), targets=("cpuu",))
    assert message.startswith("no target 'cpuu'; did you mean 'cpu'")


def test_a_target_named_twice_is_refused(
    tiny_base: Path, own_profile: Callable[..., Path], tmp_path: Path
) -> None:
    targets = ("cpu", str(own_profile()))
    message = refused(BuildError, tmp_path / "b", base=str(tiny_base), targets=targets)
    assert message.startswith("target 'cpu' is named twice")


def test_no_target_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    message = refused(BuildError, tmp_path / "b", base=str(tiny_base), targets=())
    assert message.startswith("no target was named")


def test_the_problems_of_all_adapters_come_together(tiny_base: Path, tmp_path: Path) -> None:
    adapters = {name: AdapterSource(path=tmp_path / name) for name in ("one", "two")}
    message = refused(PeftAdapterError, tmp_path / "b", base=str(tiny_base), adapters=adapters)
    assert message.startswith("2 adapters cannot be used:")
    assert f"adapter 'one': there is no directory '{tmp_path / 'one'}'" in message
    assert f"adapter 'two': there is no directory '{tmp_path / 'two'}'" in message


def test_two_own_profiles_with_an_adapter_for_one_of_them(
    tiny_base: Path,
    alpha_adapter: Path,
    beta_adapter: Path,
    own_profile: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """A float embedding beside a tied int4 head, another block size, and per-target adapters."""
    profile = own_profile(name="fine", block_size="16", embedding="false")
    source = AdapterSource(path=alpha_adapter, by_target={"fine": beta_adapter})
    report = build(
        name="two",
        base=str(tiny_base),
        output=tmp_path / "bundle",
        targets=("cpu", str(profile)),
        adapters={"skill": source},
    )
    assert report.manifest.adapters["skill"].files == {
        "cpu": "adapters/skill/float32.onnx_adapter",
        "fine": "adapters/skill/fine.float32.onnx_adapter",
    }
    assert report.parity["fine"]["skill"].exact_mean_kl < 1e-6
    assert Bundle.open(report.output).verify() == []


def test_a_bound_on_quantization_fails_the_build_and_leaves_nothing(
    tiny_base: Path, tmp_path: Path
) -> None:
    from edgekit.errors import ParityError

    # Calibration would make a random base less sure of itself, and so better at any text.
    message = refused(
        ParityError,
        tmp_path / "b",
        base=str(tiny_base),
        targets=("cpu-fast",),
        max_nll_increase=1e-9,
    )
    assert re.search(r"  base: quantization costs \+0\.\d+ nats a token, bound \+0\.000", message)
