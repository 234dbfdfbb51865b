"""The console, and commands run inside a machine."""

import asyncio
import time

from runtimes.conformance.bench import Bench
from runtimes.conformance.check import NotApplicable, Violation, check, expect
from runtimes.contract import ConsoleChunk, Exec, Rejected

CAP = 1_000_000
HEAD = 65_536


@check("a console below its cap is kept whole, and every instance reads it")
async def console_is_whole(bench: Bench) -> None:
    seen = await bench.start(bench.payloads.shout(20_000))
    await bench.ended(seen.id)
    said = await bench.console(seen.id)
    expect(said.startswith(b"first\n"), f"the console begins with {said[:20]!r}")
    expect(said.endswith(b"last\n"), f"the console ends with {said[-20:]!r}")
    expect(20_000 <= len(said) <= 20_020, f"{len(said)} bytes are kept of about 20012")
    bench.runtime = bench.instance()
    expect(await bench.console(seen.id) == said, "another instance reads something else")


@check("a console above its cap keeps its first 64 kB and at least the last half of the cap, with the gap marked")
async def console_is_capped(bench: Bench) -> str:
    seen = await bench.start(bench.payloads.shout(3 * CAP), console_bytes=CAP)
    await bench.ended(seen.id)
    chunks = [chunk async for chunk in bench.logs().console(seen.id, follow=False)]
    gaps = [number for number, chunk in enumerate(chunks) if chunk.skipped]
    expect(bool(gaps), "no gap is marked in a console above its cap")
    head, tail = _joined(chunks[: gaps[0]]), _joined(chunks[gaps[-1] :])
    expect(head.startswith(b"first\n") and len(head) >= HEAD, f"the first {len(head)} bytes are kept, not {HEAD}")
    expect(tail.endswith(b"last\n") and len(tail) >= CAP // 2, f"the last {len(tail)} bytes are kept, not {CAP // 2}")
    kept = len(_joined(chunks))
    expect(kept <= CAP * 1.1, f"{kept} bytes are kept under a cap of {CAP}")
    return f"{len(head)} + {len(tail)} of {3 * CAP} bytes"


@check("a followed console tells what is printed while the machine runs, and ends with it")
async def console_is_followed(bench: Bench) -> None:
    pause = 1.5
    seen = await bench.start(bench.payloads.talk(pause))
    said, first_at, last_at = b"", 0.0, 0.0
    async with asyncio.timeout(bench.soon):
        async for chunk in bench.logs().console(seen.id, follow=True):
            said += chunk.data
            first_at = first_at or (time.monotonic() if b"first" in said else 0.0)
            last_at = last_at or (time.monotonic() if b"last" in said else 0.0)
    expect(said == b"first\nlast\n", f"the followed console was {said!r}")
    apart = last_at - first_at
    expect(apart > pause / 2, f"the lines came {apart:.1f} s apart and were printed {pause} s apart: not as they came")


@check("a command inside a machine gives its output, cut at the limit, and its exit code")
async def command_runs_inside(bench: Bench) -> None:
    runtime = _exec(bench)
    seen = await bench.start(bench.payloads.sleep(60))
    for code in (0, 3):
        result = await runtime.execute(seen.id, bench.payloads.command("hello", code))
        expect(result.exit_code == code, f"exit code {result.exit_code}, not {code}")
        expect(result.output.strip() == b"hello", f"the output is {result.output!r}, not hello")
    cut = await runtime.execute(seen.id, bench.payloads.command("x" * 1000, 0), limit=10)
    expect(cut.output == b"x" * 10, f"{len(cut.output)} bytes of output under a limit of 10")
    joined = await runtime.interactive(seen.id, bench.payloads.command("hello", 0), terminal=False)
    expect(bool(joined) and all(isinstance(word, str) for word in joined), f"{joined!r} is no argument list")


@check("a command is rejected that is not there, or whose machine does not run")
async def hopeless_command_is_rejected(bench: Bench) -> None:
    runtime = _exec(bench)
    running = await bench.start(bench.payloads.sleep(60))
    over = await bench.start(bench.payloads.exit(0))
    await bench.ended(over.id)
    hopeless = {
        "a command that is not there": (running.id, ("/no/such/command",)),
        "a machine that has ended": (over.id, bench.payloads.command("hello", 0)),
        "a machine that is not there": (bench.new_id(), bench.payloads.command("hello", 0)),
    }
    for what, (machine_id, command) in hopeless.items():
        try:
            result = await runtime.execute(machine_id, command)
        except Rejected:
            continue
        raise Violation(f"{what}: {result} instead of Rejected")


def _joined(chunks: list[ConsoleChunk]) -> bytes:
    return b"".join(chunk.data for chunk in chunks)


def _exec(bench: Bench) -> Exec:
    if not isinstance(bench.runtime, Exec):
        raise NotApplicable("this runtime runs no commands inside machines")
    return bench.runtime


CHECKS = (
    console_is_whole,
    console_is_capped,
    console_is_followed,
    command_runs_inside,
    hopeless_command_is_rejected,
)
