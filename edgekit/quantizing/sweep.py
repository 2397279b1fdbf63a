"""The same base under several quantizations: size, speed and what each costs."""

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from edgekit.bases import Base
from edgekit.building.sessions import genai_model, greedy_generator
from edgekit.building.target_dir import write_target
from edgekit.building.weights import FOLDER, WeightStore
from edgekit.errors import BuildError
from edgekit.quantizing.options import change, check_sources
from edgekit.quantizing.report import QuantizationFigures, compare_with_float
from edgekit.targets import TargetProfile

# What a person compares first; any other mix of options goes by --try.
TRIES = (
    "tier=fast",
    "tier=fast,head_bits=8",
    "tier=fast,block_size=64",
    "algorithm=k_quant",
    "algorithm=gptq,head_bits=8",
    "tier=default",
    "tier=quality",
)
_ROUNDS = 6
_ANSWERS = 5
_DECODED_TOKENS = 48


@dataclass(frozen=True, kw_only=True, slots=True)
class Try:
    """One quantization of the sweep.

    Attributes:
        options: As typed, ``key=value`` with commas between.
        size_bytes: Of its weights.
        decode_tokens_per_s: Median over rounds in which all took turns.
        speed_ratio: To the first of the sweep, median of the rounds' ratios.
        is_best: No other is better in one of size, speed and KL and as good in the rest.
    """

    options: str
    size_bytes: int
    decode_tokens_per_s: float
    speed_ratio: float
    figures: QuantizationFigures
    is_best: bool

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "options": self.options,
            "size_bytes": self.size_bytes,
            "decode_tokens_per_s": round(self.decode_tokens_per_s, 1),
            "speed_ratio": round(self.speed_ratio, 3),
            "is_best": self.is_best,
            **self.figures.to_dict(),
        }


def sweep(
    base: Base,
    profile: TargetProfile,
    rows: Sequence[Sequence[int]],
    tries: Sequence[str] = TRIES,
    *,
    threads: int,
    on_message: Callable[[str], None] = lambda _: None,
) -> list[Try]:
    """Build a base under several quantizations and compare them.

    Args:
        base: The float base.
        profile: The target; each try changes its quantization.
        rows: Tokens to compare on.
        tries: Options, ``key=value`` with commas between.
        threads: Of ONNX Runtime's sessions.
        on_message: Called with a line of progress.

    Returns:
        In the order of ``tries``.

    Raises:
        EdgekitError: If options make no sense or a build fails.
    """
    if profile.builder == "static":
        raise BuildError(
            f"target '{profile.name}' has static graphs, which a sweep does not build",
            hint="Sweep on `--target cpu`; the target's own gate says what its rounding costs.",
        )
    profiles = {
        text: profile.model_copy(update={"quantization": change(profile.quantization, text)})
        for text in tries
    }
    check_sources({text: changed.quantization for text, changed in profiles.items()})
    with tempfile.TemporaryDirectory(prefix="edgekit-sweep-") as temporary:
        targets, sizes = {}, {}
        for index, (text, changed) in enumerate(profiles.items()):
            root = Path(temporary) / str(index)
            targets[text] = root / "targets" / profile.name
            write_target(
                targets[text],
                base,
                changed,
                WeightStore(root),
                lambda message, text=text: on_message(f"{text}: {message}"),  # type: ignore[misc]
            )
            sizes[text] = sum(file.stat().st_size for file in (root / FOLDER).iterdir())
        on_message("measuring the speed of decoding")
        speeds = _decode_speeds(targets, threads)
        figures = compare_with_float(base, targets, rows, threads=threads, on_message=on_message)
    first = speeds[tries[0]]
    ratios = {
        text: statistics.median(a / b for a, b in zip(speeds[text], first, strict=True))
        for text in profiles
    }
    scores = {text: (sizes[text], -ratios[text], figures[text].mean_kl) for text in profiles}
    return [
        Try(
            options=text,
            size_bytes=sizes[text],
            decode_tokens_per_s=statistics.median(speeds[text]),
            speed_ratio=ratios[text],
            figures=figures[text],
            is_best=not any(_dominates(other, scores[text]) for other in scores.values()),
        )
        for text in profiles
    ]


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def _decode_speeds(targets: Mapping[str, Path], threads: int) -> dict[str, list[float]]:
    """Tokens/s of each target's plain graph in each round; a round is compared pair by pair.

    Processes differ by their place in memory, so a round has one of its own. Within it the
    targets take turns answering, and over the rounds each comes first in turn.
    """
    speeds: dict[str, list[float]] = {name: [] for name in targets}
    names = list(targets)
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        for round_ in range(_ROUNDS):
            order = turns(names, round_)
            measured = pool.submit(_one_round, [targets[name] for name in order], threads)
            for name, speed in zip(order, measured.result(), strict=True):
                speeds[name].append(speed)
    return speeds


def turns(names: Sequence[str], round_: int) -> list[str]:
    """Who answers when in a round: over the rounds each comes first in turn."""
    first = round_ % len(names)
    return [*names[first:], *names[:first]]


def _one_round(targets: Sequence[Path], threads: int) -> list[float]:
    """Tokens/s of each target, the median of its answers after one to warm up."""
    # The first session of a process is 10 % slower, whichever it is: nobody's.
    models = [genai_model(target, "base.onnx", threads) for target in (targets[0], *targets)][1:]
    speeds: list[list[float]] = [[] for _ in models]
    for answer in range(_ANSWERS + 1):
        for model, measured in zip(models, speeds, strict=True):
            generator = greedy_generator(
                model, range(3, 35), _DECODED_TOKENS + 1, min_tokens=_DECODED_TOKENS + 1
            )
            generator.generate_next_token()
            started = time.perf_counter()
            for _ in range(_DECODED_TOKENS):
                generator.generate_next_token()
            if answer:
                measured.append(_DECODED_TOKENS / (time.perf_counter() - started))
            del generator
    return [statistics.median(measured) for measured in speeds]
