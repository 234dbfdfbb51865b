"""How machines end: asked, forced, destroyed, by themselves; and what is told about it."""

import asyncio
import time

from runtimes.conformance.bench import Bench
from runtimes.conformance.check import NotApplicable, check, expect, needs
from runtimes.conformance.payloads import Payload
from runtimes.contract import EndReason, Limit, Limits, Seen, State


@check("stop succeeds for a machine that is absent, running, or has ended", invariant=3)
async def stop_is_idempotent(bench: Bench) -> None:
    await bench.runtime.stop(bench.new_id(), grace=0)
    seen = await bench.start(bench.payloads.sleep(60))
    for _ in range(2):
        await bench.runtime.stop(seen.id, grace=2)
        expect((await bench.get(seen.id)).state is State.EXITED, "the machine did not end by stop")
    over = await bench.start(bench.payloads.exit(6))
    before = (await bench.ended(over.id)).end
    await bench.runtime.stop(over.id, grace=2)
    after = (await bench.get(over.id)).end
    expect(before == after, f"stop changed how the machine had ended: {before} became {after}")


@check("stops of one machine at the same time all succeed", invariant=3)
async def stops_at_once_succeed(bench: Bench) -> None:
    seen = await bench.start(bench.payloads.sleep(60))
    second = bench.instance()
    await asyncio.gather(*(runtime.stop(seen.id, grace=1) for runtime in (bench.runtime, second, second)))
    expect((await bench.get(seen.id)).state is State.EXITED, "the machine did not end by stop")


@check("stop with grace lets the payload finish")
async def grace_lets_the_payload_finish(bench: Bench) -> None:
    seen = await bench.start(bench.payloads.polite(0.5))
    await asyncio.sleep(0.3)  # the payload has to be there to hear that it is asked
    began = time.monotonic()
    await bench.runtime.stop(seen.id, grace=bench.soon)
    took = time.monotonic() - began
    end = (await bench.get(seen.id)).end
    expect(end is not None and end.exit_code == 0, f"the payload did not finish: {end}")
    expect(took < bench.soon, f"stop took {took:.1f} s for a payload that needs 0.5 s")


@check("a payload that is deaf to stop is killed when the grace is over, and not before")
async def deaf_payload_is_killed(bench: Bench) -> None:
    seen = await bench.start(bench.payloads.deaf())
    await asyncio.sleep(0.3)
    began = time.monotonic()
    await bench.runtime.stop(seen.id, grace=1)
    took = time.monotonic() - began
    state = (await bench.get(seen.id)).state
    expect(state is State.EXITED, f"stop returned and the machine is {state}")
    expect(took >= 0.9, f"the payload was killed after {took:.2f} s of 1 s of grace")
    expect(took < 1 + bench.soon, f"stop with 1 s of grace took {took:.1f} s")


@check("destroy succeeds in every phase, twice, and leaves nothing", invariant=3)
async def destroy_is_idempotent_and_complete(bench: Bench) -> None:
    deaf = await bench.start(bench.payloads.deaf())
    over = await bench.start(bench.payloads.exit(0))
    await bench.ended(over.id)
    running = await bench.start(bench.payloads.sleep(60))
    for machine_id in (bench.new_id(), running.id, deaf.id, over.id):
        for _ in range(2):
            await bench.runtime.destroy(machine_id)
        expect(await bench.find(machine_id) is None, f"machine {machine_id} is listed after destroy")
        left = await bench.left(machine_id)
        expect(not left, f"destroy left {left}")


@check("destroys of one machine at the same time all succeed", invariant=3)
async def destroys_at_once_succeed(bench: Bench) -> None:
    seen = await bench.start(bench.payloads.sleep(60))
    second = bench.instance()
    await asyncio.gather(*(runtime.destroy(seen.id) for runtime in (bench.runtime, second, second)))
    expect(await bench.find(seen.id) is None, "the machine is listed after destroy")


@check("a machine that was destroyed can be created again under its id", invariant=3)
async def id_is_free_after_destroy(bench: Bench) -> None:
    spec = bench.spec(bench.payloads.exit(1))
    await bench.runtime.create(spec)
    await bench.ended(spec.id)
    await bench.runtime.destroy(spec.id)
    await bench.runtime.create(bench.spec(bench.payloads.sleep(60), id=spec.id))
    expect((await bench.get(spec.id)).state is State.RUNNING, "the new machine does not run")


@check("an ended machine stays listed with its end until it is destroyed", invariant=3)
async def ended_machine_stays_listed(bench: Bench) -> None:
    began = time.time()
    seen = await bench.start(bench.payloads.exit(7))
    first = await bench.ended(seen.id)
    await asyncio.sleep(0.5)
    for runtime in (bench.runtime, bench.instance()):
        again = await bench.get(seen.id, runtime)
        expect(again.end == first.end and again.state is State.EXITED, f"{first} became {again}")
    at = first.end.at if first.end else None
    expect(at is None or began - 1 <= at <= time.time() + 1, f"the machine is said to have ended at {at}")


@check("exit code 0 is told as clean", invariant=6)
async def clean_end_is_told(bench: Bench) -> None:
    await _told(bench, EndReason.CLEAN, bench.payloads.exit(0, after=0.2), 0)


@check("an exit code other than 0 is told as failed, with the code", invariant=6)
async def failure_is_told_with_its_code(bench: Bench) -> None:
    codes = (1, 77, 125, 255)
    await asyncio.gather(*(_told(bench, EndReason.FAILED, bench.payloads.exit(code), code) for code in codes))


@check("an end by the memory limit is told as oom", invariant=6)
async def oom_is_told(bench: Bench) -> None:
    needs(Limit.MEMORY in (await bench.can()).limits, "the memory limit is not enforced")
    await _told(bench, EndReason.OOM, bench.payloads.oom(), None, Limits(memory_bytes=64 * 2**20))


@check("an end by force is told as killed", invariant=6)
async def force_is_told_as_killed(bench: Bench) -> None:
    await _claims(bench, EndReason.KILLED)
    seen = await bench.start(bench.payloads.deaf())
    await asyncio.sleep(0.2)
    await bench.runtime.stop(seen.id, grace=0)
    end = (await bench.get(seen.id)).end
    expect(end is not None and end.reason is EndReason.KILLED, f"a machine ended by force is told as {end}")


@check("an end by a signal is told as killed", invariant=6)
async def signal_is_told_as_killed(bench: Bench) -> None:
    payload = bench.payloads.killed_by_signal(9)
    if payload is None:
        raise NotApplicable("a payload cannot end its machine by a signal")
    await _told(bench, EndReason.KILLED, payload, 137)


@check("the engine itself ends a machine whose lifetime is over")
async def lifetime_is_a_backstop(bench: Bench) -> str:
    seen = await bench.start(bench.payloads.deaf(), lifetime_seconds=1)
    for _ in range(40):
        if (await bench.get(seen.id)).state is State.EXITED:
            return "the engine ended it"
        await asyncio.sleep(0.1)
    raise NotApplicable("the engine does not end machines by itself")


@check("the end of a machine comes as an event, or the listing shows it anyway", invariant=2)
async def end_is_noticed(bench: Bench) -> str:
    heard: list[str] = []

    async def listen() -> None:
        async for machine_id in bench.runtime.watch():
            heard.append(machine_id)

    listener = asyncio.create_task(listen())
    try:
        await asyncio.sleep(0.3)
        seen = await bench.start(bench.payloads.exit(0, after=0.3))
        await bench.ended(seen.id)
        for _ in range(20):
            if seen.id in heard:
                break
            await asyncio.sleep(0.1)
    finally:
        listener.cancel()
        (trouble,) = await asyncio.gather(listener, return_exceptions=True)
    expect(trouble is None or isinstance(trouble, asyncio.CancelledError), f"watch raised {trouble!r}")
    expect(all(isinstance(one, str) for one in heard), f"watch gave what is no id: {heard}")
    return "by an event" if seen.id in heard else "no event within 2 s; the listing showed it"


async def _told(
    bench: Bench, reason: EndReason, payload: Payload, code: int | None, limits: Limits | None = None
) -> None:
    await _claims(bench, reason)
    seen = await bench.start(payload, limits=limits or Limits())
    over: Seen = await bench.ended(seen.id)
    end = over.end
    expect(end is not None, "an exited machine has no end")
    if end is not None:
        expect(end.reason is reason, f"the end is told as {end.reason} ({end.detail}), not {reason}")
        expect(code is None or end.exit_code == code, f"the exit code is told as {end.exit_code}, not {code}")


async def _claims(bench: Bench, reason: EndReason) -> None:
    can = await bench.can()
    needs(reason in can.end_reasons, f"the engine cannot tell {reason}")


CHECKS = (
    stop_is_idempotent,
    stops_at_once_succeed,
    grace_lets_the_payload_finish,
    deaf_payload_is_killed,
    destroy_is_idempotent_and_complete,
    destroys_at_once_succeed,
    id_is_free_after_destroy,
    ended_machine_stays_listed,
    clean_end_is_told,
    failure_is_told_with_its_code,
    oom_is_told,
    force_is_told_as_killed,
    signal_is_told_as_killed,
    lifetime_is_a_backstop,
    end_is_noticed,
)
