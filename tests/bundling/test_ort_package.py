"""A bundle as ONNX Runtime's model package, read by ONNX Runtime itself."""

import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import onnxruntime
import pytest

from edgekit.building.build import build
from edgekit.bundling.adapters import AdapterSource
from edgekit.bundling.export import export
from edgekit.cli import main
from edgekit.errors import BuildError
from edgekit_runtime import Bundle
from tests.static.profiles import write_profile


@pytest.fixture(scope="module")
def bundle(tiny_base: Path, beta_adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two targets that share their weights, one with its own, one of fixed shape; unchecked."""
    directory = tmp_path_factory.mktemp("targets")
    build(
        name="tiny",
        base=str(tiny_base),
        output=directory / "bundle",
        targets=("cpu-fast", "openvino", "cuda", str(write_profile(directory))),
        adapters={"beta": AdapterSource(path=beta_adapter)},
        quantization="tier=fast",
        parity=False,
    )
    return directory / "bundle"


@pytest.fixture(scope="module")
def package(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All targets but the one of fixed shape."""
    output = tmp_path_factory.mktemp("exported") / "tiny.ortpackage"
    report = export(bundle, output, format="ortpackage")
    assert report.targets == ("cpu-fast", "cuda", "openvino")
    assert report.left_out == ("static",)
    return output


def read(package: Path) -> subprocess.CompletedProcess[str]:
    """Let ONNX Runtime open it, in a process of its own."""
    command = [sys.executable, "-m", "tests.bundling.model_package", str(package)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.skipif(sys.platform != "linux", reason="finds the library by its Linux name")
def test_onnx_runtime_opens_the_package(package: Path, tmp_path: Path) -> None:
    done = read(package)
    assert done.returncode == 0, done.stderr
    session = onnxruntime.InferenceSession(_flat(package, tmp_path))
    n_inputs = len(session.get_inputs())
    assert json.loads(done.stdout) == {"variant": "cpu-fast", "n_inputs": n_inputs}


@pytest.mark.skipif(sys.platform != "linux", reason="finds the library by its Linux name")
def test_a_package_without_its_weights_is_refused(bundle: Path, tmp_path: Path) -> None:
    """So ONNX Runtime does look for the shared asset by the name that the variants give."""
    export(bundle, tmp_path / "p", format="ortpackage", target="cpu-fast")
    (asset,) = (tmp_path / "p" / "shared_assets").iterdir()
    asset.rename(asset.with_name("sha256-" + "0" * 64))
    done = read(tmp_path / "p")
    assert done.returncode == 1
    assert "Asset URI not declared" in done.stderr


def _flat(package: Path, folder: Path) -> str:
    """A variant's graph beside the weights."""
    (asset,) = (package / "shared_assets").iterdir()
    for file in (*asset.iterdir(), package / "model" / "cpu-fast" / "model.onnx"):
        (folder / file.name).write_bytes(file.read_bytes())
    return str(folder / "model.onnx")


def test_weights_are_stored_once_and_named_by_their_content(package: Path, bundle: Path) -> None:
    (asset,) = (package / "shared_assets").iterdir()
    stored = {file.name: file.read_bytes() for file in asset.iterdir()}
    weights = {path.name: path.read_bytes() for path in (bundle / "weights").iterdir()}
    assert stored == {name: weights[name] for name in stored}
    lines = [f"{sha256(stored[name]).hexdigest()}  {name}\n" for name in sorted(stored)]
    assert asset.name == "sha256-" + sha256("".join(lines).encode()).hexdigest()
    for variant in (package / "model").glob("*/genai_config.json"):
        options = json.loads(variant.read_text())["model"]["decoder"]["session_options"]
        folder = options["session.model_external_initializers_file_folder_path"]
        assert folder == asset.name.replace("-", ":", 1)


def test_adapters_lie_beside_and_the_manifest_says_which_is_whose(
    package: Path, bundle: Path
) -> None:
    manifest = json.loads((package / "manifest.json").read_text())
    told = manifest["additional_metadata"]
    with Bundle.open(bundle) as opened:
        files = opened.manifest.adapters["beta"].files
        assert told["bundle"] == opened.manifest.digest
        provider = opened.manifest.targets["cuda"].execution_provider
    assert told["adapters"] == {"beta": {name: files[name] for name in files if name != "static"}}
    for path in told["adapters"]["beta"].values():
        assert (package / path).read_bytes() == (bundle / path).read_bytes()
    component = json.loads((package / "model" / "component.json").read_text())
    assert component["variants"]["cuda"]["ep"] == provider


def test_one_target_may_be_asked_for_but_not_one_of_fixed_shape(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = export(bundle, tmp_path / "one", format="ortpackage", target="cuda")
    assert (report.targets, report.left_out) == (("cuda",), ())
    with pytest.raises(BuildError, match="'static' has graphs of fixed shape"):
        export(bundle, tmp_path / "none", format="ortpackage", target="static")
    assert not (tmp_path / "none").exists()
    given = ["bundle", "export", str(bundle), "-o", str(tmp_path / "all")]
    assert main([*given, "--format", "ortpackage"]) == 0
    assert "of fixed shape: static" in capsys.readouterr().out
