"""`lm console`: a terminal at a machine's console."""

import subprocess
from typing import TYPE_CHECKING

import typer

from lmd.cli.show import Machine
from lmd.cli.speaking import awaited, fail, here, the_machine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lmd.config.models import Config
    from lmd.places import Places

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(epilog="Examples:  lm console abcdef   ·   leave it with Ctrl-]")
def console(machine: Machine) -> None:
    """Join the console of a running virtual machine. Containers have none: lm shell opens a shell in them."""
    config, places = here()
    arguments = awaited(_terminal(config, places, machine))
    raise typer.Exit(subprocess.run(arguments, check=False).returncode)


async def _terminal(config: "Config", places: "Places", wanted: str) -> "Sequence[str]":
    from lmd.engines import opened
    from runtimes.contract import Console, Rejected

    found = await the_machine(config, places, wanted)
    async with opened(found.runtime, config, places) as runtime:
        if not isinstance(runtime, Console):
            fail(f"machines of runtime {found.runtime} have no console to join; try: lm shell {found.id}")
        try:
            return await runtime.terminal(found.id)
        except Rejected as error:
            fail(str(error))
