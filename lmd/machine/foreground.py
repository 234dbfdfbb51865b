"""`lm run`: one machine from its type to its outcome, in this process, with nothing left behind."""

import asyncio
import contextlib
import os
import secrets
import signal
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from images.errors import ImageError
from lmd import engines
from lmd.config.chosen import Chosen
from lmd.config.files import check_files
from lmd.config.models import MachineType
from lmd.config.problems import ConfigError
from lmd.environment import features, joboutputs
from lmd.environment.collect import Collected, CollectError, collect
from lmd.environment.directory import Directory, DirectoryError
from lmd.environment.features import Allocation
from lmd.environment.identity import RANDOM_BYTES, machine_id
from lmd.environment.outcome import MESSAGE_FILE, MESSAGE_LIMIT, Decided, Outcome, judge
from lmd.environment.trees import Refused
from lmd.machine import connection
from lmd.machine.conditions import conditions
from lmd.machine.image import BUILT, NoImage
from lmd.machine.material import Material, material_of
from lmd.machine.prepare import CannotPrepare, finish, prepare
from lmd.machine.rules import Terms
from lmd.machine.spec import Plan, needed
from lmd.machine.supervise import Clock, Ended, Supervisor
from lmd.places import Places
from lmd.repositories import handing
from lmd.repositories.provider import NoRepositories
from runtimes.contract import ImageKind, Images, Reclaims, Runtime, RuntimeFault, Seen, Spec, unmet

HOLD = ("/bin/sh", "-c", "trap 'exit 0' TERM INT; while sleep 1; do :; done")
"""What runs in a machine whose author asked for a shell: nothing, until it is told to end."""


class CannotRun(Exception):
    """The machine could not be started; one line, or one for each problem."""


class CannotTell(Exception):
    """The engine stopped answering; the machine may still be there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What `lm run` was asked for. `seconds` shortens the type's wallclock; `outputs` is a folder to make (default:
    lm-outputs/ID here)."""

    chosen: Chosen
    outputs: Path | None = None
    processors: int | None = None
    seconds: int | None = None
    grace: int = 30
    keep: bool = False
    hold: bool = False
    show_features: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """How `lm run` speaks: sentences about its doings, and the machine's console as it comes."""

    tell: Callable[[str], None]
    show: Callable[[bytes], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What came of a run, for people and, by `plain`, for programs. Times in Unix seconds, durations in seconds."""

    id: str
    machinetype: str
    runtime: str
    runtime_reason: str = ""
    image: str
    image_digest: str | None
    processors: int
    outcome: Outcome
    reason: str | None
    exit_code: int | None
    created: float
    seconds: float
    cpu_seconds: float | None
    memory_peak_bytes: int | None
    outputs: Path
    files: int
    bytes: int
    left_out: tuple[str, ...]
    kept: bool

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {
            "outputs": str(self.outputs),
            "outcome": {
                "message": str(self.outcome.message) if self.outcome.message else None,
                "decided": self.outcome.decided,
                "detail": self.outcome.detail,
                "exit": int(self.outcome.exit),
                "exit_name": self.outcome.exit.name.lower().replace("_", "-"),
            },
        }


Joined = Callable[[Runtime, Seen], Awaitable[None]]
"""What is awaited beside a running machine, and ends it when it returns."""


async def run(request: Request, places: Places, voice: Voice, joined: Joined | None) -> Summary:
    """Start the machine, look after it, say how it ended, clean up. Raises `CannotRun`; then nothing is left.

    `joined` is awaited beside the supervision once the machine runs, and ends it when it returns (`lm run --shell`).
    """
    task = asyncio.current_task()
    with _Interrupts(task.cancel if task else _nothing) as interrupts:
        try:
            return await _run(request, places, voice, joined, interrupts)
        except asyncio.CancelledError as error:
            raise CannotRun("interrupted before the machine ran") from error


async def _run(
    request: Request, places: Places, voice: Voice, joined: Joined | None, interrupts: "_Interrupts"
) -> Summary:
    try:
        request = replace(request, chosen=await handing.at_hand(request.chosen, places))
    except NoRepositories as error:
        raise CannotRun(str(error)) from error
    config, type_ = request.chosen.config, request.chosen.machinetype
    if problems := check_files(config, type_.name) if not type_.root_image.startswith(BUILT) else ():
        raise CannotRun("\n".join(str(problem) for problem in problems))
    async with AsyncExitStack() as stack:
        try:
            found = await stack.enter_async_context(engines.chosen(type_, config, places, needed(type_)))
            material = await material_of(type_, config, places, voice.tell)
        except (NoImage, engines.NoRuntime, ConfigError, ImageError) as error:
            raise CannotRun(str(error)) from error
        plan = _plan(request, material)
        runtime, can = found.runtime, found.probe.capabilities
        directory = Directory(places.machines / plan.id)
        try:
            plan = await connection.joined(plan, directory, places, config)
            plan = replace(plan, repositories=await handing.handed(type_, plan.image, config, places))
            spec = await asyncio.to_thread(_prepared, plan, directory, runtime.name)
            spec = handing.with_step(spec, directory, config, places)
        except (CannotPrepare, NoRepositories, connection.NetworkFault) as error:
            raise CannotRun(str(error)) from error
        if can and (lacking := unmet(spec, can)):
            directory.remove()
            raise CannotRun(f"machinetype {type_.name}: {runtime.name} on this host lacks {'; '.join(lacking)}")
        if can and (soft := spec.limits.asked() - can.limits):
            reason = can.absent.get("limits", "")
            voice.tell(f"not enforced on this host: {', '.join(sorted(soft))}" + (f" ({reason})" if reason else ""))

        async def kept(seen: Seen) -> None:
            if wrong := await handing.keep(seen, directory, config, places):
                voice.tell(f"machine {plan.id} {wrong}")

        if found.why:
            voice.tell(f"runtime {found.why}")
        async with connection.looked_after(plan, places, config, voice.tell):
            summary = await _life(request, plan, spec, runtime, directory, voice, joined, kept, interrupts)
        return replace(summary, runtime_reason=found.why or f"the machinetype names {runtime.name}")


def _plan(request: Request, material: Material) -> Plan:
    type_, now = request.chosen.machinetype, time.time()
    processors = _processors(request.processors, type_.min_processors, type_.max_processors, type_.name)
    seconds = min(type_.max_wallclock_seconds, request.seconds or type_.max_wallclock_seconds)
    settings = request.chosen.config.settings
    return Plan(
        id=machine_id(os.uname().nodename, secrets.token_bytes(RANDOM_BYTES)),
        owner=f"run:{os.geteuid()}",
        space=settings.space,
        machinetype=type_,
        image=material.image,
        start=material.start,
        allocation=Allocation(
            job_id=str(uuid.uuid4()),
            processors=processors,
            memory_bytes=type_.mb_per_processor * processors * 2**20,
            started=now,
            shutdown_time=now + seconds,
            grace=request.grace,
            hs06_per_processor=settings.hs06_per_processor,
            swap_bytes=0,
        ),
        command=HOLD if request.hold else None,
    )


def _processors(asked: int | None, least: int, most: int, name: str) -> int:
    """How many the machine gets: what was asked for if the type can use it, else as many as fit."""
    here = len(os.sched_getaffinity(0))
    if asked is not None and not least <= asked <= most:
        raise CannotRun(f"machinetype {name}: works with {least} to {most} processors, not {asked}")
    if asked is None and here < least:
        raise CannotRun(f"machinetype {name}: needs {least} processors, this host has {here}")
    return asked or min(most, here)


def _prepared(plan: Plan, directory: Directory, runtime: str) -> Spec:
    host = os.uname().nodename
    made = prepare(plan, directory, runtime=runtime, host=host, version=f"lmd {version('lmd')}", supervisor=os.getpid())
    handing.note(plan.repositories, directory)
    return made


async def _life(
    request: Request,
    plan: Plan,
    spec: Spec,
    runtime: Runtime,
    directory: Directory,
    voice: Voice,
    joined: Joined | None,
    kept: Callable[[Seen], Awaitable[None]],
    interrupts: "_Interrupts",
) -> Summary:
    clock = Clock(time.time())
    supervisor = Supervisor(
        runtime,
        plan.id,
        directory,
        _terms(plan),
        grace=request.grace,
        console_bytes=plan.machinetype.console_bytes,
        clock=clock,
        show=voice.show,
        tell=voice.tell,
    )
    try:
        seen = await _create(runtime, spec, voice)
    except (RuntimeFault, asyncio.CancelledError) as error:
        interrupts.target = _nothing
        await asyncio.shield(_forget(runtime, plan.id, directory, voice))
        raise CannotRun(str(error) or "interrupted before the machine ran") from error
    interrupts.target = supervisor.interrupt  # with no await before: from here on the machine is told
    await kept(seen)
    voice.tell(f"machine {plan.id} runs on {runtime.name} with {plan.allocation.processors} processor(s)")
    if request.show_features:
        _tell_features(plan, voice)
    ended = await _supervised(supervisor, runtime, seen, joined)
    interrupts.target = _nothing  # what is left to do is short, and has to be done
    return await _conclude(request, plan, runtime, directory, ended, seen, clock(), voice)


def _tell_features(plan: Plan, voice: Voice) -> None:
    for name, values in (
        ("machinefeatures", features.machinefeatures(plan.allocation)),
        ("jobfeatures", features.jobfeatures(plan.allocation)),
    ):
        for key, value in sorted(values.items()):
            voice.tell(f"{name}/{key} = {value}")


async def _create(runtime: Runtime, spec: Spec, voice: Voice) -> Seen:
    if isinstance(runtime, Images) and spec.image.kind is not ImageKind.ROOT_DIRECTORY:
        getting = asyncio.ensure_future(runtime.ensure(spec.image))
        done, _ = await asyncio.wait({getting}, timeout=1.0)
        if not done:
            voice.tell(f"fetching the image {spec.image.location}")
        await getting
    return await runtime.create(spec)


def _terms(plan: Plan) -> Terms:
    return conditions(plan.machinetype).terms(plan.allocation.started, plan.allocation.shutdown_time)


async def _supervised(supervisor: Supervisor, runtime: Runtime, seen: Seen, joined: Joined | None) -> Ended:
    living = asyncio.ensure_future(supervisor.live())
    if joined is None:
        return await living
    beside = asyncio.ensure_future(joined(runtime, seen))
    try:
        await asyncio.wait({living, beside}, return_when=asyncio.FIRST_COMPLETED)
        if not living.done():
            supervisor.leave()
        return await living
    finally:
        beside.cancel()
        await asyncio.gather(beside, return_exceptions=True)


async def _conclude(
    request: Request,
    plan: Plan,
    runtime: Runtime,
    directory: Directory,
    ended: Ended,
    created: Seen,
    now: float,
    voice: Voice,
) -> Summary:
    """Read what the machine left, note the outcome, bring the outputs home, remove the rest: in this order."""
    type_, end = plan.machinetype, ended.seen.end if ended.seen else None
    began = (ended.seen.started if ended.seen else None) or created.started or plan.allocation.started
    lifetime = max(0.0, (end.at if end and end.at else now) - began)
    if isinstance(runtime, Reclaims) and not ended.unsure:
        with contextlib.suppress(RuntimeFault):  # what stays unreadable is named as left out
            await runtime.reclaim(directory.joboutputs)
    payload = _message(directory, voice)
    outcome = judge(payload, end, type_.outcome, ended.why, lifetime=lifetime, fizzle=type_.fizzle_seconds)
    if outcome.message and outcome.decided is not Decided.PAYLOAD:
        joboutputs.leave(directory.joboutputs, MESSAGE_FILE, f"{outcome.message}\n".encode())
    outputs = request.outputs or Path.cwd() / "lm-outputs" / plan.id
    collected = await _home(type_, outputs, directory, voice)
    used = ended.usage
    summary = Summary(
        id=plan.id,
        machinetype=type_.name,
        runtime=runtime.name,
        image=plan.image_named,
        image_digest=plan.image_id or created.image_digest,
        processors=plan.allocation.processors,
        outcome=outcome,
        reason=end.reason if end else None,
        exit_code=end.exit_code if end else None,
        created=created.created,
        seconds=lifetime,
        cpu_seconds=used.cpu_seconds if used else None,
        memory_peak_bytes=used.memory_peak_bytes if used else None,
        outputs=outputs,
        files=collected.files if collected else 0,
        bytes=collected.bytes if collected else 0,
        left_out=collected.left_out if collected else (),
        kept=request.keep or collected is None,
    )
    with contextlib.suppress(DirectoryError):  # an operator's destroy has removed it
        finish(directory, directory.load(), summary.plain())
    if ended.unsure:
        raise CannotTell(f"machine {plan.id}: {ended.unsure}; look again with: lm ps")
    if summary.kept:
        voice.tell(f"kept; remove it with: lm destroy {plan.id}")
    else:
        await _forget(runtime, plan.id, directory, voice)
    return summary


def _message(directory: Directory, voice: Voice) -> bytes | None:
    try:
        return joboutputs.read_small(directory.joboutputs, MESSAGE_FILE, MESSAGE_LIMIT)
    except Refused as refused:
        voice.tell(f"its shutdown message cannot be read: {refused}")
        return None


async def _home(type_: MachineType, outputs: Path, directory: Directory, voice: Voice) -> Collected | None:
    """Copy console and joboutputs into the folder of the run; None, and told, if that fails."""
    try:
        outputs.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            (outputs / "console.log").write_bytes(directory.console.read_bytes())
        return await asyncio.to_thread(
            collect,
            directory.joboutputs,
            outputs / "joboutputs",
            most_bytes=type_.joboutputs_bytes,
            most_files=type_.joboutputs_files,
        )
    except (CollectError, OSError) as error:
        voice.tell(f"could not bring the outputs to {outputs}: {error}")
        return None


async def destroyed(runtime: Runtime, name: str, directory: Directory) -> None:
    """Remove the machine, then its directory. Raises `RuntimeFault` or `DirectoryError` naming what stays."""
    await runtime.destroy(name)
    if isinstance(runtime, Reclaims) and directory.joboutputs.exists():
        await runtime.reclaim(directory.joboutputs)
    await asyncio.to_thread(handing.end_clients, directory, os.getpid())
    await asyncio.to_thread(directory.remove)


async def _forget(runtime: Runtime, name: str, directory: Directory, voice: Voice) -> None:
    """Remove machine and directory; what cannot be removed is told, and found again by lm ps."""
    try:
        await destroyed(runtime, name, directory)
    except (RuntimeFault, DirectoryError) as error:
        voice.tell(f"could not remove machine {name}: {error}; try again with: lm destroy {name}")


class _Interrupts:
    """SIGINT, SIGTERM and SIGHUP call `target`, whatever that is at the moment, instead of ending this process."""

    NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self, target: Callable[[], object]) -> None:
        self.target = target

    def __enter__(self) -> "_Interrupts":
        for number in self.NUMBERS:
            asyncio.get_running_loop().add_signal_handler(number, lambda: self.target())
        return self

    def __exit__(self, *exception: object) -> None:
        for number in self.NUMBERS:
            asyncio.get_running_loop().remove_signal_handler(number)


def _nothing() -> None:
    """Where a signal would only leave a job half done."""
