"""The socket contract: what an adapter must look like to plug into a target's graph."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from edgekit_runtime.errors import BundleError
from edgekit_runtime.manifest import Fields
from edgekit_runtime.strict_json import loads

LORA_A = "lora_A"
LORA_B = "lora_B"


@dataclass(frozen=True, kw_only=True, slots=True)
class SocketPart:
    """One projection inside a (packed) socket.

    Attributes:
        module: PEFT's module path, e.g. ``model.layers.0.self_attn.q_proj``.
        offset: First output column of this projection.
        n: Number of output columns.
        start: First of the module's outputs that lies here: above 0 where a graph cuts up what
            the checkpoint has in one linear (Phi-3's ``qkv_proj``).
    """

    module: str
    offset: int
    n: int
    start: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        known = {"module": self.module, "offset": self.offset, "n": self.n}
        return known | ({"start": self.start} if self.start else {})


@dataclass(frozen=True, kw_only=True, slots=True)
class Socket:
    """One place where an adapter plugs in: ``y = W x + (x @ A) @ B``.

    Attributes:
        name: Graph name, e.g. ``model.layers.0.attn.qkv_proj``; the inputs are
            ``<name>.lora_A`` of shape (k, rank) and ``<name>.lora_B`` of shape (rank, n).
        k: Input features.
        n: Output features over all parts.
    """

    name: str
    k: int
    n: int
    parts: tuple[SocketPart, ...]

    @property
    def a_name(self) -> str:
        """Name of the graph input A."""
        return f"{self.name}.{LORA_A}"

    @property
    def b_name(self) -> str:
        """Name of the graph input B."""
        return f"{self.name}.{LORA_B}"


@dataclass(frozen=True, kw_only=True, slots=True)
class SocketContract:
    """All sockets of a target.

    Attributes:
        dtype: NumPy name of A's and B's type.
        max_rank: Largest rank of one projection's adapter.
        static_rank: The one rank that every tensor has, padded with zeros, where the graph's
            shapes are fixed; None where ranks are free.
    """

    dtype: str
    max_rank: int
    sockets: tuple[Socket, ...]
    static_rank: int | None = None

    @classmethod
    def from_dict(cls, value: object, problems: list[str]) -> Self:
        """Read ``sockets.json``; what is wrong is added to ``problems``."""
        fields = Fields(value, "", problems)
        return cls(
            dtype=fields.text("dtype"),
            max_rank=fields.number("max_rank"),
            sockets=fields.objects("sockets", _read_socket),
            static_rank=fields.number("static_rank", 0) or None,
        )

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> Self:
        """Read the file's content.

        Raises:
            BundleError: With every problem.
        """
        problems: list[str] = []
        try:
            contract = cls.from_dict(loads(data), problems)
        except ValueError as err:
            raise BundleError(f"{where} is no JSON: {err}", hint="Build the bundle again.") from err
        if problems:
            raise BundleError(
                f"{where} is malformed", problems=problems, hint="Build the bundle again."
            )
        return contract

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        static = {} if self.static_rank is None else {"static_rank": self.static_rank}
        return {
            "dtype": self.dtype,
            "max_rank": self.max_rank,
            **static,
            "sockets": [
                {
                    "name": socket.name,
                    "k": socket.k,
                    "n": socket.n,
                    "parts": [part.to_dict() for part in socket.parts],
                }
                for socket in self.sockets
            ],
        }

    def problems(self, parameters: Mapping[str, "TensorInfo"]) -> list[str]:
        """Say everything that keeps an adapter's tensors from plugging into these sockets.

        Args:
            parameters: Tensor name to its shape and type.
        """
        found: list[str] = []
        known: set[str] = set()
        for socket in self.sockets:
            known |= {socket.a_name, socket.b_name}
            found += self._socket_problems(socket, parameters)
        found += [f"{name}: no such socket" for name in sorted(set(parameters) - known)]
        if not parameters:
            found.append("holds no tensors")
        return found

    def _socket_problems(self, socket: Socket, parameters: Mapping[str, "TensorInfo"]) -> list[str]:
        a, b = parameters.get(socket.a_name), parameters.get(socket.b_name)
        if a is None and b is None:
            return []
        if a is None or b is None:
            missing = socket.a_name if a is None else socket.b_name
            return [f"{missing}: missing, its other half is there"]
        limit = self.max_rank * len(socket.parts)
        found = [
            f"{name}: expected dtype {self.dtype}, got {info.dtype}"
            for name, info in ((socket.a_name, a), (socket.b_name, b))
            if info.dtype != self.dtype
        ]
        rank = a.shape[1] if len(a.shape) == 2 else -1
        if len(a.shape) != 2 or a.shape[0] != socket.k:
            found.append(f"{socket.a_name}: expected shape ({socket.k}, r), got {_show(a.shape)}")
        elif self.static_rank is not None and rank != self.static_rank:
            found.append(f"{socket.a_name}: expected rank {self.static_rank}, got {rank}")
        elif self.static_rank is None and not 1 <= rank <= limit:
            found.append(f"{socket.a_name}: expected rank 1 to {limit}, got {rank}")
        expected = ("r" if rank < 0 else rank, socket.n)
        if len(b.shape) != 2 or b.shape[1] != socket.n or (rank >= 0 and b.shape[0] != rank):
            found.append(f"{socket.b_name}: expected shape {_show(expected)}, got {_show(b.shape)}")
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorInfo:
    """Shape and NumPy type name of a tensor."""

    shape: tuple[int, ...]
    dtype: str


def _show(shape: Sequence[object]) -> str:
    return f"({', '.join(str(size) for size in shape)})"


def _read_socket(fields: Fields) -> Socket:
    return Socket(
        name=fields.text("name"),
        k=fields.number("k"),
        n=fields.number("n"),
        parts=fields.objects(
            "parts",
            lambda part: SocketPart(
                module=part.text("module"),
                offset=part.number("offset"),
                n=part.number("n"),
                start=part.number("start", 0),
            ),
        ),
    )
