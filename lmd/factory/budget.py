"""How many processors the machines may use: a number, or what a file or a command says now."""

import asyncio
import os
import subprocess
from pathlib import Path

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
