"""`lm drain`: let a factory run empty."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from lmd.cli.speaking import answered, needed, tell

if TYPE_CHECKING:
    from lmd.cli.asking import Daemon

app = typer.Typer(rich_markup_mode=None, add_completion=False)
POLL_SECONDS = 1.0


@app.command(
    epilog="Examples:  lm drain --reason 'new disks'   |   lm drain --wait --deadline 3600   |   lm drain --type atlas"
)
def drain(
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Shown by lm why.")] = "",
    deadline: Annotated[
        int | None, typer.Option(min=0, metavar="SECONDS", help="End what still runs after this long, told so at once.")
    ] = None,
    machinetype: Annotated[str | None, typer.Option("--type", help="Only machines of this type.")] = None,
    host_shutdown: Annotated[
        bool, typer.Option("--host-shutdown", help="For the unit that ends machines when the host goes down.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Return when no machine of the factory runs any more.")] = False,
) -> None:
    """Start nothing more, until lm undrain; also after a restart of the daemon or of the host."""
    daemon = needed()
    with answered():
        body = {"reason": reason, "deadline": deadline, "machinetype": machinetype, "host_shutdown": host_shutdown}
        daemon.post("/v1/drain", body)
        tell("draining" + (f" {machinetype}" if machinetype else ""))
        while wait and (left := _running(daemon, machinetype)):
            tell(f"{left} machine(s) still run")
            for _ in range(60):
                time.sleep(POLL_SECONDS)
                if _running(daemon, machinetype) != left:
                    break


def _running(daemon: "Daemon", machinetype: str | None) -> int:
    machines = daemon.get("/v1/machines")
    return sum(
        1 for one in machines if one["owner"].startswith("factory:") and machinetype in (None, one["machinetype"])
    )
