"""What a runtime says about itself, and what it lists."""

import asyncio
import platform
import time
from contextlib import suppress

from runtimes.conformance.bench import MACHINETYPE, OWNER, SPACE, Bench
from runtimes.conformance.check import NotApplicable, check, expect, needs
from runtimes.contract import Conflict, Health, RuntimeFault, State, Unavailable


@check("probe tells health, version and capabilities")
async def probe_tells_what_works(bench: Bench) -> str:
    probe = await bench.runtime.probe()
    expect(probe.health is Health.HEALTHY, f"probe says {probe.health}: {probe.reason} {probe.remedy}".strip())
    expect(bool(probe.version), "probe tells no version")
    can = await bench.can()
    expect(can.isolation in ("container", "vm"), f"isolation is {can.isolation!r}, not container or vm")
    for what in ("images", "delivery", "networks", "end_reasons", "architectures"):
        expect(bool(getattr(can, what)), f"capabilities.{what} is empty")
    unknown = sorted(name for name in can.absent if not hasattr(can, name))
    expect(not unknown, f"capabilities.absent explains fields that do not exist: {', '.join(unknown)}")
    return f"{bench.runtime.name} {probe.version} on {platform.machine()}"


@check("a created machine is listed as running, with owner, space, machinetype and digest", invariant=1)
async def created_is_listed_with_stamps(bench: Bench) -> None:
    spec = bench.spec(bench.payloads.sleep(60))
    created = await bench.runtime.create(spec)
    listed = await bench.get(spec.id)
    for which, seen in (("create returned", created), ("machines shows", listed)):
        stamps = (seen.id, seen.runtime, seen.owner, seen.space, seen.machinetype, seen.digest)
        wanted = (spec.id, bench.runtime.name, OWNER, SPACE, MACHINETYPE, spec.digest())
        expect(stamps == wanted, f"{which} stamps {stamps}, not {wanted}")
        expect(seen.state is State.RUNNING, f"{which} state {seen.state}, not running")
        expect(seen.started is not None and seen.started >= seen.created - 1, f"{which} started {seen.started}")
        expect(seen.end is None, f"{which} an end ({seen.end}) of a running machine")


@check("machines lists each of several machines, those that have ended too", invariant=2)
async def every_machine_is_listed(bench: Bench) -> None:
    over = [await bench.start(bench.payloads.exit(code)) for code in (0, 1)]
    for seen in over:
        await bench.ended(seen.id)
    running = [await bench.start(bench.payloads.sleep(60)) for _ in range(3)]
    wanted = {seen.id for seen in (*running, *over)}
    for _ in range(5):
        listed = {m.id for m in await bench.runtime.machines()}
        expect(wanted <= listed, f"not listed: {', '.join(sorted(wanted - listed))}")


@check("machines is complete while other machines come and go", invariant=2)
async def listing_is_complete_under_churn(bench: Bench) -> None:
    kept = await bench.start(bench.payloads.sleep(60))
    second = bench.instance()

    async def churn() -> None:
        while True:
            spec = bench.spec(bench.payloads.exit(0))
            await second.create(spec)
            await second.destroy(spec.id)

    churning = asyncio.create_task(churn())
    try:
        last = time.monotonic() + 2
        while time.monotonic() < last and not churning.done():
            await bench.get(kept.id)
            await asyncio.sleep(0)
    finally:
        churning.cancel()
        (trouble,) = await asyncio.gather(churning, return_exceptions=True)
    expect(isinstance(trouble, asyncio.CancelledError), f"creating and destroying raised {trouble!r}")


@check("an engine that does not answer, or not completely, raises Unavailable", invariant=2)
async def outage_is_never_an_empty_list(bench: Bench) -> str:
    needs(bool(bench.context.outages), "no way to take the engine away was given")
    seen = await bench.start(bench.payloads.sleep(60))
    for name, outage in bench.context.outages.items():
        async with outage() as runtime:
            bench.close_at_end(runtime)
            await runtime.probe()
            for what, ask in (("machines", runtime.machines), ("usage", runtime.usage)):
                with suppress(Unavailable):
                    told = await ask()
                    expect(False, f"{name}: {what} told {len(told)} instead of raising Unavailable")
    expect((await bench.get(seen.id)).state is State.RUNNING, "the machine did not outlive the outages")
    return ", ".join(bench.context.outages)


@check("what returns without an error in an outage was done", invariant=2)
async def outage_is_never_success(bench: Bench) -> str:
    needs(bool(bench.context.outages), "no way to take the engine away was given")
    for name, outage in bench.context.outages.items():
        stopped, destroyed = [await bench.start(bench.payloads.sleep(60)) for _ in range(2)]
        spec = bench.spec(bench.payloads.sleep(60))
        done: set[str] = set()
        async with outage() as runtime:
            bench.close_at_end(runtime)
            with suppress(Unavailable):
                await runtime.create(spec)
                done.add("create")
            with suppress(Unavailable):
                await runtime.stop(stopped.id, grace=0)
                done.add("stop")
            with suppress(Unavailable):
                await runtime.destroy(destroyed.id)
                done.add("destroy")
        if "create" in done:
            expect(await bench.find(spec.id) is not None, f"{name}: create returned and nothing was created")
        if "stop" in done:
            expect((await bench.get(stopped.id)).state is State.EXITED, f"{name}: stop returned and nothing stopped")
        if "destroy" in done:
            expect(await bench.find(destroyed.id) is None, f"{name}: destroy returned and nothing was destroyed")
    return ", ".join(bench.context.outages)


@check("a machine without our stamp is not listed and never touched", invariant=1)
async def foreign_machine_is_untouched(bench: Bench) -> None:
    foreign = bench.context.foreign
    if foreign is None:
        raise NotApplicable("no way to make a machine that is not ours was given")
    name = bench.new_id()
    bench.at_end(lambda: foreign.remove(name))
    await foreign.make(name)
    before = await foreign.state(name)
    expect(await bench.find(name) is None, "machines lists a machine without our stamp")
    try:
        await bench.runtime.create(bench.spec(bench.payloads.sleep(60), id=name))
    except Conflict:
        pass
    else:
        expect(False, "create under a name that a foreign machine has did not raise Conflict")
    with suppress(RuntimeFault):
        await bench.runtime.stop(name, grace=0)
    with suppress(RuntimeFault):
        await bench.runtime.destroy(name)
    after = await foreign.state(name)
    expect(after == before, f"the foreign machine was {before} and is now {after}")


CHECKS = (
    probe_tells_what_works,
    created_is_listed_with_stamps,
    every_machine_is_listed,
    listing_is_complete_under_churn,
    outage_is_never_an_empty_list,
    outage_is_never_success,
    foreign_machine_is_untouched,
)
