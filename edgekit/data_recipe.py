"""The ``data`` section of a training recipe: where the rows are, and how a row becomes text."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from edgekit.errors import RecipeError
from edgekit.templates import template_fields

DEFAULT_SHUFFLE_BUFFER = 2048
DEFAULT_STREAMED_VALIDATION = 200


class _Typed(BaseModel):
    """What every part of a recipe shares: immutable, and no key that is not known."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def as_tuple(value: Any) -> Any:
    """One text is short for a list of it."""
    return (value,) if isinstance(value, str) else value


def _check_validation(value: Any) -> Any:
    """A share from 0 to below 1, text (a file or a slice), or a stream's number of rows."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        if 0 <= value < 1:
            return float(value)
        if isinstance(value, int) and value >= 1:
            return value
    raise ValueError("expected a share from 0 to below 1, a file, or a slice such as train[90%:]")


class MessageTemplate(_Typed):
    """One turn of a conversation, its content a template."""

    role: Literal["system", "user", "assistant"]
    content: str


class DataSource(_Typed):
    """One of several sources of training rows.

    Attributes:
        path: Files, or one Hub data set id or directory.
        weight: Relative share of this source among the training rows.
        rename: A column's name in this source, to the name that the templates use.
        license: Of its rows, an SPDX identifier or a name; recorded, and never part of a run.
    """

    path: Annotated[tuple[str, ...], BeforeValidator(as_tuple), Field(min_length=1)]
    weight: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    subset: str | None = None
    split: str = "train"
    rename: dict[str, str] = {}
    license: str | None = None


def _as_sources(value: Any) -> Any:
    return (value,) if isinstance(value, str | dict) else value


def _check_function(value: str | None) -> str | None:
    path, colon, function = (value or "").rpartition(":")
    if value is not None and not (colon and path.endswith(".py") and function.isidentifier()):
        raise ValueError("expected path/to/file.py:function")
    return value


class DataRecipe(_Typed):
    """Where the rows are and how a row becomes text.

    Attributes:
        train: Files (csv, tsv, json, jsonl, parquet), or one Hub data set id or directory; or
            several sources, each with its own slice, columns and weight.
        subset: The Hub data set's configuration, where it has several.
        split: Hugging Face slicing, such as ``train[:4096]`` or ``train[:10%]``.
        validation: A share of the training rows, a file, or a slice; 0 for none. Of a stream the
            number of rows that are taken from its start, or a file.
        test: A file or slice that is scored once, at the end.
        stratify: Column whose values keep their shares in validation; a classification
            stratifies by its label unless told otherwise.
        group: Column whose values are never shared between training and validation.
        prompt: Template of what the model reads.
        completion: Template of what it learns to write.
        messages: Instead of both: the column that holds ``[{role, content}, …]``, or a list
            of such turns with templates.
        text_template: Instead of all: one text, learnt as a whole.
        system: System message for ``messages`` that have none.
        max_length: In tokens; longer rows are left out and counted, never cut.
        packing: Put several sequences into one row of at most ``max_length`` tokens; none
            attends to another.
        augment: ``path/to/file.py:function``: training rows in, training rows out.
        streaming: Read rows as training goes, for data that are larger than memory.
        shuffle_buffer: Rows of a stream that are held and shuffled at a time; 0 for their order.
        license: Of the rows, an SPDX identifier or a name; recorded, and never part of a run.
    """

    train: Annotated[
        tuple[str | DataSource, ...], BeforeValidator(_as_sources), Field(min_length=1)
    ]
    subset: str | None = None
    split: str = "train"
    validation: Annotated[int | float | str | None, BeforeValidator(_check_validation)] = 0.15
    test: str | None = None
    stratify: str | None = None
    group: str | None = None
    prompt: str | None = None
    completion: str | None = None
    messages: str | tuple[MessageTemplate, ...] | None = None
    text_template: str | None = None
    system: str | None = None
    max_length: int = Field(default=512, ge=8)
    packing: bool = False
    augment: Annotated[str | None, AfterValidator(_check_function)] = None
    streaming: bool = False
    shuffle_buffer: int = Field(default=DEFAULT_SHUFFLE_BUFFER, ge=0)
    license: str | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """What ``train`` names where it names no sections."""
        return tuple(source for source in self.train if isinstance(source, str))

    @property
    def sources(self) -> tuple[DataSource, ...]:
        """The sections of ``train``; none where it names files only."""
        return tuple(source for source in self.train if isinstance(source, DataSource))

    @model_validator(mode="before")
    @classmethod
    def _a_stream_has_no_shares(cls, values: Any) -> Any:
        """What a stream holds out by default is a number of rows."""
        if isinstance(values, dict) and values.get("streaming") is True:
            return {"validation": DEFAULT_STREAMED_VALIDATION} | values
        return values

    @model_validator(mode="after")
    def _sources_go_together(self) -> Self:
        problems = []
        if self.sources and self.files:
            problems.append("train: write every source as a section (path: …), or none")
        weights = [source.weight is not None for source in self.sources]
        if any(weights) and not all(weights):
            problems.append("train: give every source a weight, or none")
        if any(weights) and self.augment is not None:
            problems.append("augment: not with weights, which it would have to keep")
        if self.sources:
            problems += [
                f"{key}: goes into each source of train"
                for key in ("split", "subset", "license")
                if key in self.model_fields_set
            ]
            problems += [
                f"{key}: with several sources give a file, got {value!r}"
                for key, value in (("validation", self.validation), ("test", self.test))
                if isinstance(value, str) and not Path(value).suffix
            ]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @field_validator("prompt", "completion", "text_template")
    @classmethod
    def _parses(cls, template: str | None) -> str | None:
        return checked_template(template)

    @model_validator(mode="after")
    def _one_shape(self) -> Self:
        shapes = [
            name
            for name in ("prompt", "messages", "text_template")
            if getattr(self, name) is not None
        ]
        if len(shapes) != 1:
            given = f", got {' and '.join(shapes)}" if shapes else ""
            raise ValueError(f"give one of prompt + completion, messages, or text_template{given}")
        if (self.prompt is None) != (self.completion is None):
            lacking = "prompt" if self.prompt is None else "completion"
            raise ValueError(f"prompt and completion go together, {lacking} is missing")
        if self.system is not None and self.messages is None:
            raise ValueError("system goes with messages; put it into the prompt template instead")
        if isinstance(self.messages, tuple):
            for message in self.messages:
                checked_template(message.content)
            if not self.messages or self.messages[-1].role != "assistant":
                raise ValueError(
                    "messages should end with an assistant turn, what the model learns"
                )
        return self


def checked_template(template: str | None) -> str | None:
    """Refuse a template that does not parse, in pydantic's way."""
    if template is not None:
        try:
            template_fields(template)
        except RecipeError as err:
            raise ValueError(f"{err.what}. {err.hint}") from err
    return template
