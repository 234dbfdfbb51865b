"""How help is laid out: examples a line each, subcommands with their whole first sentence, commands by purpose."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

SECTIONS: Mapping[str, tuple[str, ...]] = {
    "Machines": ("run", "ps", "show", "logs", "console", "exec", "shell", "stop", "destroy", "outputs"),
    "The daemon": ("why", "warnings", "drain", "undrain"),
    "Types, images and configuration": ("image", "config", "simulate"),
    "This host": ("doctor", "cvmfs", "conformance"),
}
"""What is in none of these stands under `MORE`."""
MORE = "More commands"
_BETWEEN = re.compile(r"\s{3}[|·]\s{3}")


def sections(commands: Mapping[str, str]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The commands with their lines of help, by section; empty sections are left out."""
    named = {name for names in SECTIONS.values() for name in names}
    rest = tuple(name for name in commands if name not in named)
    for title, names in (*SECTIONS.items(), (MORE, rest)):
        if rows := [(name, commands[name]) for name in names if name in commands]:
            yield title, rows


def examples(epilog: str | None) -> str | None:
    """`Examples:  one   |   two` as a line each, which is not wrapped; any other text as it is."""
    head, mark, rest = (epilog or "").partition("Examples:  ")
    if head or not mark:
        return epilog
    lines = "\n".join(f"  {one.strip()}" for one in _BETWEEN.split(rest))
    return f"Examples:\n\n\b\n{lines}"


def arranged(command: Any) -> Any:
    """A command, or a group of them, with its help laid out."""
    command.epilog = examples(command.epilog)
    for one in getattr(command, "commands", {}).values():
        one.short_help = first_sentence(one.help or "")
        arranged(one)
    return command


def first_sentence(text: str) -> str:
    """The text up to its first full stop, in one line."""
    return " ".join(text.split()).partition(". ")[0].rstrip(".") + "."
