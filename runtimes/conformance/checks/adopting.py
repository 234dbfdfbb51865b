"""Whoever made a machine may go: the machine stays, and another instance or process takes over."""

import asyncio
import secrets
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Sequence
from typing import Any

from runtimes.conformance.bench import Bench, plain_spec
from runtimes.conformance.check import NotApplicable, Violation, check, expect, needs
from runtimes.conformance.order import Order
from runtimes.contract import RuntimeFault, Seen, Started, State

ROUNDS = 5
LONGEST_LIFE_SECONDS = 0.6


@check("another instance sees, stops and destroys what the first created", invariant=5)
async def second_instance_adopts(bench: Bench) -> None:
    seen = await bench.start(bench.payloads.sleep(60))
    second = bench.instance()
    adopted = await bench.get(seen.id, second)
    expect(adopted == await bench.get(seen.id), "two instances do not see the same")
    if (await bench.can()).usage:
        expect(seen.id in await second.usage(), "the other instance tells no usage of the machine")
    await second.stop(seen.id, grace=2)
    expect((await bench.get(seen.id)).state is State.EXITED, "the first instance does not see that it was stopped")
    await second.destroy(seen.id)
    expect(await bench.find(seen.id) is None, "the first instance does not see that it was destroyed")


@check("machines go on when the instance that created them is closed", invariant=4)
async def closing_leaves_machines_running(bench: Bench) -> None:
    first = bench.instance()
    spec = bench.spec(bench.payloads.sleep(60))
    before = await first.create(spec)
    await first.aclose()
    await asyncio.sleep(0.3)
    after = await bench.get(spec.id)
    expect(after.state is State.RUNNING, f"the machine is {after.state} after its instance was closed")
    expect((after.started, after.pid) == (before.started, before.pid), f"it was replaced: {before} and {after}")


@check("a machine whose create is under way is listed, and can be stopped and destroyed by another", invariant=3)
async def created_machine_can_be_destroyed(bench: Bench) -> None:
    creating, machine_id = await _waits_before_start(bench)
    second = bench.instance()
    state = (await bench.get(machine_id, second)).state
    expect(state is State.CREATED, f"a machine whose payload does not run yet is listed as {state}")
    await second.stop(machine_id, grace=1)
    await second.destroy(machine_id)
    (answer,) = await asyncio.gather(creating, return_exceptions=True)
    expect(isinstance(answer, RuntimeFault), f"create ended with {answer!r} although the machine was destroyed")
    await bench.until("nothing left after destroy", lambda: _cleared(bench, [machine_id]))


@check("a create that is cancelled leaves what machines explains, create resumes and destroy clears", invariant=5)
async def cancelled_create_leaves_what_is_explained(bench: Bench) -> str:
    creating, machine_id = await _waits_before_start(bench)
    creating.cancel()
    await asyncio.gather(creating, return_exceptions=True)
    found = await _explained(bench, [machine_id])
    await bench.until("nothing left after destroy", lambda: _cleared(bench, [machine_id]))
    return "it was found and resumed" if found else "nothing was left"


async def _waits_before_start(bench: Bench) -> tuple[asyncio.Task[Seen], str]:
    """A create under way that waits before the payload's start for a second, and its machine's id."""
    can = await bench.can()
    needs(can.before_start, can.absent.get("before_start", "before_start is not claimed"))
    reached = asyncio.Event()

    async def step(started: Started) -> None:
        reached.set()
        await asyncio.sleep(1.5)

    spec = bench.spec(bench.payloads.sleep(60), before_start=step)
    creating = asyncio.create_task(bench.runtime.create(spec))
    waiting = asyncio.create_task(reached.wait())
    bench.at_end(lambda: _cancel(creating, waiting))
    await asyncio.wait([creating, waiting], return_when=asyncio.FIRST_COMPLETED)
    expect(not creating.done(), "create ended before before_start did")
    return creating, spec.id


@check("machines go on when the process that created them is killed", invariant=4)
async def killed_creator_leaves_machines_running(bench: Bench) -> None:
    kept = bench.new_id()
    process = await _victim(bench, keep=[kept])
    await _kill(process)
    await asyncio.sleep(0.3)
    seen = await bench.get(kept)
    expect(seen.state is State.RUNNING, f"the machine is {seen.state} ({seen.end}) after its creator was killed")


@check("killed at any moment, it leaves what machines explains, create resumes and destroy clears", invariant=5)
async def killed_at_random_leaves_what_is_explained(bench: Bench) -> str:
    found = number = 0
    # On a busy host a child may be killed before it has made anything: then they live longer, until one has.
    while number < ROUNDS or (found == 0 and number < 4 * ROUNDS):
        number += 1
        ids = [bench.new_id() for _ in range(3)]
        process = await _victim(bench, churn=ids)
        longest = LONGEST_LIFE_SECONDS * max(1.0, number / ROUNDS)
        await asyncio.sleep(secrets.randbelow(1000) / 1000 * longest)
        await _kill(process)
        found += await _explained(bench, ids)
        await bench.until("nothing left after destroy", lambda ids=ids: _cleared(bench, ids))  # type: ignore[misc]
    return f"{found} machines were found after {number} kills"


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _explained(bench: Bench, ids: Sequence[str]) -> int:
    """How many of these machines there are; each has its stamps and comes to run by another create."""
    runtime = bench.instance()
    listed = [seen for seen in await runtime.machines() if seen.id in ids]
    for seen in listed:
        spec = plain_spec(seen.id, bench.context.image, bench.payloads.sleep(60), bench.context.boot)
        expect(seen.digest == spec.digest(), f"machine {seen.id} is stamped {seen.digest}, not {spec.digest()}")
        resumed = await runtime.create(spec)
        wanted = State.EXITED if seen.state is State.EXITED else State.RUNNING
        expect(resumed.state is wanted, f"a machine found {seen.state} is {resumed.state} after another create")
    return len(listed)


async def _cleared(bench: Bench, ids: Sequence[str]) -> bool | None:
    """True when nothing is left; an engine may still have been busy with what the killed process had asked."""
    for machine_id in ids:
        await bench.runtime.destroy(machine_id)
    await asyncio.sleep(0.2)
    left = [line for machine_id in ids for line in await bench.left(machine_id)]
    return None if left or {m.id for m in await bench.runtime.machines()} & set(ids) else True


async def _victim(bench: Bench, *, keep: Sequence[str] = (), churn: Sequence[str] = ()) -> Process:
    """A child process at work on these ids, once it has created those to keep."""
    settings = bench.context.settings
    if settings is None:
        raise NotApplicable("no settings were given by which another process can make the runtime")
    order = Order(
        runtime=bench.runtime.name,
        settings=settings,
        image=bench.context.image,
        payload=bench.payloads.sleep(60),
        boot=bench.context.boot,
        keep=tuple(keep),
        churn=tuple(churn),
    )
    said = bench.folder("victim") / "said"
    with said.open("wb") as out:  # a file, since a pipe would be held open by whatever the process starts
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "runtimes.conformance.victim", order.dump(), stdin=DEVNULL, stdout=out, stderr=out
        )
    bench.at_end(lambda: _kill(process))

    async def ready() -> bool | None:
        text = said.read_text(errors="replace")
        if process.returncode is not None:
            raise Violation(f"the creating process ended with {process.returncode}: {text[-300:]!r}")
        return True if "kept\n" in text else None

    await bench.until("a process that creates machines", ready)
    return process


async def _kill(process: Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()


CHECKS = (
    second_instance_adopts,
    closing_leaves_machines_running,
    created_machine_can_be_destroyed,
    cancelled_create_leaves_what_is_explained,
    killed_creator_leaves_machines_running,
    killed_at_random_leaves_what_is_explained,
)
