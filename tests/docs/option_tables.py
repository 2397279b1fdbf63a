"""Write the option tables of the command pages: ``python -m tests.docs.option_tables``."""

from tests.docs.pages import ROOT, Page
from tests.docs.programs import every_command, option_table

COMMAND_PAGES = ROOT / "docs" / "reference" / "commands"


def is_of_bundle(command: str) -> bool:
    """Whether ``edgekit-run X`` is what ``edgekit bundle X`` is."""
    program, word, *_ = command.split()
    return program == "edgekit-run" and (COMMAND_PAGES / f"bundle-{word}.md").is_file()


def page_of(command: str) -> Page:
    """The reference page of ``edgekit bundle add``; the device's commands share edgekit's."""
    words = command.split()[1:]
    if is_of_bundle(command):
        words = ["bundle", *words]
    return Page(COMMAND_PAGES / f"{'-'.join(words)}.md")


def _write() -> None:
    for name, command in every_command().items():
        if name.startswith("edgekit-run ") or hasattr(command, "commands"):
            continue
        page = page_of(name)
        before, mark, rest = page.text.partition(f"<!-- options: {name} -->\n")
        _, end, after = rest.partition("<!-- /options -->")
        table = f"\n{option_table(command)}\n\n"
        page.path.write_text(before + mark + table + end + after, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    _write()
