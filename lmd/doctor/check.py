"""One check, and all of them at the same time, each under its deadline."""

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from lmd.config.models import Config
from lmd.config.problems import Problem
from lmd.doctor.finding import Finding, Report, warning
from lmd.places import Places

F = TypeVar("F")
T = TypeVar("T")
SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """For whom the host is looked at. `unreadable` says what is wrong with a configuration that cannot be used; then
    `config` has the defaults. `ask_daemon` gives the daemon's open warnings, None if no daemon listens, or raises."""

    uid: int
    user: str
    environment: Mapping[str, str]
    config: Config
    places: Places
    unreadable: Sequence[Problem] = ()
    runtimes: Sequence[str] = ()
    trial: bool = True
    ask_daemon: Callable[[], Sequence[str] | None] | None = None

    @property
    def rootless(self) -> bool:
        """Whether engines run as an ordinary user."""
        return self.uid != 0


@dataclass(frozen=True, slots=True)
class Check(Generic[F]):
    """`gather` looks, blocking or not, for at most `seconds`; `rule` is pure."""

    name: str
    gather: Callable[[Asked], F | Awaitable[F]]
    rule: Callable[[F], Iterable[Finding]]
    seconds: float = SECONDS


async def examine(checks: Sequence[Check[Any]], asked: Asked) -> Report:
    """Make all checks; one that hangs or breaks is a warning, and the others go on."""
    results = await asyncio.gather(*(_examined(check, asked) for check in checks))
    return Report([finding for found, _ in results for finding in found], any(hung for _, hung in results))


async def _examined(check: Check[Any], asked: Asked) -> tuple[list[Finding], bool]:
    try:
        async with asyncio.timeout(check.seconds):
            facts = await _gathered(check, asked)
        return [finding.of(check.name) for finding in check.rule(facts)], bool(getattr(facts, "hung", False))
    except TimeoutError:
        return [warning(f"cannot be told: no answer within {check.seconds:g} s").of(check.name)], True
    except Exception as error:  # a host that is stranger than we thought must not hide the other findings
        return [warning(f"cannot be told: {type(error).__name__}: {error}").of(check.name)], False


async def _gathered(check: Check[F], asked: Asked) -> F:
    if inspect.iscoroutinefunction(check.gather):
        made: F = await check.gather(asked)
        return made
    plain: Callable[[Asked], Any] = check.gather
    result: F = await apart(lambda: plain(asked))
    return result


async def apart(work: Callable[[], T]) -> T:
    """Run a blocking function in a thread that nobody waits for at the end, should it hang in the kernel."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: Exception | None) -> None:
        if future.cancelled():
            return
        if error is None:
            future.set_result(result)  # type: ignore[arg-type]
        else:
            future.set_exception(error)

    def body() -> None:
        try:
            made, failed = work(), None
        except Exception as error:
            made, failed = None, error
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, made, failed)

    threading.Thread(target=body, daemon=True).start()
    return await future
