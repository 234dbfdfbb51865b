"""What a failed call held is freed in its own thread, whoever keeps the error."""

import threading

import pytest

from lmd.network import factory_network
from runtimes.tracebacks import let_go


class Held:
    """Something that notes the thread in which it is freed."""

    def __init__(self, freed_in: list[str]) -> None:
        self._freed_in = freed_in

    def __del__(self) -> None:
        self._freed_in.append(threading.current_thread().name)


def _fails(freed_in: list[str]) -> None:
    held = Held(freed_in)
    try:
        raise KeyError("inner")
    except KeyError as error:
        raise RuntimeError(f"outer of {type(held).__name__}") from error


def test_an_error_keeps_its_causes_and_lines_and_nothing_that_the_call_held() -> None:
    freed_in: list[str] = []
    with pytest.raises(RuntimeError, match="outer of Held") as caught:
        _fails(freed_in)
    assert not freed_in
    error = let_go(caught.value)
    assert freed_in
    assert isinstance(error.__cause__, KeyError)
    assert error.__traceback__ is not None


def test_an_error_that_is_its_own_cause_is_no_endless_loop() -> None:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    assert let_go(one) is one


def test_what_a_call_to_libvirt_held_is_freed_in_the_thread_that_made_it() -> None:
    """Freed in another, it would hang that one with a libvirt that hangs."""
    freed_in: list[str] = []
    with pytest.raises(RuntimeError, match="outer") as caught:
        factory_network._within(10, lambda: _fails(freed_in))
    assert freed_in == ["libvirt network"]
    del caught
