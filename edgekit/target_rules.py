"""What of a target profile does not go together, field against field."""

from collections.abc import Callable, Iterator, Mapping
from inspect import signature
from typing import TYPE_CHECKING, Any

from edgekit.provider_options import PROVIDER_OPTIONS, SESSION_OPTIONS
from edgekit.typed_files import show_value
from edgekit_runtime.errors import nearest

if TYPE_CHECKING:
    from edgekit.quantizing.options import Quantization
    from edgekit.targets import AdapterSupport, StaticGraphs


def misfits(valid: Mapping[str, Any]) -> list[str]:
    """Every problem between fields of a profile that are valid each by itself.

    Args:
        valid: Their names to their values; a rule about a field that is not there is left out, so
            that these problems can be told together with those of single fields.
    """
    problems: list[str] = []
    for rule in _RULES:
        fields = list(signature(rule).parameters)
        if all(field in valid for field in fields):
            problems += rule(*(valid[field] for field in fields))
    return problems


def _provider(execution_provider: str, provider_options: Mapping[str, str]) -> Iterator[str]:
    known = PROVIDER_OPTIONS[execution_provider]
    for name in provider_options:
        if name not in known:
            yield (
                f"provider_options.{name}: {execution_provider} has no such option; "
                f"{nearest(name, known)}"
            )


def _session(session_options: Mapping[str, object]) -> Iterator[str]:
    """Options that genai does not know, or would not read."""
    words = {bool: "true or false", int: "a whole number", str: "text"}
    for name, value in session_options.items():
        # The entries of ONNX Runtime have a dot, and are text.
        kind = SESSION_OPTIONS.get(name, str if "." in name else None)
        if kind is None:
            yield f"session_options.{name}: no such option; {nearest(name, SESSION_OPTIONS)}"
        elif type(value) is not kind:
            quote = " (put it in quotes)" if kind is str and isinstance(value, int | float) else ""
            got = f"{show_value(value)}{quote}"
            yield f"session_options.{name}: expected {words[kind]}, got {got}"


def _io_dtype(builder: str, io_dtype: str) -> Iterator[str]:
    if builder in {"cuda", "dml", "static"} and io_dtype != "float16":
        yield f"io_dtype: builder '{builder}' makes float16, got {io_dtype}"
    if builder == "cpu" and io_dtype != "float32":
        yield f"io_dtype: builder 'cpu' makes float32, got {io_dtype}"


def _precision(builder: str, precision: str) -> Iterator[str]:
    if builder != "static" and precision != "int4":
        yield f"precision: builder '{builder}' takes int4, got {precision}; set quantization.bits"


def _mechanism(builder: str, adapters: "AdapterSupport") -> Iterator[str]:
    if (builder == "static") != (adapters.mechanism == "static_inputs"):
        yield (
            f"adapters.mechanism: builder 'static' and static_inputs go together, got builder "
            f"'{builder}' and {adapters.mechanism}"
        )


def _static(builder: str, static: "StaticGraphs | None") -> Iterator[str]:
    if (builder == "static") != (static is not None):
        yield (
            f"static: builder 'static' and this section go together, got builder "
            f"'{builder}' and {'no section' if static is None else 'the section'}"
        )


def _static_provider(builder: str, execution_provider: str) -> Iterator[str]:
    known = {"QNNExecutionProvider", "CPUExecutionProvider"}
    if builder == "static" and execution_provider not in known:
        yield (
            "execution_provider: static graphs run on QNNExecutionProvider or, for a look, on "
            f"CPUExecutionProvider, got {execution_provider}"
        )


def _static_session(builder: str, session_options: Mapping[str, Any]) -> Iterator[str]:
    if builder == "static" and session_options:
        yield "session_options: static graphs take none"


def _static_rounding(builder: str, quantization: "Quantization") -> Iterator[str]:
    if builder != "static":
        return
    if quantization.algorithm not in {"default", "rtn"}:
        yield (
            "quantization.algorithm: static graphs are rounded to nearest (rtn), "
            f"got {quantization.algorithm}"
        )
    if not quantization.is_symmetric:
        yield "quantization.is_symmetric: static graphs have no zero points, got false"
    if quantization.eight_bit or quantization.eight_bit_budget:
        yield (
            "quantization.eight_bit: static graphs have the same bits in every layer; "
            "set quantization.bits"
        )


# A rule takes fields of a profile by their names.
_RULES: tuple[Callable[..., Iterator[str]], ...] = (
    _provider,
    _session,
    _io_dtype,
    _precision,
    _mechanism,
    _static,
    _static_provider,
    _static_session,
    _static_rounding,
)
