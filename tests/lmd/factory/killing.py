"""Kill a factory's daemon again and again, each time at another moment, and look whether any machine suffers.

    python tests/lmd/factory/killing.py DIRECTORY --rounds 1000 [--seed 1]
        [--runtime podman|docker|kvm --options OPTIONS.json --image IMAGE --total 6 --longest 0.9]

Each round is a child of this process: half of them die at the n-th step of the event loop, which is between two awaits
of somebody, by `_exit`; the others at a random time, in the middle of whatever it is, by a signal that cannot be
caught. Between the rounds the engine is asked what is there. At the end a daemon ends everything in good order, and the
history in its database has to agree with what the engine and the machines said. Prints figures as JSON; ends with 1 and
a line for each thing that is wrong.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import sqlite3
import sys
import time
from asyncio import events
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from factory_ground import Site, config, machinetype

from lmd.factory.factory import Factory
from lmd.factory.rows import ROW, Row
from runtimes import registry
from runtimes.contract import Runtime, Seen, Settings, State

LONGEST = 0.9


def fake_types() -> list[Any]:
    say = "/var/spool/joboutputs/shutdown_message"
    return [
        machinetype("short", "sleep", "0.1", "write", say, "200 done", "exit", "0"),
        machinetype("fails", "sleep", "0.3", "exit", "3"),
        machinetype("long", "sleep", "1.5", "exit", "0"),
        machinetype("forever", "forever", max_wallclock_seconds=20, max_processors=2),
    ]


def real_types(runtime: str, image: str, scripts: Path) -> list[Any]:
    """The same on an engine: `image` is a reference that is never pulled, or a root directory for virtual machines."""
    keys: dict[str, Any] = {"root_image": f"docker://{image}", "pull": "never", "network": "none"}
    if runtime == "kvm":
        keys = {"root_image": image, "isolation": "vm", "network": "none", "mb_per_processor": 128}
    made = []
    for name, script in (
        ("short", "sleep 0.3; echo '200 done' > $JOBOUTPUTS/shutdown_message"),
        ("fails", "sleep 0.6; exit 3"),
        ("long", "sleep 3"),
        ("forever", "sleep 1000"),
    ):
        path = scripts / f"{name}.sh"
        path.write_text(f"#!/bin/sh\n{script}\n")
        made.append(machinetype(name, runtime=runtime, entrypoint=None, user_data=str(path), **keys))
    return made


class Watching:
    """A runtime that notes each destroy of a machine that still runs, and how each machine had ended."""

    def __init__(self, inner: Runtime, notes: Path) -> None:
        self._inner, self._notes = inner, notes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def destroy(self, machine_id: str) -> None:
        seen = next((m for m in await self._inner.machines() if m.id == machine_id), None)
        if seen is not None:
            end = [seen.end.reason, seen.end.exit_code] if seen.end else None
            line = json.dumps({"id": machine_id, "state": seen.state, "end": end})
            with self._notes.open("a") as notes:
                notes.write(line + "\n")
        await self._inner.destroy(machine_id)


class Ground:
    """The site, the runtime that machines run on, and what has been seen of them."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        directory: Path = arguments.directory
        directory.mkdir(parents=True, exist_ok=True)
        self.site = Site(directory)
        self.notes = directory / "destroyed"
        self.notes.touch()
        self.options = json.loads(arguments.options.read_text()) if arguments.options else {}
        self.runtime, self.total = arguments.runtime, arguments.total
        types = fake_types() if self.runtime == "fake" else real_types(self.runtime, arguments.image, directory)
        self.config = config(*types, total=self.total)
        self.wrong: list[str] = []
        self.started: dict[str, float | None] = {}
        self.gone: set[str] = set()

    def made(self) -> Runtime:
        places = self.site.places
        settings = Settings(state_dir=places.state, run_dir=places.run, cache_dir=places.cache, options=self.options)
        return registry.load(self.runtime, settings)

    def factory(self) -> Factory:
        host = self.site.host

        def load(name: str, _: Any) -> Any:
            if name != self.runtime:
                raise LookupError(f"no runtime {name} here")
            made = Watching(self.made(), self.notes)
            wrapped = type("Wrapped", (type(made._inner),), {"destroy": lambda _, name: made.destroy(name)})
            inner = made._inner
            outer = wrapped.__new__(wrapped)
            outer.__dict__ = inner.__dict__
            return outer

        return Factory(type(host)(host.places, host.clocks, host.environment, load, host.log), self.config)

    def listed(self) -> dict[str, Seen]:
        """What the engine shows now; asked in a child, so that this process stays without threads."""

        async def ask() -> list[Seen]:
            runtime = self.made()
            try:
                return list(await runtime.machines())
            finally:
                await runtime.aclose()

        import pickle

        reader, writer = os.pipe()
        if os.fork() == 0:
            os.close(reader)
            with os.fdopen(writer, "wb") as out:
                pickle.dump(asyncio.run(ask()), out)
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as answer:
            found = pickle.load(answer)
        os.wait()
        return {seen.id: seen for seen in found}

    def check(self, number: int) -> None:
        """Nothing that ran was started anew, no more runs than there are processors."""
        found = self.listed()
        running = [seen for seen in found.values() if seen.state is State.RUNNING]
        used = sum(round(seen.processors or 1) for seen in running)
        if used > self.total:
            self.wrong.append(f"round {number}: {used} processors are in use, {self.total} are allowed")
        for seen in found.values():
            before = self.started.setdefault(seen.id, seen.started)
            if before is not None and seen.started != before:
                self.wrong.append(f"round {number}: machine {seen.id} was started again")
            if before is None:
                self.started[seen.id] = seen.started
            if seen.id in self.gone:
                self.wrong.append(f"round {number}: machine {seen.id} has come back")
        self.gone |= set(self.started) - set(found)


async def _lives(ground: Ground) -> None:
    factory = ground.factory()
    await factory.open()
    await factory.run()


def one_round(ground: Ground, steps: int | None, seconds: float) -> None:
    """A daemon that dies after so many steps of its loop, or else after so many seconds."""
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        if steps is not None:
            _die_after(steps)
        try:
            asyncio.run(_lives(ground))
        finally:
            os._exit(3)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code not in (137, -signal.SIGALRM):
        ground.wrong.append(f"a daemon ended by itself with {code}")


def _die_after(steps: int) -> None:
    run, left = events.Handle._run, steps

    def counted(handle: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            os._exit(137)
        run(handle)

    events.Handle._run = counted  # type: ignore[method-assign]


def finish(ground: Ground) -> None:
    """A daemon that is left alone ends everything: then nothing may be left but history."""
    pid = os.fork()
    if pid == 0:
        try:
            asyncio.run(asyncio.wait_for(_empty(ground), 120))
        except BaseException as error:
            print(f"the last daemon: {type(error).__name__}: {error}", file=sys.stderr)
            os._exit(1)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        ground.wrong.append("the last daemon could not end everything")


async def _empty(ground: Ground) -> None:
    factory = ground.factory()
    await factory.open()
    loop = asyncio.ensure_future(factory.run())
    while not factory.decision.refusals:
        await asyncio.sleep(0.05)
    factory.ledger.intend("drain", {"reason": "the end", "by_time": factory.clocks.wall()})
    while any(not row.cleaned for row in factory.ledger.rows.values()) or factory.ledger.live():
        factory.wake()
        await asyncio.sleep(0.05)
    factory.end()
    await loop
    await factory.aclose()


def judge(ground: Ground) -> dict[str, Any]:
    """Compare history with what was seen; what disagrees goes to `ground.wrong`."""
    left = ground.listed()
    ground.wrong += [f"machine {name} was left in the engine" for name in left]
    with sqlite3.connect(ground.site.places.state / "factory.sqlite") as db:
        rows: dict[str, Row] = {n: ROW.validate_json(b) for n, b in db.execute("SELECT id, body FROM machine")}
    db.close()
    destroyed: dict[str, Any] = {}
    for line in ground.notes.read_text().splitlines():
        note = json.loads(line)
        destroyed.setdefault(note["id"], note)
        if note["state"] in ("running", "paused"):
            ground.wrong.append(f"machine {note['id']} was destroyed while it ran")
    for name in set(ground.started) | set(destroyed):
        if name not in rows:
            ground.wrong.append(f"machine {name} is in no history")
    for name, row in rows.items():
        ground.wrong += _agrees(name, row, destroyed.get(name), name in ground.started)
    unfinished = [p for p in ground.site.places.machines.iterdir() if p.name not in rows]
    ground.wrong += [f"directory {path.name} belongs to nobody" for path in unfinished]
    return {
        "machines": len(rows),
        "ended_in_the_engine": len(destroyed),
        "outcomes": _counts(rows.values()),
    }


def _agrees(name: str, row: Row, destroyed: Any, seen: bool) -> list[str]:
    if row.live or not row.cleaned:
        return [f"machine {name} is {row.phase} in the history"]
    outcome = row.outcome or {}
    if outcome.get("decided") == "factory" and (seen or destroyed):
        return [f"machine {name} was lost: {outcome.get('detail')}"]
    end = destroyed and destroyed["end"]
    if end and end != [outcome.get("reason"), outcome.get("exit_code")]:
        return [f"machine {name} ended with {end}, the history has {outcome}"]
    return []


def _counts(rows: Any) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in rows:
        outcome = row.outcome or {}
        word = outcome.get("message") or outcome.get("detail") or "nothing"
        found[word] = found.get(word, 0) + 1
    return dict(sorted(found.items()))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runtime", choices=("fake", "podman", "docker", "kvm"), default="fake")
    parser.add_argument("--options", type=Path, help="a JSON file with the options of the runtime")
    parser.add_argument("--image", default="")
    parser.add_argument("--total", type=int, default=6, help="the factory's processors")
    parser.add_argument("--longest", type=float, default=LONGEST)
    arguments = parser.parse_args()
    moments = random.Random(arguments.seed)
    ground = Ground(arguments)
    began = time.monotonic()
    for number in range(arguments.rounds):
        steps = int(10 ** moments.uniform(0, 3.2)) if number % 2 else None
        one_round(ground, steps, arguments.longest if steps is not None else moments.uniform(0.02, arguments.longest))
        ground.check(number)
    finish(ground)
    figures = {"rounds": arguments.rounds, "runtime": ground.runtime, "seconds": round(time.monotonic() - began, 1)}
    figures |= judge(ground)
    print(json.dumps(figures | {"wrong": ground.wrong}, indent=1))
    return 1 if ground.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
