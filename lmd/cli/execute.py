"""`lm exec`: a command in a machine, on the caller's own input and output."""

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from lmd.cli.show import Machine
from lmd.cli.speaking import answered, awaited, fail, here, the_daemon, the_machine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lmd.cli.asking import Daemon
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
    if (daemon := the_daemon()) is not None:
        with answered():
            if found := daemon.machine(machine):
                return _by_daemon(daemon, found["id"], command)
    config, places = here()
    arguments = awaited(_interactive(config, places, machine, command))
    return subprocess.run(arguments, check=False).returncode


def _by_daemon(daemon: "Daemon", name: str, command: "Sequence[str]") -> int:
    """Root joins the machine on its own terminal; others have the command run, and get what it said."""
    body = {"command": list(command)}
    if os.geteuid() == 0:
        both = sys.stdin.isatty() and sys.stdout.isatty()
        told = daemon.post(f"/v1/machines/{name}/terminal", body, **({"terminal": 1} if both else {}))
        return subprocess.run(told["command"], check=False).returncode
    done = daemon.post(f"/v1/machines/{name}/exec", body, seconds=3600)
    sys.stdout.write(done["output"])
    sys.stderr.write(done["errors"])
    return int(done["exit_code"])


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
