"""Engines behind a Unix socket that are not there, or never answer."""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from runtimes.conformance.context import Outage
from runtimes.contract import Runtime


def stopped(make: Callable[[], Runtime]) -> Outage:
    """An engine at whose socket nobody listens."""

    @asynccontextmanager
    async def lasting() -> AsyncIterator[Runtime]:
        yield make()

    return lasting


def hung(path: Path, make: Callable[[], Runtime]) -> Outage:
    """An engine whose socket, at `path`, takes connections and never answers."""

    @asynccontextmanager
    async def lasting() -> AsyncIterator[Runtime]:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen(16)
            try:
                yield make()
            finally:
                path.unlink()

    return lasting
