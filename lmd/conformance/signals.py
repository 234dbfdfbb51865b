"""Signals for a process that runs many machines: each run takes them while its machine lives, and puts them back."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class NestingLoop(asyncio.SelectorEventLoop):
    """An event loop on which the handlers of a signal nest: removing one puts back the one before it.

    An ordinary loop forgets the one before, and between two machines a signal would end the process as it stands.
    """

    def __init__(self) -> None:
        super().__init__()
        self.came = False
        self._nested: dict[int, list[Callable[[], None]]] = {}

    def add_signal_handler(self, sig: int, callback: Callable[[*Ts], Any], *args: *Ts) -> None:
        """Have `callback` called until it is removed, and note each signal that comes."""

        def noted() -> None:
            self.came = True
            callback(*args)

        super().add_signal_handler(sig, noted)
        self._nested.setdefault(sig, []).append(noted)

    def remove_signal_handler(self, sig: int) -> bool:
        """Remove the last handler that was added."""
        nested = self._nested.get(sig, [])
        if nested:
            nested.pop()
        if not nested:
            return super().remove_signal_handler(sig)
        super().add_signal_handler(sig, nested[-1])
        return True


def run(work: Callable[[Callable[[], bool]], Coroutine[Any, Any, T]]) -> T:
    """Run `work` to its end; a signal cancels it unless a machine takes the signal first.

    `work` is given a function that tells whether any signal has come. Raises `CancelledError` if it was cancelled.
    """

    async def guarded(loop: NestingLoop) -> T:
        task = asyncio.current_task()
        for number in SIGNALS:
            if task is not None:
                loop.add_signal_handler(number, task.cancel)
        return await work(lambda: loop.came)

    loop = NestingLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(guarded(loop))
