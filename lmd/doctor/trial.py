"""A machine of a few hundredths of a second: the only proof that a runtime works is a machine that ran."""

import asyncio
import contextlib
import secrets
import time
from dataclasses import dataclass, replace

from lmd.doctor.check import Asked, apart
from runtimes.contract import (
    Capabilities,
    EndReason,
    Image,
    ImageKind,
    Limits,
    Logs,
    Network,
    Runtime,
    RuntimeFault,
    Spec,
)

LIMITS = Limits(processors=1, memory_bytes=128_000_000, pids=64, open_files=256)
SPACE = "doctor.invalid"
LIFETIME_SECONDS = 60
CLEAR_SECONDS = 10.0
_LOOK = """
echo ids $(cat /proc/self/uid_map)
echo files $(ulimit -n)
if unshare -U -r -m true 2>/dev/null; then echo nested; fi
echo looked
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What came of it. `failed` is the engine's own word, empty if the machine ran; `without_network` the same of a
    machine that had no network, tried where one with a network failed. `skipped` says why none was tried. `ids`: the
    number of its user ids."""

    failed: str = ""
    without_network: str | None = None
    skipped: str = ""
    seconds: float = 0.0
    ids: int = 0
    nested: bool = False


async def tried(runtime: Runtime, can: Capabilities, asked: Asked) -> Tried | None:
    """Make a machine, with the limits that the runtime says it enforces, and see whether it runs; never raises.

    None for virtual machines: their runtime's probe has started one.
    """
    if can.isolation != "container":
        return None
    if ImageKind.OCI_ARCHIVE not in can.images:
        return Tried(skipped=f"lm conformance {runtime.name} tries it with machines")
    try:
        image = await apart(lambda: _image(asked))
    except Exception as error:  # whatever keeps the image from being built is told
        return Tried(skipped=f"no image to try it with: {error}")
    await _swept(runtime, asked)
    spec = _spec(asked, can, image)
    first = await _one(runtime, spec)
    if first.failed and spec.network is not Network.NONE:
        second = await _one(runtime, replace(spec, network=Network.NONE))
        return replace(first, without_network=second.failed)
    return first


async def _swept(runtime: Runtime, asked: Asked) -> None:
    """Remove what trials have left whose process was killed; those of another doctor at work are younger."""
    with contextlib.suppress(RuntimeFault):
        for seen in await runtime.machines():
            ours = (seen.space, seen.owner) == (SPACE, f"run:{asked.uid}")
            if ours and time.time() - seen.created > 2 * LIFETIME_SECONDS:
                await runtime.destroy(seen.id)


def _image(asked: Asked) -> Image:
    from lmd.conformance.both import image

    return image(asked.places, lambda _: None)


def _spec(asked: Asked, can: Capabilities, image: Image) -> Spec:
    return Spec(
        id="lmx-new",
        owner=f"run:{asked.uid}",
        space=SPACE,
        machinetype="doctor",
        image=image,
        entrypoint=("/bin/sh", "-c", _LOOK),
        args=(),
        limits=LIMITS,
        required_limits=LIMITS.asked() & can.limits,
        network=Network.BRIDGE if Network.BRIDGE in can.networks else Network.NONE,
        nested_containers=can.nested_containers,
        user="0:0",
        lifetime_seconds=LIFETIME_SECONDS,
    )


async def _one(runtime: Runtime, spec: Spec) -> Tried:
    spec = replace(spec, id=f"lmx-{secrets.token_hex(6)}")
    began = time.monotonic()
    try:
        await runtime.create(spec)
        said = await _said(runtime, spec.id)
        seen = next((one for one in await runtime.machines() if one.id == spec.id), None)
        if "looked" not in said:
            end = seen.end if seen else None
            reason = f"{end.reason} {end.detail}".strip() if end else "it is gone"
            return Tried(failed=f"its machine printed nothing of what it should: {reason}; {said[-200:]!r}")
        if seen and seen.end and seen.end.reason not in (EndReason.CLEAN, EndReason.LOST):
            return Tried(failed=f"its machine ended {seen.end.reason}: {seen.end.detail}")
        return Tried(seconds=time.monotonic() - began, ids=_ids(said), nested="nested" in said.splitlines())
    except RuntimeFault as error:
        return Tried(failed=str(error))
    finally:
        await _cleared(runtime, spec.id)


async def _cleared(runtime: Runtime, machine_id: str) -> None:
    """Remove the machine; where the engine hangs it ends by its lifetime, and `lm destroy --orphaned` removes it."""
    with contextlib.suppress(RuntimeFault, TimeoutError):
        async with asyncio.timeout(CLEAR_SECONDS):
            await asyncio.shield(runtime.destroy(machine_id))


async def _said(runtime: Runtime, machine_id: str) -> str:
    if not isinstance(runtime, Logs):
        return "looked"
    said = b""
    async for chunk in runtime.console(machine_id, follow=True):
        said = (said + chunk.data)[:10_000]
    return said.decode(errors="replace")


def _ids(said: str) -> int:
    """How many user ids the machine's uid_map has, over all its rows of inside, outside and count."""
    row = next((line for line in said.splitlines() if line.startswith("ids ")), "ids")
    return sum(int(word) for word in row.split()[3::3] if word.isdecimal())
