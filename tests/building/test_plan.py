"""A dry run says what a build would do, and does none of it."""

import json
from pathlib import Path

import pytest

from edgekit.bases import default_cache_dir, resolve_base
from edgekit.building.base_shape import shape_of
from edgekit.building.build import build
from edgekit.building.export import export_base
from edgekit.building.plan import plan_build
from edgekit.bundling.adapters import AdapterSource
from edgekit.cli import main
from edgekit.quantizing.options import change
from edgekit.quantizing.quantize import quantize_base, quantized_path
from edgekit.target_checks import check_target
from edgekit.targets import load_target

TARGETS = ("cpu", "cuda", "directml", "openvino")


@pytest.fixture
def adapters(alpha_adapter: Path, beta_adapter: Path) -> dict[str, AdapterSource]:
    return {
        "alpha": AdapterSource(path=alpha_adapter),
        "beta": AdapterSource(path=beta_adapter, by_target={"openvino": beta_adapter}),
    }


def test_what_targets_share_is_counted_once(
    tiny_base: Path, adapters: dict[str, AdapterSource], tmp_path: Path
) -> None:
    plan = plan_build(
        name="p", base=str(tiny_base), output=tmp_path / "b", targets=TARGETS, adapters=adapters
    )
    steps = {target.name: "\n".join(target.steps) for target in plan.targets}
    assert "weights of their own" in steps["cpu"]
    assert "the weights of 'cpu', its own scales" in steps["cuda"]
    assert "the weights of 'cuda'" in steps["directml"]
    assert "int4 graph: the export of 'cpu'" in steps["openvino"]
    assert "the weights of 'cpu'" in steps["openvino"]
    assert "adapter 'alpha': the file of 'cpu'" in steps["openvino"]
    assert "adapter 'beta': converted to float32" in steps["openvino"]  # one of its own
    assert "adapter 'alpha': converted to float16" in steps["directml"]
    assert "parity gate on CPU: the base, 2 adapters" in steps["cuda"]
    assert not (tmp_path / "b").exists()


def test_targets_of_equal_graphs_and_adapters_are_verified_once(
    tiny_base: Path, alpha_adapter: Path, tmp_path: Path
) -> None:
    plan = plan_build(
        name="p",
        base=str(tiny_base),
        output=tmp_path / "b",
        targets=("cpu", "openvino"),
        adapters={"alpha": AdapterSource(path=alpha_adapter)},
    )
    assert plan.targets[1].steps[-1] == (
        "parity gate: its graphs are those of 'cpu', checked there"
    )
    assert plan.targets[1].check.verified_on == "CPUExecutionProvider"
    assert plan.targets[1].seconds < plan.targets[0].seconds


def test_the_plan_of_what_was_built(
    tiny_base: Path, adapters: dict[str, AdapterSource], tmp_path: Path
) -> None:
    """After a build its export is in the cache, and the sizes are those that were planned."""
    asked = {
        "name": "p",
        "base": str(tiny_base),
        "targets": ("cpu",),
        "adapters": adapters,
        "parity": False,
    }
    report = build(output=tmp_path / "b", **asked)
    plan = plan_build(output=tmp_path / "b", overwrite=True, **asked)
    (target,) = plan.targets
    assert target.steps[0] == "int4 graph: from the cache"
    assert target.steps[-1] == "no parity gate: the target is marked as unchecked"
    sizes = {file.path: file.size_bytes for file in report.manifest.files}
    assert target.weights_bytes == pytest.approx(sizes["weights/cpu.data"], rel=0.05)
    assert plan.bundle_bytes == pytest.approx(report.size_bytes, rel=0.2)


def test_what_a_build_refuses_a_dry_run_refuses_too(
    tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "watch.yaml"
    own.write_text("extends: cpu\nname: watch\nmemory_budget_bytes: 1000000\n", encoding="utf-8")
    line = ["build", "--base", str(tiny_base), "--target", str(own), "-o", str(tmp_path / "b")]
    assert main([*line, "--dry-run"]) == 1
    refused = capsys.readouterr().err
    assert main(line) == 1
    assert capsys.readouterr().err == refused
    assert "error: base 'tiny-llama' does not fit:" in refused


def test_the_command_writes_nothing(
    tiny_base: Path,
    alpha_adapter: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def written() -> set[Path]:
        return {path for place in (tmp_path, default_cache_dir()) for path in place.rglob("*")}

    line = ["build", "--base", str(tiny_base), "--adapter", f"alpha={alpha_adapter}"]
    line += ["--target", "cpu", "--target", "cuda", "-o", str(tmp_path / "b"), "--dry-run"]
    before = written()
    assert main([*line, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert list(plan["targets"]) == ["cpu", "cuda"]
    memory = plan["targets"]["cuda"]["memory"]
    assert memory.pop("total_bytes") == sum(memory.values())
    check = check_target(load_target("cuda")).to_dict()
    assert {key: plan["targets"]["cuda"][key] for key in check} == check
    assert main(line) == 0
    out = capsys.readouterr().out
    assert "target cuda\n  1. int4 graph: " in out
    assert out.rstrip().endswith("Nothing was built.")
    assert written() == before


def test_the_plan_fits_a_narrow_terminal(
    tiny_base: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    asked = ["--base", str(tiny_base), "-o", str(tmp_path / "b"), "--dry-run"]
    assert main(["build", *asked, *(word for name in TARGETS for word in ("--target", name))]) == 0
    _, tables = capsys.readouterr().out.split("\nSizes on the disk")
    assert "…" not in tables
    assert all(len(line) <= 80 for line in tables.splitlines())
    # Each target has one line in each of two tables.
    rows = [line.split()[0] for line in tables.splitlines() if line.strip()]
    assert [word for word in rows if word in TARGETS] == [*TARGETS, *TARGETS]


def test_calibration_is_a_step_that_is_done_once(tiny_base: Path, tmp_path: Path) -> None:
    def planned(*targets: str, rows: int = 72, parity: bool = True) -> list[list[str]]:
        plan = plan_build(
            name="p",
            base=str(tiny_base),
            output=tmp_path / "b",
            targets=targets,
            quantization=f"algorithm=gptq,calibration.rows={rows},calibration.row_tokens=32",
            parity=parity,
        )
        calibrate = "calibrate: "
        return [[step for step in one.steps if calibrate in step] for one in plan.targets]

    assert planned("cpu", "cuda") == [
        ["calibrate: gptq, 72 rows of 32 tokens, about 10 s on one core"],
        ["calibrate: the weights of 'cpu'"],
    ]
    options = change(
        load_target("cpu").quantization,
        "algorithm=gptq,calibration.rows=8,calibration.row_tokens=32",
    )
    base = resolve_base(str(tiny_base))
    quantize_base(base, options)
    assert planned("cpu", rows=8) == [["calibrate: weights from the cache"]]
    export_base(base, load_target("cpu").model_copy(update={"quantization": options}))
    assert planned("cpu", rows=8, parity=False) == [[]]
    # The gate compares with them, so it would make them again.
    quantized_path(base, options).unlink()
    assert planned("cpu", rows=8)[0][0].startswith("calibrate: gptq")


def test_calibration_takes_time_by_the_bases_size(tiny_base: Path, tmp_path: Path) -> None:
    asked = {"name": "p", "base": str(tiny_base), "output": tmp_path / "b", "targets": ("cpu",)}
    plain = plan_build(**asked, quantization="tier=fast")
    calibrated = plan_build(**asked, quantization="algorithm=gptq,calibration.rows=100000")
    n_weights = shape_of(resolve_base(str(tiny_base))).n_weights
    assert calibrated.seconds - plain.seconds == pytest.approx(
        190e-12 * n_weights * 100_000 * 256, rel=0.5
    )
    assert not any("calibrate" in step for step in plain.targets[0].steps)
