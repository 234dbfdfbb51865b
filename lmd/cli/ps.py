"""`lm ps`: the machines of this host."""

import os
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from lmd.cli.speaking import answered, awaited, duration, here, print_json, table, tell, the_daemon

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(epilog="Examples:  lm ps   |   lm ps --json | jq -r '.[].id'")
def ps(
    as_json: Annotated[bool, typer.Option("--json", help="All that is known of each machine, as JSON.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", "-a", help="Also those of the daemon that have ended lately.")
    ] = False,
) -> None:
    """List the machines of this host: running, ended and kept, and those whose lm run has died.

    A machine is `lost` when its engine does not know it, `unknown` when the engine does not answer, and `orphaned`
    when the lm run that looked after it is gone: lm destroy removes it.
    """
    from lmd.engines import here as runtimes_here
    from lmd.machine.known import known

    if (daemon := the_daemon()) is not None:
        with answered():
            _show(daemon.get("/v1/machines", **({"all": 1} if everything else {})), {}, as_json)
        return
    config, places = here()
    machines, answers = awaited(known(config, places, runtimes_here(os.environ)))
    silent = {answer.runtime: answer.problem for answer in answers if answer.problem}
    _show([machine.plain() for machine in machines], silent, as_json)


def _show(machines: Sequence[Mapping[str, Any]], silent: Mapping[str, str], as_json: bool) -> None:
    if as_json:
        print_json(machines)
        return
    now = time.time()
    rows = [
        (
            machine["id"],
            machine["phase"] + (" (orphaned)" if machine["orphaned"] else ""),
            machine["machinetype"] or "-",
            machine["runtime"] or "-",
            machine["owner"] or "-",
            duration(now - machine["created"]) if machine["created"] else "-",
        )
        for machine in machines
    ]
    if rows:
        table(("ID", "PHASE", "TYPE", "RUNTIME", "OWNER", "AGE"), rows)
    else:
        tell("no machines")
    for machine in machines:
        if machine["problem"] and machine["runtime"] not in silent:
            tell(f"{machine['id']}: {machine['problem']}")
    for name, problem in silent.items():
        if any(machine["runtime"] == name for machine in machines):
            tell(f"{name} cannot be asked: {problem}")
