"""Signals while a suite of many machines runs: they nest, none is lost, and none ends the process as it stands."""

import asyncio
import os
import signal
from collections.abc import Callable

import pytest

from lmd.conformance.signals import SIGNALS, run


async def sent(number: int) -> None:
    """Send a signal to this process and let the loop take it."""
    os.kill(os.getpid(), number)
    await asyncio.sleep(0.05)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_cancels_the_work_which_cleans_up(number: int) -> None:
    cleaned = []

    async def work(_: Callable[[], bool]) -> None:
        try:
            await sent(number)
            cleaned.append("too late")
        finally:
            await asyncio.sleep(0)
            cleaned.append("yes")

    with pytest.raises(asyncio.CancelledError):
        run(work)
    assert cleaned == ["yes"]


def test_a_machine_takes_signals_while_it_lives_and_they_are_noted() -> None:
    taken = []

    async def work(came: Callable[[], bool]) -> tuple[bool, bool]:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, taken.append, "machine")
        before = came()
        await sent(signal.SIGTERM)
        loop.remove_signal_handler(signal.SIGTERM)
        return before, came()

    assert run(work) == (False, True)
    assert taken == ["machine"]


def test_after_a_machine_a_signal_cancels_again() -> None:
    async def work(_: Callable[[], bool]) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, print, "never")
        loop.remove_signal_handler(signal.SIGTERM)
        await sent(signal.SIGTERM)

    with pytest.raises(asyncio.CancelledError):
        run(work)


def test_handlers_of_the_process_are_as_before() -> None:
    before = {number: signal.getsignal(number) for number in SIGNALS}

    async def work(came: Callable[[], bool]) -> bool:
        return came()

    assert run(work) is False
    assert {number: signal.getsignal(number) for number in SIGNALS} == before
