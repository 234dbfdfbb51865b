"""Create: one machine for one id, and nothing after a refusal."""

import asyncio
from dataclasses import replace

from runtimes.conformance.bench import Bench
from runtimes.conformance.check import Violation, check, expect, needs
from runtimes.contract import (
    Conflict,
    Exhausted,
    ImageKind,
    Limit,
    Limits,
    Rejected,
    RuntimeFault,
    Seen,
    Spec,
    Started,
    State,
    UserNamespace,
)


@check("a repeated create with the same digest returns the machine that exists", invariant=3)
async def create_twice_is_one_machine(bench: Bench) -> None:
    spec = bench.spec(bench.payloads.sleep(60))
    first = await bench.runtime.create(spec)
    for runtime in (bench.runtime, bench.instance()):
        again = await runtime.create(spec)
        expect(_same(first, again), f"the second create gave another machine: {first} and {again}")
    expect(_same(first, await bench.get(spec.id)), "the machine was replaced")


@check("a repeated create of a machine that has ended returns it and does not run it again", invariant=3)
async def create_does_not_run_twice(bench: Bench) -> None:
    spec = bench.spec(bench.payloads.exit(4))
    first = await bench.runtime.create(spec)
    before = await bench.ended(spec.id)
    again = await bench.runtime.create(spec)
    expect(again.state is State.EXITED, f"the machine is {again.state} after it had ended")
    expect(_same(first, again) and again.end == before.end, f"the machine ran again: {before} and {again}")


@check("a create with another digest raises Conflict and the machine goes on", invariant=3)
async def other_digest_is_a_conflict(bench: Bench) -> None:
    spec = bench.spec(bench.payloads.sleep(60))
    first = await bench.runtime.create(spec)
    await refused(bench, replace(spec, environment={"OTHER": "1"}), Conflict)
    after = await bench.get(spec.id)
    expect(_same(first, after) and after.state is State.RUNNING, f"the machine was harmed: {first} and {after}")


@check("creates of one id at the same time from two instances make one machine", invariant=3)
async def concurrent_creates_make_one(bench: Bench) -> str:
    steps: list[Started] = []

    async def step(started: Started) -> None:
        await asyncio.sleep(0.1)
        steps.append(started)

    can = await bench.can()
    spec = bench.spec(bench.payloads.sleep(60), before_start=step if can.before_start else None)
    instances = (bench.runtime, bench.instance(), bench.instance())
    got = await asyncio.gather(*(one.create(spec) for one in instances), return_exceptions=True)
    for answer in got:
        allowed = isinstance(answer, (Seen, RuntimeFault)) and not isinstance(answer, (Rejected, Conflict))
        expect(allowed, f"one of the creates ended with {answer!r}")
    seen = await bench.runtime.create(spec)
    expect(seen.state is State.RUNNING, f"the machine is {seen.state} after all")
    expect((await bench.get(spec.id)).started == seen.started, "there is more than one machine")
    expect(len(steps) <= 1, f"before_start ran {len(steps)} times for one machine")
    return f"{sum(isinstance(answer, Seen) for answer in got)} of {len(got)} returned it at once"


@check("a refused create leaves nothing behind", invariant=3)
async def refused_create_leaves_nothing(bench: Bench) -> str:
    can = await bench.can()
    plain = bench.payloads.sleep(60)
    hopeless = {"missing image": bench.spec(plain, image=bench.context.missing_image)}
    if Limit.MEMORY in can.limits:
        hopeless["one byte of memory"] = bench.spec(plain, limits=Limits(memory_bytes=1))
    if can.isolation == "container":
        hopeless["unknown capability"] = bench.spec(plain, capabilities=frozenset({"NO_SUCH_CAPABILITY"}))
    if can.devices:
        hopeless["missing device"] = bench.spec(plain, devices=("/dev/lmd-no-such-device",))
    for what, spec in hopeless.items():
        await refused(bench, spec, Rejected, Exhausted, what=what)
        expect(await bench.find(spec.id) is None, f"{what}: the refused machine is listed")
        left = await bench.left(spec.id)
        expect(not left, f"{what}: the refused machine left {left}")
    return ", ".join(hopeless)


@check("what the runtime lacks is rejected before anything exists", invariant=3)
async def lacking_capability_is_rejected(bench: Bench) -> str:
    can = await bench.can()
    plain = bench.payloads.sleep(60)
    asked: dict[str, Spec] = {"architecture": bench.spec(plain, architecture="pdp11")}
    if not can.user_namespace:
        asked["user namespace"] = bench.spec(plain, user_namespace=UserNamespace.REQUIRED)
    if not can.nested_containers:
        asked["nested containers"] = bench.spec(plain, nested_containers=True)
    if not can.read_only_root:
        asked["read-only root"] = bench.spec(plain, read_only_root=True)
    for kind in sorted(set(ImageKind) - can.images):
        asked[kind] = bench.spec(plain, image=replace(bench.context.image, kind=kind))
    for limit in sorted(set(Limit) - can.limits):
        name = "memory_bytes" if limit is Limit.MEMORY else str(limit)
        asked[limit] = bench.spec(plain, limits=Limits(**{name: 100_000_000}))
    for what, spec in asked.items():
        await refused(bench, spec, Rejected, what=what)
        expect(await bench.find(spec.id) is None, f"{what}: the rejected machine is listed")
    return ", ".join(asked)


@check("before_start runs once, when the machine exists and its payload does not run yet", invariant=5)
async def before_start_comes_before_the_payload(bench: Bench) -> None:
    can = await bench.can()
    needs(can.before_start, can.absent.get("before_start", "before_start is not claimed"))
    calls: list[tuple[Started, Seen | None]] = []

    async def step(started: Started) -> None:
        await asyncio.sleep(0.3)  # long enough for a payload that runs too early to have ended
        calls.append((started, await bench.find(started.id)))

    spec = bench.spec(bench.payloads.exit(5), before_start=step)
    await bench.runtime.create(spec)
    end = (await bench.ended(spec.id)).end
    expect(len(calls) == 1, f"before_start was called {len(calls)} times")
    started, seen = calls[0]
    expect(started.id == spec.id, f"before_start was told id {started.id!r}")
    expect(seen is not None and seen.end is None, f"the payload ran before before_start had ended: {seen}")
    expect(end is not None and end.exit_code == 5, f"the payload did not run after before_start: {end}")


@check("a before_start that fails makes create fail and leaves nothing", invariant=3)
async def failing_before_start_leaves_nothing(bench: Bench) -> None:
    can = await bench.can()
    needs(can.before_start, can.absent.get("before_start", "before_start is not claimed"))

    async def step(started: Started) -> None:
        raise OSError(f"no luck with {started.id}")

    spec = bench.spec(bench.payloads.sleep(60), before_start=step)
    try:
        seen = await bench.runtime.create(spec)
    except (RuntimeFault, OSError):
        pass
    else:
        raise Violation(f"create returned {seen.state} although before_start had failed")
    expect(await bench.find(spec.id) is None, "the machine is listed although before_start had failed")
    expect(not (left := await bench.left(spec.id)), f"the machine left {left}")


@check("an id that is no DNS label cannot even be asked for", invariant=1)
async def id_is_a_dns_label(bench: Bench) -> None:
    for bad in ("", "UPPER", "under_score", "-first", "last-", "dot.ted", "../up", "x" * 64, "é", "new\nline", "a\n"):
        try:
            replace(bench.spec(bench.payloads.sleep(1), id="lmc-name"), id=bad)
        except ValueError:
            continue
        expect(False, f"a spec with id {bad!r} was made")


async def refused(bench: Bench, spec: Spec, *errors: type[RuntimeFault], what: str = "create") -> None:
    """Expect `create(spec)` to raise one of `errors`, with a text of one line."""
    try:
        seen = await bench.runtime.create(spec)
    except errors as error:
        expect(bool(str(error)) and "\n" not in str(error), f"{what}: the error is not one line: {str(error)!r}")
        return
    except RuntimeFault as error:
        raise Violation(f"{what}: {type(error).__name__} ({error}) instead of {_names(errors)}") from error
    raise Violation(f"{what}: create returned {seen.state} instead of raising {_names(errors)}")


def _names(errors: tuple[type[RuntimeFault], ...]) -> str:
    return " or ".join(error.__name__ for error in errors)


def _same(one: Seen, other: Seen) -> bool:
    return (one.id, one.created, one.started) == (other.id, other.created, other.started)


CHECKS = (
    create_twice_is_one_machine,
    create_does_not_run_twice,
    other_digest_is_a_conflict,
    concurrent_creates_make_one,
    refused_create_leaves_nothing,
    lacking_capability_is_rejected,
    before_start_comes_before_the_payload,
    failing_before_start_leaves_nothing,
    id_is_a_dns_label,
)
