"""`lm destroy`: remove machines with all that is left of them."""

import asyncio
import os
import time
from typing import TYPE_CHECKING, Annotated

import typer

from lmd.cli.speaking import USAGE, answered, awaited, fail, here, tell, the_daemon

if TYPE_CHECKING:
    from lmd.cli.asking import Daemon
    from lmd.config.models import Config
    from lmd.environment.directory import Directory
    from lmd.machine.known import Known
    from lmd.places import Places

app = typer.Typer(rich_markup_mode=None, add_completion=False)
SUPERVISOR_SECONDS = 20


@app.command(epilog="Examples:  lm destroy abcdef   |   lm destroy --orphaned")
def destroy(
    machines: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help="Ids, or parts that only one machine has.")
    ] = None,
    orphaned: Annotated[
        bool, typer.Option("--orphaned", help="All machines whose lm run is gone, and that were not kept.")
    ] = False,
) -> None:
    """End machines at once and remove all that is left of them: container, scratch, directory with the outputs."""
    if not machines and not orphaned:
        fail("name a machine, or say --orphaned; see them with: lm ps", USAGE)
    if machines and (daemon := the_daemon()) is not None:
        with answered():
            machines = _by_daemon(daemon, machines)
        if not machines and not orphaned:
            return
    config, places = here()
    awaited(_destroy_all(config, places, machines or [], orphaned))


def _by_daemon(daemon: "Daemon", wanted: list[str]) -> list[str]:
    """Have the daemon remove those that are its own, and wait until they are gone; returns the others."""
    found = {name: daemon.machine(name) for name in wanted}
    going = [one["id"] for one in found.values() if one]
    for name in going:
        daemon.post(f"/v1/machines/{name}/destroy")
    for name in going:
        while not (told := daemon.get(f"/v1/machines/{name}"))["cleaned"] or told["phase"] != "finished":
            time.sleep(0.1)
        tell(f"machine {name} is gone")
    return [name for name, one in found.items() if not one]


async def _destroy_all(config: "Config", places: "Places", wanted: list[str], orphaned: bool) -> None:
    from lmd.engines import here as runtimes_here
    from lmd.machine.known import known, pick

    found, answers = await known(config, places, runtimes_here(os.environ))
    chosen = [pick(found, name) for name in wanted]
    if orphaned:
        chosen += [m for m in found if m.orphaned and not (m.record and m.record.outcome) and m not in chosen]
    problems = [problem for problem in await asyncio.gather(*(_destroy(config, places, m) for m in chosen)) if problem]
    if orphaned and not chosen:
        tell("no orphaned machines")
    unsure = [answer for answer in answers if answer.problem and any(m.runtime == answer.runtime for m in found)]
    problems += [f"{answer.runtime} cannot be asked: {answer.problem}" for answer in unsure if orphaned]
    if problems:
        fail("\n".join(problems))


async def _until_left(machine: "Known", directory: "Directory") -> None:
    """A living lm run sees the end and removes the directory itself: give it time, rather than pull it away."""
    from lmd.environment.directory import supervised

    for _ in range(SUPERVISOR_SECONDS * 10):
        if machine.record is None or not supervised(machine.record) or not directory.path.exists():
            return
        await asyncio.sleep(0.1)


async def _destroy(config: "Config", places: "Places", machine: "Known") -> str:
    """What hindered; empty if nothing of the machine is left."""
    from lmd.engines import NoRuntime, here, opened
    from lmd.environment.directory import DirectoryError
    from lmd.machine.foreground import destroyed
    from lmd.machine.known import Phase, directory_of
    from runtimes.contract import RuntimeFault

    directory = directory_of(machine, places)
    try:
        if machine.phase is Phase.UNKNOWN:
            return f"machine {machine.id}: {machine.problem or 'its engine cannot be asked'}; nothing was removed"
        if machine.directory and directory.path.exists():
            directory.move_shutdown_time(time.time())
            directory.ask_to_stop(f"lm destroy by user {os.geteuid()}")
        for name in [machine.runtime] if machine.runtime else here(os.environ):
            async with opened(name, config, places) as runtime:
                await runtime.destroy(machine.id)
                await _until_left(machine, directory)
                await destroyed(runtime, machine.id, directory)
    except (RuntimeFault, NoRuntime, DirectoryError) as error:
        return f"machine {machine.id}: {error}"
    tell(f"machine {machine.id} is gone")
    return ""
