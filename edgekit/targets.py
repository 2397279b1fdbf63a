"""Target profiles: one declarative YAML file per kind of device, in ``targets/``."""

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from edgekit.errors import RecipeError
from edgekit_runtime.errors import nearest

_HERE = Path(__file__).resolve().parent


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Quantization(_Section):
    """How weights are rounded (the model builder's own options)."""

    algorithm: Literal["default", "rtn", "k_quant"] = "default"
    bits: Literal[4, 8] = 4
    head_bits: Literal[4, 8] = 4
    block_size: Literal[16, 32, 64, 128, 256] = 32
    is_symmetric: Literal[True] = True
    accuracy_level: Literal[1, 2, 3, 4] = 4
    embedding: bool = True


class AdapterSupport(_Section):
    """How adapters reach this target."""

    mechanism: Literal["ort_inputs", "static_inputs"] = "ort_inputs"
    max_rank: int = Field(default=256, ge=1)


class StaticGraphs(_Section):
    """Graphs of fixed shape, for compilers that know no other (``builder: static``).

    Attributes:
        chunk_tokens: Tokens that the prefill graph takes at once.
        htp_arch: Version of Qualcomm's Hexagon Tensor Processor, e.g. ``73``; None where the
            graphs run as they are, on the CPU provider.
        soc_model: Qualcomm's number of the chip, as its QNN SDK lists them.
    """

    chunk_tokens: int = Field(default=64, ge=2, le=512)
    htp_arch: str | None = None
    soc_model: str | None = None

    def provider_options(self) -> dict[str, str]:
        """Options of ONNX Runtime's QNN provider."""
        options = {"htp_arch": self.htp_arch, "soc_model": self.soc_model}
        return {key: value for key, value in options.items() if value is not None}


class ParityBounds(_Section):
    """What the parity gate demands; see docs/concepts.md.

    Attributes:
        max_weight_error_steps: How far a weight may lie from its float original, in quantization
            steps: half a step by rounding, one where symmetric int4 ends at +7, more where
            k_quant cuts off an end of a block.
        max_nll_increase: Nats a token that quantization may cost; None leaves it open.
        compiled_positions: Token positions that are run on graphs compiled for an NPU, with and
            without each adapter; a simulator takes seconds for each.
        compiled_min_top1: Share of them whose most likely token is the uncompiled graph's.
    """

    exact_max_mean_kl: float = Field(default=1e-6, gt=0)
    exact_min_top1: float = Field(default=0.999, gt=0, le=1)
    shipping_max_mean_kl: float = Field(default=1e-2, gt=0)
    max_weight_error_steps: float | None = Field(default=1.01, gt=0)
    max_nll_increase: float | None = None
    compiled_positions: int = Field(default=256, ge=1)
    compiled_min_top1: float = Field(default=0.99, gt=0, le=1)


class Verification(_Section):
    """Where the gate runs."""

    execution_provider: str


class TargetProfile(_Section):
    """One kind of device.

    Attributes:
        builder: The model builder's ``-e`` value.
        context_length: Cap on prompt plus answer, in tokens.
        memory_budget_bytes: What weights, key-value cache and adapters may take together.
        requires: Package name to a version prefix, checked when the bundle opens.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    description: str
    execution_provider: str
    builder: Literal["cpu", "static"]
    precision: Literal["int4", "int8"]
    io_dtype: Literal["float32", "float16"]
    quantization: Quantization
    adapters: AdapterSupport
    context_length: int = Field(ge=64)
    memory_budget_bytes: int = Field(ge=1)
    parity: ParityBounds
    requires: dict[str, str]
    verify: Verification
    static: StaticGraphs | None = None


def targets_dir() -> Path:
    """The shipped profiles: inside the wheel, or the repository's own folder."""
    packaged = _HERE / "_targets"
    return packaged if packaged.is_dir() else _HERE.parent / "targets"


def list_targets() -> dict[str, TargetProfile]:
    """Every shipped profile by name."""
    return {path.stem: _read(path) for path in sorted(targets_dir().glob("*.yaml"))}


def load_target(name_or_path: str) -> TargetProfile:
    """Load a shipped profile by name, or a person's own by path.

    Raises:
        RecipeError: If there is none, or it does not make sense (every problem listed).
    """
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"}:
        if not path.is_file():
            raise RecipeError(f"target profile '{name_or_path}': no such file")
        return _read(path)
    shipped = targets_dir() / f"{name_or_path}.yaml"
    if not shipped.is_file():
        known = [file.stem for file in targets_dir().glob("*.yaml")]
        raise RecipeError(
            f"no target '{name_or_path}'; {nearest(name_or_path, known)}",
            hint="See `edgekit targets list`, or give the path of your own profile (.yaml).",
        )
    return _read(shipped)


def _read(path: Path) -> TargetProfile:
    where = f"target profile '{path}'"
    try:
        data: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as err:
        raise RecipeError(f"{where} cannot be read: {err}") from err
    try:
        return TargetProfile.model_validate(data)
    except ValidationError as err:
        problems = [_describe(error) for error in err.errors(include_url=False)]
        raise RecipeError(f"{where} is wrong", problems=problems) from err


def _describe(error: ErrorDetails) -> str:
    """One problem as ``dotted.key: what is wrong``, with the nearest key where one is unknown."""
    location = [str(part) for part in error["loc"]]
    where = ".".join(location) or "profile"
    if error["type"] == "missing":
        return f"{where}: missing"
    if error["type"] != "extra_forbidden":
        return f"{where}: {error['msg']}, got {error['input']!r}"
    section: type[BaseModel] = TargetProfile
    for part in location[:-1]:
        annotation = section.model_fields[part].annotation
        assert isinstance(annotation, type)
        section = annotation
    return f"{where}: unknown key; {nearest(location[-1], section.model_fields)}"
