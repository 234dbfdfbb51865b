"""`lm logs`: a machine's console."""

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from lmd.cli.show import Machine
from lmd.cli.speaking import answered, awaited, fail, here, the_daemon, the_machine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lmd.config.models import Config
    from lmd.machine.known import Known
    from lmd.places import Places

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(epilog="Examples:  lm logs abcdef   |   lm logs -f abcdef | grep -i error")
def logs(
    machine: Machine,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the machine has ended.")] = False,
) -> None:
    """Print what a machine wrote to its console: all that is kept, then with -f what comes.

    On a terminal, sequences that could drive it are made harmless; into a pipe the bytes go as they are.
    """
    if (daemon := the_daemon()) is not None:
        with answered():
            if found := daemon.machine(machine):
                _stream(daemon.stream(f"/v1/machines/{found['id']}/console", **({"follow": 1} if follow else {})))
                return
    config, places = here()
    awaited(_logs(config, places, machine, follow))


def _stream(pieces: "Iterator[bytes]") -> None:
    from lmd.environment.printable import Stream

    cleaner = Stream() if sys.stdout.isatty() else None
    for data in pieces:
        sys.stdout.buffer.write(cleaner.feed(data).encode() if cleaner else data)
        sys.stdout.buffer.flush()


async def _logs(config: "Config", places: "Places", wanted: str, follow: bool) -> None:
    from lmd.engines import opened
    from lmd.environment.printable import Stream
    from runtimes.contract import Logs

    found = await the_machine(config, places, wanted)
    cleaner = Stream() if sys.stdout.isatty() else None

    def write(data: bytes) -> None:
        sys.stdout.buffer.write(cleaner.feed(data).encode() if cleaner else data)
        sys.stdout.buffer.flush()

    if found.seen is None or (found.seen.end and not follow and _kept(found)):
        write(_kept(found) or fail(f"machine {found.id}: nothing of its console is kept"))
        return
    async with opened(found.runtime, config, places) as runtime:
        if not isinstance(runtime, Logs):
            fail(f"runtime {found.runtime} keeps no console")
        async for chunk in runtime.console(found.id, follow=follow):
            if chunk.skipped:
                write(f"\n[lmd: {chunk.skipped} bytes of console output left out here]\n".encode())
            await asyncio.to_thread(write, chunk.data)


def _kept(found: "Known") -> bytes:
    """The console as its `lm run` has kept it; empty if it has not."""
    try:
        return found.directory.console.read_bytes() if found.directory else b""
    except OSError:
        return b""
