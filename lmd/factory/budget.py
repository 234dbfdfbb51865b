"""How many processors the machines may use: a number, or what a file or a command says now; and whether they can."""

import asyncio
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from lmd.config.models import MachineType
from lmd.machine.placement import bindable

COMMAND_SECONDS = 10.0
LONGEST = 4096
READ_SECONDS = 2.0
"""How often a file or a command is asked again."""


class BudgetError(Exception):
    """The number cannot be had now; one line."""


async def total_processors(source: int | str | tuple[str, ...] | None) -> int:
    """The number now; None as source means all of the host's. Raises `BudgetError`."""
    if source is None:
        return len(os.sched_getaffinity(0))
    if isinstance(source, int):
        return source
    try:
        text = await (_file(Path(source)) if isinstance(source, str) else _command(source))
    except OSError as error:
        raise BudgetError(f"{_named(source)}: {error.strerror or error}") from error
    word = (text.split() or [b""])[0]
    if not word.isdigit() or not 0 <= int(word[:9]) <= 65_536:
        raise BudgetError(f"{_named(source)}: expected a number of 0 to 65536, got {word[:40]!r}")
    return int(word)


def unbindable(total: int, types: Iterable[MachineType]) -> dict[str, str]:
    """What processors to bind machines to make impossible, by type; about "" the budget, if no other type could use
    what is left of it."""
    found: dict[str, str] = {}
    bound: set[int] = set()
    usual = [type_ for type_ in types if type_.target_share and type_.machine_class == "normal"]
    sets = {type_.name: bindable(type_) for type_ in usual}
    for type_ in usual:
        cpus = sets[type_.name]
        if cpus is not None and len(cpus) < type_.min_processors:
            where = "" if type_.numa_node is None else f" in node {type_.numa_node}"
            found[type_.name] = (
                f"machinetype {type_.name}: min_processors is {type_.min_processors}, and its machines can be bound to"
                f" {len(cpus)}{where} on this host: lower it, or take pinning or numa_node away"
            )
        bound |= cpus or set()
    if usual and None not in sets.values() and len(bound) < total:
        found[""] = (
            f"total_processors is {total}, and all machines are to be bound, to {len(bound)} processors of this host:"
            f" lower it, or take pinning or numa_node away from one of {', '.join(sorted(sets))}"
        )
    return found


async def _file(path: Path) -> bytes:
    def read() -> bytes:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return os.read(descriptor, LONGEST)
        finally:
            os.close(descriptor)

    return await asyncio.to_thread(read)


async def _command(words: tuple[str, ...]) -> bytes:
    process = await asyncio.create_subprocess_exec(
        *words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(COMMAND_SECONDS):
            said = await process.stdout.read(LONGEST) if process.stdout else b""
            code = await process.wait()
    except TimeoutError:
        raise BudgetError(f"{_named(words)}: no answer within {COMMAND_SECONDS:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if code:
        raise BudgetError(f"{_named(words)}: ended with code {code}")
    return said


def _named(source: str | tuple[str, ...]) -> str:
    return f"total_processors {source if isinstance(source, str) else source[0]}"
