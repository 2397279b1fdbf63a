"""Answers as data: JSON that follows a schema, parsed, or an error; never half of it."""

import threading
from typing import Any, TypedDict

from edgekit_runtime.errors import GenerationError
from edgekit_runtime.generation import Generation
from edgekit_runtime.strict_json import loads

_SHOWN_CHARS = 200


class ExtractOptions(TypedDict, total=False):
    """What `Engine.extract` may be told besides; see `edgekit_runtime.sampling.GenerateOptions`."""

    max_new_tokens: int | None
    temperature: float | None
    seed: int | None
    timeout_s: float | None
    cancel: threading.Event | None


def extracted(answer: Generation) -> Any:
    """The value that an answer under a schema is.

    Raises:
        GenerationError: If the answer was cut off before it was whole.
    """
    if answer.finish_reason != "stop":
        n_tokens = answer.usage.completion_tokens
        raise GenerationError(
            f"the answer ended after {n_tokens} tokens ({answer.finish_reason}), not whole yet",
            problems=[f"it ends with {answer.text[-_SHOWN_CHARS:]!r}"],
            hint="Give strings a maxLength and lists a maxItems in the schema, or the answer more "
            "max_new_tokens.",
        )
    return loads(answer.text)
