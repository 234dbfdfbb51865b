"""How commands speak: sentences on standard error, one-line errors, tables, JSON; and how they reach this host."""

import asyncio
import json
import os
import sys
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import typer

if TYPE_CHECKING:
    from lmd.cli.asking import Daemon
    from lmd.config.models import Config
    from lmd.machine.known import Known
    from lmd.places import Places

T = TypeVar("T")
PROBLEM = 1
USAGE = 2


def tell(sentence: str) -> None:
    """One sentence on standard error, marked as ours."""
    typer.echo(f"lm: {sentence}", err=True)


def fail(text: str, code: int = PROBLEM) -> NoReturn:
    """End with an error, a line for each problem."""
    for line in text.splitlines() or ["failed"]:
        typer.secho(f"lm: {line}", err=True, fg=typer.colors.RED if sys.stderr.isatty() else None)
    raise typer.Exit(code)


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    typer.echo(json.dumps(value, indent=2, default=str))


def awaited(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; what users can cause becomes one line."""
    from lmd.engines import NoRuntime
    from lmd.environment.directory import DirectoryError
    from lmd.machine.known import NotOne
    from runtimes.contract import RuntimeFault

    try:
        return asyncio.run(work)
    except (NotOne, NoRuntime, RuntimeFault, DirectoryError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("interrupted", 130)


def the_daemon() -> "Daemon | None":
    """The daemon of this host, if it is there; no configuration is needed to ask it."""
    from lmd.cli.asking import daemon
    from lmd.places import places

    return daemon(places(os.geteuid(), os.environ))


def needed() -> "Daemon":
    """The daemon of this host; it is an error if there is none."""
    if (found := the_daemon()) is not None:
        return found
    fail("the daemon does not run here; start it with: lmd (or systemctl start lmd)")


@contextmanager
def answered() -> Iterator[None]:
    """What the daemon refuses, or that it has gone, becomes one line."""
    from lmd.cli.asking import NoDaemon, Refused

    try:
        yield
    except (NoDaemon, Refused) as error:
        fail(str(error))


def here() -> "tuple[Config, Places]":
    """The host's configuration and directories; a configuration that cannot be read is an error of one line each."""
    from lmd.config.load import load_host
    from lmd.config.problems import ConfigError
    from lmd.places import PlaceError, places

    try:
        return load_host(os.geteuid(), os.environ), places(os.geteuid(), os.environ).make()
    except ConfigError as error:
        fail("\n".join(str(problem) for problem in error.problems))
    except PlaceError as error:
        fail(str(error))


async def the_machine(config: "Config", places: "Places", wanted: str) -> "Known":
    """The machine that an id, or a part of one that only one has, means. Raises `NotOne`."""
    from lmd.engines import here as runtimes_here
    from lmd.machine.known import known, pick

    machines, _ = await known(config, places, runtimes_here(os.environ))
    return pick(machines, wanted)


def when(seconds: float | None) -> str:
    """A time in the host's zone with its offset; `-` for none."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(seconds)) if seconds else "-"


def duration(seconds: float) -> str:
    """Seconds as people say them: 8.3 s, 12 min 4 s, 3 h 20 min, 2 d 4 h."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def size(count: float) -> str:
    """Bytes in powers of ten: 512 B, 1.5 kB, 20.0 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on standard output, whole however wide, so that it can be searched and cut."""
    widths = [max(len(row[number]) for row in (head, *rows)) for number in range(len(head))]
    for row in (head, *rows):
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
