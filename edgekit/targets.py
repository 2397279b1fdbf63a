"""Target profiles: one declarative YAML file per kind of device, in ``targets/``."""

from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SkipValidation,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from edgekit.errors import RecipeError
from edgekit.provider_options import PROVIDER_OPTIONS
from edgekit.quantizing.options import Quantization
from edgekit.recipe_files import read_yaml
from edgekit.target_rules import misfits
from edgekit.typed_files import problems_of
from edgekit_runtime.errors import nearest

_HERE = Path(__file__).resolve().parent
EXTENDS = "extends"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class AdapterSupport(_Section):
    """How adapters reach this target.

    Attributes:
        mechanism: ``ort_inputs``: sockets are graph inputs of free rank. ``static_inputs``: of a
            fixed rank, padded with zeros, for compilers that want static shapes.
        max_rank: Largest rank of one projection's adapter; the fixed rank of ``static_inputs``.
        empty_rank: Rank of a socket without an adapter; 1 where a provider cannot compute with
            tensors that have no elements.
    """

    mechanism: Literal["ort_inputs", "static_inputs"] = "ort_inputs"
    max_rank: int = Field(default=256, ge=1)
    empty_rank: Literal[0, 1] = 0


class StaticGraphs(_Section):
    """Graphs of fixed shape, for compilers that know no other (``builder: static``).

    Attributes:
        chunk_tokens: Tokens that the prefill graph takes at once.
    """

    chunk_tokens: int = Field(default=64, ge=2, le=512)


class ParityBounds(_Section):
    """What the parity gate demands; see docs/concepts.md.

    Attributes:
        max_weight_error_steps: How far a weight may lie from its float original, in quantization
            steps: half a step by rounding, one where symmetric int4 ends at +7. A build raises it
            to 2 for k_quant, which cuts off an end of a block.
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
    """Where the gate runs.

    Attributes:
        execution_provider: What computes the target's graphs in the gate of every build.
        note: What that leaves open, for people.
    """

    execution_provider: str
    note: str = ""

    @field_validator("execution_provider")
    @classmethod
    def _is_known(cls, name: str) -> str:
        return _known_provider(name)


class TargetProfile(_Section):
    """One kind of device.

    Attributes:
        provider_options: For the execution provider; its own names.
        session_options: genai's own, and entries of ONNX Runtime such as ``session.…``.
        packages: Operating system and processor (``linux-x86_64``) to what a device installs.
        builder: The model builder's ``-e`` value; ``static`` for edgekit's own static graphs.
        context_length: Cap on prompt plus answer, in tokens.
        memory_budget_bytes: What weights, key-value cache and adapters may take together.
        requires: Package name to a version prefix, checked when the bundle opens.
    """

    model_config = ConfigDict(validate_default=True)  # so that defaults meet the rules, too

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    description: str
    execution_provider: str
    provider_options: dict[str, str | None] = {}
    session_options: dict[str, SkipValidation[str | int | bool]] = {}
    packages: dict[str, str | None]
    builder: Literal["cpu", "cuda", "dml", "webgpu", "static"]
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

    @field_validator("execution_provider")
    @classmethod
    def _provider_is_known(cls, name: str) -> str:
        return _known_provider(name)

    @field_validator("provider_options", "packages")
    @classmethod
    def _without_null(cls, values: dict[str, str | None]) -> dict[str, str]:
        """A null stands for an inherited entry that does not hold here."""
        return {key: value for key, value in values.items() if value is not None}

    @field_validator("*")
    @classmethod
    def _note_valid(cls, value: Any, info: ValidationInfo) -> Any:
        """What is valid by itself is noted for the rules between fields, see ``_load``."""
        if info.context is not None and info.field_name is not None:
            info.context[info.field_name] = value
        return value


def targets_dir() -> Path:
    """The shipped profiles: inside the wheel, or the repository's own folder."""
    packaged = _HERE / "_targets"
    return packaged if packaged.is_dir() else _HERE.parent / "targets"


def list_targets() -> dict[str, TargetProfile]:
    """Every shipped profile by name."""
    paths = {path.stem: path for path in targets_dir().glob("*.yaml")}
    return {name: _load(paths[name]) for name in sorted(paths)}


def load_target(name_or_path: str) -> TargetProfile:
    """Load a shipped profile by name, or a person's own by path.

    Raises:
        RecipeError: If there is none, or it does not make sense (every problem listed).
    """
    return _load(target_path(name_or_path))


def target_path(name_or_path: str) -> Path:
    """The file of a shipped profile, or of a person's own.

    Raises:
        RecipeError: If there is none.
    """
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"}:
        if not path.is_file():
            raise RecipeError(f"target profile '{name_or_path}': no such file")
        return path
    shipped = targets_dir() / f"{name_or_path}.yaml"
    if not shipped.is_file():
        known = [file.stem for file in targets_dir().glob("*.yaml")]
        raise RecipeError(
            f"no target '{name_or_path}'; {nearest(name_or_path, known)}",
            hint="See `edgekit targets list`, or give the path of your own profile (.yaml).",
        )
    return shipped


def profile_schema() -> dict[str, Any]:
    """The JSON schema of a profile file, for editors; ``extends`` stands for what is left out."""
    schema = TargetProfile.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["properties"][EXTENDS] = {
        "type": "string",
        "description": "Profile that gives every key that is not in this file: name or path.",
    }
    required = [key for key in schema.pop("required") if key != "name"]  # the file's, if need be
    schema["anyOf"] = [{"required": [EXTENDS]}, {"required": required}]
    return schema


def _load(path: Path) -> TargetProfile:
    valid: dict[str, Any] = {}
    problems: list[str] = []
    try:
        profile = TargetProfile.model_validate(_merged(path, ()), context=valid)
    except ValidationError as err:
        problems = problems_of(err, TargetProfile)
    problems += misfits(valid)
    if problems:
        raise RecipeError(f"target profile '{path}' is wrong", problems=problems)
    return profile


def _merged(path: Path, children: tuple[Path, ...]) -> dict[str, Any]:
    """A profile's keys over those of what it extends; the file's name where it says none."""
    if path.resolve() in children:
        chain = " extends ".join(str(child) for child in (*children, path.resolve()))
        raise RecipeError(f"target profile '{path}' extends itself", problems=[chain])
    data = {"name": path.stem} | read_yaml(path, what="target profile")
    if EXTENDS not in data:
        return data
    parent = data.pop(EXTENDS)
    if not isinstance(parent, str):
        raise RecipeError(
            f"target profile '{path}' is wrong",
            problems=[f"{EXTENDS}: expected a profile's name or path, got {parent!r}"],
        )
    if Path(parent).suffix in {".yaml", ".yml"}:
        parent = str(path.parent / parent)
    return _over(_merged(target_path(parent), (*children, path.resolve())), data)


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """One mapping put over another, section by section."""
    merged = dict(below)
    for key, value in above.items():
        lower = merged.get(key)
        if isinstance(value, dict) and isinstance(lower, dict):
            merged[key] = _over(lower, value)
        else:
            merged[key] = value
    return merged


def _known_provider(name: str) -> str:
    if name not in PROVIDER_OPTIONS:
        raise ValueError(f"no such execution provider; {nearest(name, PROVIDER_OPTIONS)}")
    return name
