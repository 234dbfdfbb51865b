"""`lm exec`: a command in a machine, on the caller's own input and output."""

import subprocess
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from lmd.cli.show import Machine
from lmd.cli.speaking import awaited, fail, here, the_machine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lmd.config.models import Config
    from lmd.places import Places

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="Examples:  lm exec abcdef ps aux   |   lm exec abcdef sh -c 'ls -l $JOBOUTPUTS'",
)
def execute(
    machine: Machine,
    command: Annotated[list[str], typer.Argument(metavar="COMMAND [ARG]...", help="What to run, a word an argument.")],
) -> None:
    """Run a command in a running machine, in its environment; ends with the command's exit code."""
    raise typer.Exit(joined(machine, command))


def joined(machine: str, command: "Sequence[str]") -> int:
    """Run `command` in the machine on our own input, output and terminal; its exit code."""
    config, places = here()
    arguments = awaited(_interactive(config, places, machine, command))
    return subprocess.run(arguments, check=False).returncode


async def _interactive(config: "Config", places: "Places", wanted: str, command: "Sequence[str]") -> "Sequence[str]":
    from lmd.engines import opened
    from runtimes.contract import Exec, State

    found = await the_machine(config, places, wanted)
    if found.seen is None or found.seen.state is not State.RUNNING:
        fail(f"machine {found.id} does not run: it is {found.phase}")
    async with opened(found.runtime, config, places) as runtime:
        if not isinstance(runtime, Exec):
            fail(f"runtime {found.runtime} cannot run commands in a machine")
        terminal = sys.stdin.isatty() and sys.stdout.isatty()
        return await runtime.interactive(found.id, command, terminal=terminal)
