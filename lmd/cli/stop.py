"""`lm stop`: ask machines to end."""

import asyncio
import os
import time
from typing import TYPE_CHECKING, Annotated

import typer

from lmd.cli.speaking import answered, awaited, here, tell, the_daemon, the_machine

if TYPE_CHECKING:
    from lmd.cli.asking import Daemon
    from lmd.config.models import Config
    from lmd.machine.known import Known
    from lmd.places import Places

app = typer.Typer(rich_markup_mode=None, add_completion=False)
POLL_SECONDS = 0.1


@app.command(epilog="Examples:  lm stop abcdef   |   lm stop --grace 600 abcdef ghijkl")
def stop(
    machines: Annotated[list[str], typer.Argument(metavar="ID", help="Ids, or parts that only one machine has.")],
    grace: Annotated[int, typer.Option(min=0, metavar="SECONDS", help="Notice before it is ended by force.")] = 30,
) -> None:
    """Ask machines to end, wait up to the grace, then end them; they and their outputs stay for lm show and destroy.

    A machine is told by its features (shutdowntime moves to the end of the grace) and by SIGTERM.
    """
    if (daemon := the_daemon()) is not None:
        with answered():
            machines = _by_daemon(daemon, machines, grace)
    if machines:
        config, places = here()
        awaited(_stop_all(config, places, machines, grace))


def _by_daemon(daemon: "Daemon", wanted: list[str], grace: int) -> list[str]:
    """Have the daemon end those that are its own, and wait for them; returns the others."""
    found = {name: daemon.machine(name) for name in wanted}
    waiting = [one["id"] for one in found.values() if one]
    for name in waiting:
        daemon.post(f"/v1/machines/{name}/stop", {"grace": grace})
    for name in waiting:
        while daemon.get(f"/v1/machines/{name}")["phase"] != "finished":
            time.sleep(POLL_SECONDS)
        tell(f"machine {name} has ended")
    return [name for name, one in found.items() if not one]


async def _stop_all(config: "Config", places: "Places", wanted: list[str], grace: int) -> None:
    found = [await the_machine(config, places, name) for name in wanted]
    await asyncio.gather(*(_stop(config, places, machine, grace) for machine in found))


async def _stop(config: "Config", places: "Places", machine: "Known", grace: int) -> None:
    from lmd.engines import opened

    if machine.directory:
        machine.directory.move_shutdown_time(time.time() + grace)
        machine.directory.ask_to_stop(f"lm stop by user {os.geteuid()}")
    if machine.runtime:
        async with opened(machine.runtime, config, places) as runtime:
            await runtime.stop(machine.id, grace=grace)
    tell(f"machine {machine.id} has ended")
