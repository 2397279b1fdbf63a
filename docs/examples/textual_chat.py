"""A chat in the terminal, with a picker that swaps the adapter in mid-conversation: Textual.

    pip install edgekit-runtime textual
    python textual_chat.py BUNDLE

Escape stops an answer. The screen stays alive meanwhile: answers are read with `async for`.
"""

import sys
from typing import ClassVar

from textual import work
from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.widgets import Footer, Input, Select, Static

from edgekit_runtime import Bundle, EdgekitRuntimeError, Engine


class Chat(App[None]):
    """One conversation with a bundle."""

    CSS = "#log { height: 1fr; } .said { color: $accent; margin-top: 1; }"
    BINDINGS: ClassVar[list[BindingType]] = [("escape", "stop", "Stop"), ("ctrl+q", "quit", "Quit")]

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.engine = engine
        self.session = engine.session()

    def compose(self) -> ComposeResult:
        """The picker, the conversation, the line to type in."""
        names = [status.name for status in self.engine.adapters()]
        yield Select([(name, name) for name in names], prompt="no adapter", id="adapter")
        yield VerticalScroll(id="log")
        yield Input(placeholder="Say something")
        yield Footer()

    def on_mount(self) -> None:
        """Type at once."""
        self.query_one(Input).focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Ask."""
        if event.value.strip():
            event.input.value = ""
            self.answer(event.value)

    @work
    async def answer(self, text: str) -> None:
        """Show an answer as it comes. A session answers once at a time, so typing waits."""
        log, box = self.query_one("#log"), self.query_one(Input)
        chosen = self.query_one("#adapter", Select).value
        shown, said = Static("…", markup=False), ""
        await log.mount(Static(text, classes="said", markup=False), shown)
        box.disabled = True
        try:
            self.session.swap(chosen if isinstance(chosen, str) else None)
            async with self.session.stream(text) as stream:
                async for piece in stream:
                    said += piece
                    shown.update(said.strip())
                    log.scroll_end(animate=False)
        except EdgekitRuntimeError as err:
            shown.update(f"error: {err}")
        finally:
            box.disabled = False
            box.focus()

    def action_stop(self) -> None:
        """Stop the answer."""
        self.workers.cancel_all()


def main() -> None:
    """Open the bundle, chat, close it."""
    with Bundle.open(sys.argv[1]) as bundle, bundle.engine() as engine:
        Chat(engine).run()


if __name__ == "__main__":
    main()
