"""Limits: told as they are in force, and in force as seen from inside; and what a machine has used."""

import asyncio
import os
import re
import time

from runtimes.conformance.bench import Bench
from runtimes.conformance.check import NotApplicable, Violation, check, expect, needs
from runtimes.contract import Limit, Limits, Usage

MIB = 2**20


@check("machines tells the limits in force")
async def limits_are_told(bench: Bench) -> str:
    can = await bench.can()
    asked = Limits(
        processors=1 if Limit.PROCESSORS in can.limits else None,
        memory_bytes=256 * MIB if Limit.MEMORY in can.limits else None,
    )
    needs(asked != Limits(), _why(can.absent.get("limits", "")))
    seen = await bench.get((await bench.start(bench.payloads.sleep(60), limits=asked)).id)
    expect(seen.processors in (None, asked.processors), f"processors: told {seen.processors}, not {asked.processors}")
    expect(
        seen.memory_bytes in (None, asked.memory_bytes), f"memory: told {seen.memory_bytes}, not {asked.memory_bytes}"
    )
    return f"processors {seen.processors}, memory {seen.memory_bytes}"


@check("a machine cannot use more memory than its limit, and can use what is below it")
async def memory_limit_is_hard(bench: Bench) -> None:
    await _enforced(bench, Limit.MEMORY)
    # One block of 200 MiB is read into the memory of a child; code 0 means that it was all there.
    script = f"dd if=/dev/zero of=/dev/null bs={200 * MIB} count=1; echo code $?"
    ample = await bench.inside(script, limits=Limits(memory_bytes=400 * MIB))
    expect("code 0" in ample, f"200 MiB could not be used under a limit of 400 MiB: {ample[-200:]!r}")
    spec = bench.shell(script, limits=Limits(memory_bytes=64 * MIB))
    await bench.runtime.create(spec)
    await bench.ended(spec.id)
    said = (await bench.console(spec.id)).decode(errors="replace")
    expect("code 0" not in said, "200 MiB were used under a limit of 64 MiB")


@check("a machine cannot have more processes than its limit")
async def pids_limit_holds(bench: Bench) -> str:
    await _enforced(bench, Limit.PIDS)
    payload = bench.payloads.fork_bomb(300)
    if payload is None:
        raise NotApplicable("machines of this runtime start no processes")
    seen = await bench.start(payload, limits=Limits(pids=40))
    said, since = b"", time.monotonic()
    last = since + bench.soon
    quiet = 0.5 if (await bench.can()).isolation == "container" else 3.0
    while time.monotonic() < last:  # until nothing new is printed, since what hits the limit may end or may not
        await asyncio.sleep(0.5)
        before, said = said, await bench.console(seen.id)
        if said != before:
            since = time.monotonic()
        elif said and time.monotonic() > since + quiet - 0.1:
            break
    forked = max((int(number) for number in re.findall(rb"forked (\d+)", said)), default=0)
    expect(b"unbounded" not in said, "300 processes were started under a limit of 40")
    expect(5 < forked <= 41, f"{forked} processes were started under a limit of 40")
    return f"{forked} of 40"


@check("a process cannot have more open files than the limit")
async def open_files_limit_holds(bench: Bench) -> None:
    await _enforced(bench, Limit.OPEN_FILES)
    said = await bench.inside("echo $(ulimit -Sn) $(ulimit -Hn)", limits=Limits(open_files=256))
    expect(said.split() == ["256", "256"], f"soft and hard limit of open files are {said.split()}, not 256")


@check("a machine cannot use more processors than its limit")
async def processors_limit_holds(bench: Bench) -> str:
    await _enforced(bench, Limit.PROCESSORS)
    spec = bench.shell("while :; do :; done & while :; do :; done", limits=Limits(processors=0.5))
    await bench.runtime.create(spec)
    await asyncio.sleep(0.3)

    async def window() -> float | None:
        """The share, once there is one: a busy host gives little."""
        before, since = await _used(bench, spec.id), time.monotonic()
        await asyncio.sleep(2)
        after, seconds = await _used(bench, spec.id), time.monotonic() - since
        share = (after.cpu_seconds - before.cpu_seconds) / seconds
        expect(share < 0.65, f"{share:.2f} processors were used under a limit of 0.5")
        return share if share > 0.05 else None

    share = await bench.until("a machine that uses more than 0.05 processors", window)
    return f"{share:.2f} processors under a limit of 0.5"


@check("usage tells CPU seconds that grow, and memory, of all running machines at once")
async def usage_grows(bench: Bench) -> str:
    can = await bench.can()
    needs(can.usage, can.absent.get("usage", "usage is not claimed"))
    busy = await bench.start(bench.payloads.spin())
    idle = await bench.start(bench.payloads.sleep(60))
    grown = rested = 0.0

    async def window() -> bool | None:
        """True when, within 1.5 s, the busy one was busy and the idle one idle: at first both start up."""
        nonlocal grown, rested
        first = await bench.runtime.usage()
        await asyncio.sleep(1.5)
        then = await bench.runtime.usage()
        for seen in (busy, idle):
            expect(seen.id in first and seen.id in then, f"no usage of machine {seen.id} is told")
            expect(then[seen.id].memory_bytes > 0, f"machine {seen.id} is told to use no memory")
            peak = then[seen.id].memory_peak_bytes
            expect(peak is None or peak >= then[seen.id].memory_bytes / 2, f"peak {peak} is below {then[seen.id]}")
        grown = then[busy.id].cpu_seconds - first[busy.id].cpu_seconds
        rested = then[idle.id].cpu_seconds - first[idle.id].cpu_seconds
        expect(grown >= 0 and rested >= 0, f"CPU seconds went back: {first} and {then}")
        return True if 0.2 < grown < 4 and rested < grown / 2 else None

    await asyncio.sleep(0.5)
    await bench.until("a busy machine that uses CPU seconds, and an idle one that does not", window)
    return f"{grown:.2f} and {rested:.2f} CPU seconds in 1.5 s"


@check("an idle machine takes no more than what the others leave")
async def idle_machines_yield(bench: Bench) -> str:
    count = os.cpu_count() or 1
    loops = f"n=0; while [ $n -lt {count} ]; do while :; do :; done & n=$((n+1)); done; wait"
    busy = bench.shell(loops, limits=Limits(processors=count))
    can = await bench.can()
    needs(can.idle, can.absent.get("idle", "no lowest weight is claimed"))
    needs(can.usage, can.absent.get("usage", "usage is not claimed"))
    for spec in (busy, idle := bench.spec(bench.payloads.spin(), idle=True)):
        await bench.runtime.create(spec)
    taken = 1.0

    async def window() -> bool | None:
        """True when, within 1.5 s in which the busy ones worked, the idle one had less than half of what one had."""
        nonlocal taken
        first = [await _used(bench, spec.id) for spec in (busy, idle)]
        await asyncio.sleep(1.5)
        then = [await _used(bench, spec.id) for spec in (busy, idle)]
        worked, yielded = (two.cpu_seconds - one.cpu_seconds for one, two in zip(first, then, strict=True))
        taken = yielded / max(worked / count, 1e-9)
        return True if worked > 0.1 and taken < 0.5 else None

    await asyncio.sleep(0.5)
    await bench.until("a busy machine that an idle one beside it leaves alone", window)
    return f"{taken:.3f} of what a process beside it had"


async def _used(bench: Bench, machine_id: str) -> Usage:
    usage = (await bench.runtime.usage()).get(machine_id)
    if usage is None:
        raise Violation(f"no usage of machine {machine_id} is told")
    return usage


async def _enforced(bench: Bench, limit: Limit) -> None:
    can = await bench.can()
    needs(limit in can.limits, _why(can.absent.get("limits", ""), limit))


def _why(reason: str, limit: str = "processors and memory") -> str:
    return f"no enforced limit on {limit}" + (f" ({reason})" if reason else "")


CHECKS = (
    limits_are_told,
    memory_limit_is_hard,
    pids_limit_holds,
    open_files_limit_holds,
    processors_limit_holds,
    usage_grows,
    idle_machines_yield,
)
