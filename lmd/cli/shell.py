"""`lm shell`: a shell in a machine."""

from typing import Annotated

import typer

from lmd.cli.execute import joined
from lmd.cli.show import Machine

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(epilog="Examples:  lm shell abcdef   |   lm shell abcdef --program /bin/bash")
def shell(
    machine: Machine,
    program: Annotated[str, typer.Option(help="The shell, as the machine knows it.")] = "/bin/sh",
) -> None:
    """Open a shell in a running machine, in the environment that its payload has."""
    raise typer.Exit(joined(machine, [program]))
