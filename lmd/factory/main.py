"""`lmd`: the daemon of this host's factory, in the foreground."""

import asyncio
import fcntl
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Annotated, Any

import typer

from lmd.config.load import load_host
from lmd.config.problems import ConfigError
from lmd.factory import lastgood
from lmd.factory.factory import Factory
from lmd.factory.host import Host, loaded
from lmd.factory.logs import configured, event_log
from lmd.factory.rows import HostClocks
from lmd.factory.warnings import Kind
from lmd.places import PlaceError, Places, places

CANNOT_START = 2
ALREADY = 3


class AlreadyRuns(Exception):
    """Another daemon has this factory."""


def main() -> None:
    """The entry point `lmd`."""
    typer.run(lmd)


def lmd(
    log: Annotated[str, typer.Option(help="Form of the log: json, text, or auto: text on a terminal.")] = "auto",
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
) -> None:
    """Run this host's factory in the foreground, until SIGTERM or SIGINT; its machines go on without it.

    SIGHUP reads the configuration again. Look into it with `lm ps`, `lm why`, `lm warnings`.
    """
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"lmd {installed('lmd')}")
        raise typer.Exit
    if log not in ("auto", "json", "text"):
        _fail(f"--log {log}: expected json, text or auto")
    try:
        here = places(os.geteuid(), os.environ).make()
        with alone(here):
            logger = configured(log)
            asyncio.run(serve(here, os.environ, logger))
    except PlaceError as error:
        _fail(str(error))
    except AlreadyRuns as error:
        _fail(str(error), ALREADY)


def _fail(text: str, code: int = CANNOT_START) -> None:
    for line in text.splitlines():
        typer.echo(f"lmd: {line}", err=True)
    raise typer.Exit(code)


@contextmanager
def alone(here: Places) -> Iterator[None]:
    """Hold the factory's lock, which the kernel lets go of on any death. Raises `AlreadyRuns`, `PlaceError`."""
    path = here.state / "lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:  # a read-only or full file system must not keep the machines unattended
        path = here.run / "lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise PlaceError(f"{path}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
            raise AlreadyRuns(f"{path}: process {holder} is the daemon of this factory already") from error
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


async def serve(here: Places, environment: Mapping[str, str], logger: Any) -> None:
    """Run the factory and its API until a signal says to end.

    A configuration that cannot be used is a warning: the last good one holds, and machines are looked after.
    """
    from lmd.factory.api.server import Api

    host = Host(here, HostClocks(), environment, loaded(here), event_log(logger))
    problems: list[str] = []
    try:
        config = load_host(os.geteuid(), environment)
        lastgood.keep(config, here.state)
    except ConfigError as error:
        config, problems = lastgood.kept(here.state), [str(problem) for problem in error.problems]
    factory = Factory(host, config)
    await factory.open()
    if problems:
        _complain(factory, problems)
    else:
        factory.reconfigure(config)
    api = Api(factory, here.run / "lmd.sock", lambda: reload(factory, environment))
    loop = asyncio.get_running_loop()
    reloading: set[asyncio.Task[Any]] = set()

    def hang_up() -> None:
        task = asyncio.create_task(reload(factory, environment))
        reloading.add(task)
        task.add_done_callback(reloading.discard)

    loop.add_signal_handler(signal.SIGHUP, hang_up)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, factory.end)
    await api.open()
    _notify("READY=1")
    try:
        await factory.run()
    finally:
        _notify("STOPPING=1")
        await api.aclose()
        await factory.aclose()


async def reload(factory: Factory, environment: Mapping[str, str]) -> list[str]:
    """Read the configuration again; what is wrong with it, a line each: then the last good one is kept."""
    try:
        config = await asyncio.to_thread(load_host, os.geteuid(), environment)
    except ConfigError as error:
        problems = [str(problem) for problem in error.problems]
        _complain(factory, problems)
        return problems
    lastgood.keep(config, factory.places.state)
    factory.ledger.events.add("reloaded", machinetypes=sorted(config.machinetypes), disabled=sorted(config.disabled))
    factory.reconfigure(config)
    return []


def _complain(factory: Factory, problems: list[str]) -> None:
    text = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
    factory.ledger.warnings.raised(Kind.CONFIGURATION, "", f"{text}; the last good configuration is kept")
    factory.wake()


def _notify(state: str) -> None:
    """Tell systemd (sd_notify(3)), where it has asked."""
    import socket

    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
        connection.connect("\0" + address[1:] if address.startswith("@") else address)
        connection.send(state.encode())


if __name__ == "__main__":
    main()
