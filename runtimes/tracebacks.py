"""Errors that leave the thread in which they were raised, without the objects of the calls that failed."""

import traceback
from typing import TypeVar

E = TypeVar("E", bound=BaseException)


def let_go(error: E) -> E:
    """The same error, and those that it came from, whose tracebacks hold no local variable any more.

    An object of a client library may talk to its daemon when it is freed. In a traceback it is freed wherever the error
    is forgotten, or by the garbage collector in any thread at all, which then hangs with a daemon that hangs.
    """
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            traceback.clear_frames(one.__traceback__)
            left += [one.__cause__, one.__context__]
    return error
