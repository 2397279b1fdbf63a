"""Target profiles: one declarative YAML file per kind of device, in ``targets/``."""

from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from edgekit.errors import RecipeError
from edgekit.provider_options import PROVIDER_OPTIONS, SESSION_OPTIONS
from edgekit.quantizing.options import Quantization
from edgekit.recipe_files import read_yaml
from edgekit_runtime.errors import nearest

_HERE = Path(__file__).resolve().parent
EXTENDS = "extends"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


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

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    description: str
    execution_provider: str
    provider_options: dict[str, str | None] = {}
    session_options: dict[str, str | int | bool] = {}
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

    @field_validator("session_options")
    @classmethod
    def _session_options_are_known(cls, options: dict[str, Any]) -> dict[str, Any]:
        wrong = [name for name in options if "." not in name and name not in SESSION_OPTIONS]
        if wrong:
            raise ValueError("; ".join(f"no '{n}': {nearest(n, SESSION_OPTIONS)}" for n in wrong))
        return options

    @field_validator("provider_options", "packages")
    @classmethod
    def _without_null(cls, values: dict[str, str | None]) -> dict[str, str]:
        """A null stands for an inherited entry that does not hold here."""
        return {key: value for key, value in values.items() if value is not None}

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        known = PROVIDER_OPTIONS[self.execution_provider]
        problems = [
            f"provider_options.{name}: {self.execution_provider} has no such option; "
            f"{nearest(name, known)}"
            for name in self.provider_options
            if name not in known
        ]
        if self.builder in {"cuda", "dml"} and self.io_dtype != "float16":
            problems.append(f"io_dtype: builder '{self.builder}' makes float16, got float32")
        if self.builder == "cpu" and self.io_dtype != "float32":
            problems.append("io_dtype: builder 'cpu' makes float32, got float16")
        if self.builder != "static" and self.precision != "int4":
            problems.append(
                f"precision: builder '{self.builder}' takes int4, got {self.precision}; "
                "set quantization.bits"
            )
        if (self.builder == "static") != (self.adapters.mechanism == "static_inputs"):
            problems.append(
                f"adapters.mechanism: builder 'static' and static_inputs go together, got builder "
                f"'{self.builder}' and {self.adapters.mechanism}"
            )
        problems += self._static_problems()
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _static_problems(self) -> list[str]:
        """What does not go with static graphs, or goes with nothing else."""
        problems = []
        if (self.builder == "static") != (self.static is not None):
            problems.append(
                f"static: builder 'static' and this section go together, got builder "
                f"'{self.builder}' and {'no section' if self.static is None else 'the section'}"
            )
        if self.builder != "static":
            return problems
        if self.execution_provider not in {"QNNExecutionProvider", "CPUExecutionProvider"}:
            problems.append(
                "execution_provider: static graphs run on QNNExecutionProvider or, for a look, on "
                f"CPUExecutionProvider, got {self.execution_provider}"
            )
        if self.session_options:
            problems.append("session_options: static graphs take none")
        if self.quantization.algorithm not in {"default", "rtn"}:
            problems.append(
                "quantization.algorithm: static graphs are rounded to nearest (rtn), "
                f"got {self.quantization.algorithm}"
            )
        if self.quantization.eight_bit or self.quantization.eight_bit_budget:
            problems.append(
                "quantization.eight_bit: static graphs have the same bits in every layer; "
                "set quantization.bits"
            )
        if self.io_dtype != "float16":
            problems.append(f"io_dtype: builder 'static' makes float16, got {self.io_dtype}")
        return problems


def targets_dir() -> Path:
    """The shipped profiles: inside the wheel, or the repository's own folder."""
    packaged = _HERE / "_targets"
    return packaged if packaged.is_dir() else _HERE.parent / "targets"


def list_targets() -> dict[str, TargetProfile]:
    """Every shipped profile by name."""
    return {path.stem: _load(path) for path in sorted(targets_dir().glob("*.yaml"))}


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
    required = schema.pop("required")
    schema["anyOf"] = [{"required": [EXTENDS]}, {"required": required}]
    return schema


def _load(path: Path) -> TargetProfile:
    where = f"target profile '{path}'"
    data = _merged(path, ())
    try:
        return TargetProfile.model_validate(data)
    except ValidationError as err:
        problems = [line for error in err.errors(include_url=False) for line in _describe(error)]
        raise RecipeError(f"{where} is wrong", problems=problems) from err


def _merged(path: Path, children: tuple[Path, ...]) -> dict[str, Any]:
    """A profile's keys over those of what it extends."""
    if path.resolve() in children:
        chain = " extends ".join(str(child) for child in (*children, path.resolve()))
        raise RecipeError(f"target profile '{path}' extends itself", problems=[chain])
    data = read_yaml(path, what="target profile")
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


def _describe(error: ErrorDetails) -> list[str]:
    """A problem as ``dotted.key: what is wrong``, with the nearest key where one is unknown."""
    location = [str(part) for part in error["loc"]]
    where = ".".join(location) or "profile"
    if error["type"] == "missing":
        return [f"{where}: missing"]
    if error["type"] == "value_error":
        lines = str(error["ctx"]["error"]).splitlines()
        return [f"{where}: {line}, got {error['input']!r}" for line in lines] if location else lines
    if error["type"] != "extra_forbidden":
        return [f"{where}: {error['msg']}, got {error['input']!r}"]
    section: type[BaseModel] = TargetProfile
    for part in location[:-1]:
        annotation = section.model_fields[part].annotation
        # `Section | None` has its section first.
        section = annotation if isinstance(annotation, type) else get_args(annotation)[0]
    return [f"{where}: unknown key; {nearest(location[-1], section.model_fields)}"]
