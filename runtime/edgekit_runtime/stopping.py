"""Turns tokens into text, and ends it at a stop string wherever token boundaries fall."""

from collections.abc import Callable, Sequence


class StopScanner:
    """Lets text through up to the first stop string.

    What may be the beginning of a stop string is held back until the next piece decides.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, piece: str) -> str:
        """Take the next piece; return what can be shown by now."""
        if self.stopped:
            return ""
        text = self._held + piece
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = max((overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """Return what was held back, now that nothing follows."""
        held, self._held = self._held, ""
        return held


def overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that begins ``stop``."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if stop.startswith(text[-n:])), 0)


class TextStream:
    """Decodes tokens one by one and scans the text for stop strings.

    Args:
        decode: Decodes one more token; empty while a character is incomplete.
        stops: Strings that end the answer; they are not part of it.
    """

    def __init__(self, decode: Callable[[int], str], stops: Sequence[str]) -> None:
        self._decode = decode
        self._scanner = StopScanner(stops)
        self._shown: list[str] = []

    @property
    def stopped(self) -> bool:
        """Whether a stop string was met."""
        return self._scanner.stopped

    @property
    def text(self) -> str:
        """Everything shown so far."""
        return "".join(self._shown)

    def push(self, token: int) -> str:
        """Take a token; return the text that it brings out."""
        return self._show(self._scanner.push(self._decode(token)))

    def finish(self) -> str:
        """Return the text that was held back."""
        return self._show(self._scanner.flush())

    def _show(self, piece: str) -> str:
        if piece:
            self._shown.append(piece)
        return piece
