"""Calls to libvirt, each with a deadline, in threads of our own; its errors turned into the contract's four.

libvirt's client has no deadline for a call: a daemon that hangs holds a thread until keep-alive gives the connection
up, or for ever while it is opened. So a call that is not back in time is left to itself in a thread that the end of
this process does not wait for, its connection is not used again, and only so many of them may hang.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import libvirt

from runtimes.contract import Conflict, Exhausted, Rejected, RuntimeFault, Unavailable
from runtimes.tracebacks import let_go

T = TypeVar("T")
CALL_SECONDS = 30.0
START_SECONDS = 120.0
ALIVE_SECONDS = 5
ALIVE_MISSED = 3

UNREACHABLE = frozenset(
    {
        libvirt.VIR_ERR_NO_CONNECT,
        libvirt.VIR_ERR_INVALID_CONN,
        libvirt.VIR_ERR_RPC,
        libvirt.VIR_ERR_SYSTEM_ERROR,
        libvirt.VIR_ERR_AUTH_FAILED,
        libvirt.VIR_ERR_AUTH_UNAVAILABLE,
        libvirt.VIR_ERR_OPERATION_TIMEOUT,
        libvirt.VIR_ERR_NO_CLIENT,
    }
)
"""Errors that say nothing of a machine."""
WORDS: tuple[tuple[str, type[RuntimeFault]], ...] = (
    ("no space left", Exhausted),
    ("cannot allocate memory", Exhausted),
    ("cannot set up guest memory", Exhausted),
    ("resource temporarily unavailable", Exhausted),
    ("too many open files", Exhausted),
    ("cannot acquire state change lock", Unavailable),
    ("end of file while reading", Unavailable),
    ("connection", Unavailable),
)
"""What libvirt and QEMU say, by what it means; anything else that they refuse is for good."""


class Gone(Exception):
    """The domain does not exist."""


class Events:
    """libvirt's event loop: one for a whole process, whose client library has no other way."""

    _lock = threading.Lock()
    _running = False

    @classmethod
    def run(cls) -> None:
        """Start it, unless it runs; before the first connection is opened."""
        with cls._lock:
            if not cls._running:
                libvirt.registerErrorHandler(lambda *_: None, None)  # it would print each error
                libvirt.virEventRegisterDefaultImpl()
                threading.Thread(target=cls._loop, name="libvirt-events", daemon=True).start()
                cls._running = True

    @staticmethod
    def _loop() -> None:
        while True:
            with suppress(libvirt.libvirtError):
                libvirt.virEventRunDefaultImpl()


class Engine:
    """One connection, opened again when it is lost. `heard` is told the name of a domain at each of its events."""

    def __init__(
        self,
        uri: str,
        *,
        workers: int = 8,
        seconds: float = CALL_SECONDS,
        heard: Callable[[str, int, int], None] | None = None,
    ) -> None:
        self.uri = uri
        self.seconds = seconds
        self._heard = heard
        self._workers = workers
        self._hanging: set[threading.Thread] = set()
        self._connection: libvirt.virConnect | None = None
        self._opening = threading.Lock()
        self._closed: list[Callable[[], None]] = []

    async def call(self, work: Callable[[libvirt.virConnect], T], doing: str, seconds: float | None = None) -> T:
        """Do `work` with the connection in a thread. Raises what `translated` makes of libvirt's errors, `Gone` for a
        domain that is not there, and `Unavailable` when there is no answer within `seconds` (default: this engine's).

        A caller that is cancelled waits for the end of the work: nothing goes on behind its back.
        """
        seconds = self.seconds if seconds is None else seconds
        self._hanging = {thread for thread in self._hanging if thread.is_alive()}
        if len(self._hanging) >= self._workers:
            raise Unavailable(f"libvirt has not answered for long: {len(self._hanging)} calls hang ({self.uri})")
        running, thread = self._started(work, doing)
        try:
            return await asyncio.wait_for(asyncio.shield(running), seconds)
        except TimeoutError as error:
            running.add_done_callback(_forget)
            self._hanging.add(thread)
            self._abandon()
            raise Unavailable(f"libvirt did not {doing} within {seconds:g} s ({self.uri})") from error
        except asyncio.CancelledError:
            await asyncio.wait({running}, timeout=seconds)
            running.add_done_callback(_forget)
            raise

    def _started(
        self, work: Callable[[libvirt.virConnect], T], doing: str
    ) -> tuple["asyncio.Future[T]", threading.Thread]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def tell(act: Callable[[Any], None], value: object) -> None:
            if not future.done():
                act(value)

        def run() -> None:
            try:
                done: tuple[Callable[[Any], None], object] = (future.set_result, self._do(work, doing))
            except Exception as error:
                done = (future.set_exception, let_go(error))
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(tell, *done)

        thread = threading.Thread(target=run, name="libvirt", daemon=True)
        thread.start()
        return future, thread

    def on_close(self, act: Callable[[], None]) -> None:
        """Have `act` called, in any thread, when the connection is lost or closed."""
        self._closed.append(act)

    def close(self) -> None:
        """Let go of the connection; calls under way are left to their end."""
        connection, self._connection = self._connection, None
        if connection is not None:
            threading.Thread(target=_close, args=(connection,), daemon=True).start()
        self._lost()

    def _do(self, work: Callable[[libvirt.virConnect], T], doing: str) -> T:
        try:
            return work(self._open())
        except libvirt.libvirtError as error:
            raise translated(error, doing) from error

    def _open(self) -> libvirt.virConnect:
        with self._opening:
            connection = self._connection
            if connection is not None and connection.isAlive():
                return connection
            Events.run()
            connection = libvirt.open(self.uri)
            with suppress(libvirt.libvirtError):  # not over every transport
                connection.setKeepAlive(ALIVE_SECONDS, ALIVE_MISSED)
            with suppress(libvirt.libvirtError):
                connection.registerCloseCallback(lambda *_: self._lost(), None)
            if self._heard:
                connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._event, None)
            self._connection = connection
            return connection

    def _event(self, _: Any, domain: libvirt.virDomain, event: int, detail: int, __: Any) -> None:
        if self._heard:
            self._heard(domain.name(), event, detail)

    def _lost(self) -> None:
        for act in list(self._closed):
            act()

    def _abandon(self) -> None:
        """A thread hangs in libvirt: leave it, and what it holds, to itself."""
        self._connection = None
        self._opening = threading.Lock()
        self._lost()


def _forget(done: "asyncio.Future[Any]") -> None:
    if not done.cancelled():
        done.exception()


def _close(connection: libvirt.virConnect) -> None:
    with suppress(libvirt.libvirtError):
        connection.close()


def translated(error: libvirt.libvirtError, doing: str) -> Exception:
    """The contract's error, or `Gone`, for one of libvirt's."""
    code, text = error.get_error_code(), " ".join((error.get_error_message() or str(error)).split())[:500]
    if code == libvirt.VIR_ERR_NO_DOMAIN:
        return Gone(text)
    kind: type[RuntimeFault] = Unavailable if code in UNREACHABLE else Rejected
    if code == libvirt.VIR_ERR_DOM_EXIST:
        kind = Conflict
    kind = next((k for words, k in WORDS if words in text.lower()), kind) if kind is not Conflict else kind
    return kind(f"libvirt could not {doing}: {text}")
