"""`lmd-metadata`: the process. It takes the host's one lock, binds, gives up all rights, and then only answers.

Everything is imported before the first request, since an upgrade replaces the files beneath a server that goes on.
"""

import argparse
import asyncio
import encodings.idna  # noqa: F401  what aiohttp and the standard library import only when they need it
import fcntl
import logging
import os
import secrets
import signal
import socket
import stringprep  # noqa: F401
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import TextIO

from lmd.metadata import account, tokens
from lmd.metadata.answers import Side
from lmd.metadata.card import CALLERS, INCOMING, addresses
from lmd.metadata.limits import MOST_CONNECTIONS, Limits
from lmd.metadata.neighbours import neighbours
from lmd.metadata.outputs import clear
from lmd.metadata.server import Server
from lmd.network import host

log = logging.getLogger("lmd-metadata")

LOCK = "metadata.lock"
OWN = "metadata"
KEY = "token-key"
PORT = 80
BACKLOG = 1024
THREADS = 16
LINES = 50
ALREADY = 75
"""Exit code where another server has the lock."""
_IP_FREEBIND = 15
_MOST_OPEN_ASIDE = 256


class CannotServe(Exception):
    """The server cannot be started; one line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The entry point `lmd-metadata`; returns its exit code."""
    asked = _arguments(arguments)
    _log_to(sys.stderr)
    try:
        lock = locked(asked.run_dir)
    except CannotServe as error:
        log.error("%s", error)
        return 1
    if lock is None:
        log.info("another server of this host has the lock %s", asked.run_dir / LOCK)
        return ALREADY
    try:
        sides = _sides(asked.features, asked.metadata)
        sockets = [bound(address, asked.port) for address in sides]
        server = account.account(os.geteuid())
        own = _own_directory(asked.run_dir, server)
        account.lift_open_files()
        account.become(server)
        asyncio.run(_serve(asked, sides, sockets, key(own)))
    except (CannotServe, OSError) as error:
        log.error("%s", error)
        return 1
    return 0


def _log_to(stream: TextIO) -> None:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("lmd-metadata: %(message)s"))
    handler.addFilter(Calm(LINES, time.monotonic))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class Calm(logging.Filter):
    """Lets `most` lines through in ten seconds, and drops the rest: what machines do must not fill a disk."""

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        super().__init__()
        self._most, self._clock = most, clock
        self._since, self._count = clock(), 0

    def filter(self, record: logging.LogRecord) -> bool:
        if self._clock() - self._since > 10:
            self._since, self._count = self._clock(), 0
        self._count += 1
        return self._count <= self._most


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    features, metadata = host.sides(host.prefix6())
    parser = argparse.ArgumentParser(prog="lmd-metadata", description="Answer the machines of this host by HTTP.")
    parser.add_argument("--run-dir", type=Path, default=Path("/run/lmd"), help="where callers are registered")
    parser.add_argument("--features", nargs="+", metavar="ADDRESS", default=features, help="serve features here")
    parser.add_argument("--metadata", nargs="+", metavar="ADDRESS", default=metadata, help="serve metadata here")
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--idle", type=float, default=0, metavar="SECONDS", help="end after so long without machines")
    parser.add_argument("--patience", type=float, default=15, metavar="SECONDS", help="for an idle connection")
    parser.add_argument("--ready-fd", type=int, default=-1, help="a descriptor to write a line to, once it serves")
    return parser.parse_args(arguments)


def locked(run: Path) -> int | None:
    """The descriptor of the lock that one server of a host has for as long as it lives; None if another has it.

    The file holds the pid of the server, for people.
    """
    try:
        run.mkdir(mode=0o711, parents=True, exist_ok=True)
        descriptor = os.open(run / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise CannotServe(f"{error.filename}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    os.truncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def bound(address: str, port: int) -> socket.socket:
    """A listening socket on an address that the host need not have yet, or may lose for a while."""
    six = ip_address(address).version == 6
    listening = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if six:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.setsockopt(socket.SOL_IP, _IP_FREEBIND, 1)
        listening.bind((address, port))
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise CannotServe(f"cannot listen on {address} port {port}: {error.strerror}") from error
    return listening


def key(own: Path) -> bytes:
    """The key that tokens are signed with; kept, so that a restarted server knows the tokens of before."""
    path = own / KEY
    if not os.access(own, os.W_OK | os.X_OK):
        raise CannotServe(f"user {os.geteuid()} cannot get to {own}: let others pass: chmod o+x its parent directories")
    with suppress(OSError):
        if len(found := path.read_bytes()) == tokens.KEY_BYTES:
            return found
    made = secrets.token_bytes(tokens.KEY_BYTES)
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(made)
    return made


def _own_directory(run: Path, server: account.Account) -> Path:
    """The one directory that is the server's own, and that of its callers where nobody has been registered yet."""
    own = run / OWN
    own.mkdir(mode=0o700, exist_ok=True)
    callers = run / CALLERS
    callers.mkdir(mode=0o700, exist_ok=True)
    server.share(callers, 0o750)
    if os.geteuid() == 0:
        os.chown(own, server.uid, server.gid, follow_symlinks=False)
    return own


def _sides(features: Sequence[str], metadata: Sequence[str]) -> Mapping[str, Side]:
    try:
        return {str(ip_address(a)): Side.FEATURES for a in features} | {
            str(ip_address(a)): Side.METADATA for a in metadata
        }
    except ValueError as error:
        raise CannotServe(str(error)) from error


async def _serve(
    asked: argparse.Namespace, sides: Mapping[str, Side], sockets: Sequence[socket.socket], token_key: bytes
) -> None:
    most = max(64, min(MOST_CONNECTIONS, os.sysconf("SC_OPEN_MAX") - _MOST_OPEN_ASIDE))
    limits = Limits(all_connections=most, idle=asked.patience)
    ending = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ending.set)
    with ThreadPoolExecutor(THREADS, "files") as threads:
        async with neighbours() as checks:
            server = Server(asked.run_dir, dict(sides), limits, token_key, checks, threads)
            _clear_uploads(asked.run_dir)
            accepting = [asyncio.ensure_future(server.accept(listening)) for listening in sockets]
            log.info("serving on %s", ", ".join(sides))
            if asked.ready_fd >= 0:
                os.write(asked.ready_fd, b"ready\n")
                os.close(asked.ready_fd)
            await _until(ending, server, asked.run_dir, asked.idle)
            for task in accepting:
                task.cancel()
            await server.aclose()


async def _until(ending: asyncio.Event, server: Server, run: Path, idle: float) -> None:
    """Wait for a signal, or until there have been no machines for `idle` seconds (0: for ever)."""
    loop = asyncio.get_running_loop()
    needed = loop.time()
    while True:
        with suppress(TimeoutError):
            await asyncio.wait_for(ending.wait(), min(10.0, idle or 10.0))
            return
        server.forget()
        if not server.idle() or any(path.exists() for path in addresses(run).values()):
            needed = loop.time()
        if idle and loop.time() - needed > idle:
            log.info("no machines for %g s", idle)
            return


def _clear_uploads(run: Path) -> None:
    for path in set(addresses(run).values()):
        with suppress(OSError):
            top = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                clear(top)
            except OSError as error:
                log.warning("%s: %s: %s", path / INCOMING, "cannot be cleared", error.strerror)
            finally:
                os.close(top)


if __name__ == "__main__":
    sys.exit(main())
