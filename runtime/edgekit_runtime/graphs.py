"""What a decoder needs of a graph, whatever runs it: onnxruntime-genai or plain ONNX Runtime."""

from typing import TYPE_CHECKING, Any, Protocol

from edgekit_runtime.locking import TurnLock

if TYPE_CHECKING:
    from edgekit_runtime.constraints import Constraint
    from edgekit_runtime.native import Tokenizer


class DecoderGraph(Protocol):
    """One loaded graph of a target.

    Attributes:
        lock: Guards every native call on the engine.
    """

    lock: TurnLock

    def new_generator(
        self, *, max_length: int, guidance: tuple[str, str] | None = None, ignore_eos: bool = False
    ) -> Any:
        """Something with the surface of genai's Generator, for ``max_length`` tokens."""

    def refusal_of(self, constraint: "Constraint") -> str | None:
        """Why a grammar is refused, None if it is not."""

    def new_adapters(self) -> Any:
        """An empty container with the surface of genai's Adapters."""

    def new_tokenizer(self) -> "Tokenizer":
        """The target's tokenizer."""
