"""Many containers from nothing to running: our runtimes beside a shell loop of the engine's own client, in one run.

    python bench/many.py [--count 64] [--at-once 4] [--rounds 3] [--engine docker|podman] [--json]

Both start the same containers (limits, no capabilities, no network) with the same parallelism, in turn; what was
started is removed untimed. Printed are the medians of a whole batch and the ratio of ours to the loop's. Needs root,
and the engine's packages; images and containers are its own, in a temporary directory.
"""

import argparse
import asyncio
import json
import shutil
import statistics
import subprocess
import time
from dataclasses import dataclass

import engine_of_its_own as own

from runtimes.containers.host import greatest
from runtimes.containers.runtime import Containers
from runtimes.contract import Image, Settings, State
from runtimes.docker import Docker
from runtimes.idranges import DEFAULT_FIRST
from runtimes.podman import Podman

LIMITS = "--cpus 1 --memory 64m --memory-swap 64m --pids-limit 100 --network none --cap-drop ALL"
LIMITS += " --security-opt no-new-privileges --entrypoint /bin/sleep"


@dataclass(frozen=True)
class Engine:
    runtime: type[Containers]
    own: object
    client: str
    more: str


ENGINES = {
    "docker": Engine(Docker, own.docker, "docker --host unix://{socket}", ""),
    "podman": Engine(
        Podman,
        own.podman,
        "podman --url unix://{socket}",
        f"--uidmap 0:{DEFAULT_FIRST}:65536 --gidmap 0:{DEFAULT_FIRST}:65536",
    ),
}


async def ours(runtime: Containers, image: Image, names: list[str], at_once: int) -> float:
    room = asyncio.Semaphore(at_once)

    async def one(name: str) -> None:
        async with room:
            seen = await runtime.create(own.spec(name, image))
            assert seen.state is State.RUNNING

    began = time.perf_counter()
    await asyncio.gather(*(one(name) for name in names))
    return time.perf_counter() - began


async def loop(client: str, flags: str, image_id: str, names: list[str], at_once: int) -> float:
    script = f"xargs -P {at_once} -I NAME {client} run --detach --name NAME {flags} {image_id} 1000"
    began = time.perf_counter()
    work = asyncio.to_thread(
        subprocess.run, script, shell=True, check=True, input="\n".join(names).encode(), stdout=subprocess.DEVNULL
    )
    await work
    return time.perf_counter() - began


async def clear(runtime: Containers, names: list[str], at_once: int) -> None:
    room = asyncio.Semaphore(at_once)

    async def one(name: str) -> None:
        async with room:
            while True:
                answer = await runtime._engine.call(
                    "DELETE", f"/containers/{name}", params={"force": True, "timeout": 0}
                )
                if answer.status == 404:
                    return

    await asyncio.gather(*(one(name) for name in names))


async def measure(engine: Engine, settings: Settings, count: int, at_once: int, rounds: int) -> dict[str, list[float]]:
    runtime = engine.runtime(settings)
    figures: dict[str, list[float]] = {"ours": [], "shell loop": []}
    try:
        await runtime.probe()
        image = own.busybox(settings.state_dir)
        image_id = await runtime.ensure(image)
        nofile, nproc = greatest(runtime._engine.socket)
        flags = f"{LIMITS} {engine.more} --ulimit nofile={nofile}:{nofile} --ulimit nproc={nproc}:{nproc}"
        client = engine.client.format(socket=runtime._engine.socket)
        for number in range(rounds):
            kinds = list(figures)
            for kind in kinds if number % 2 == 0 else kinds[::-1]:
                names = [f"many-{number}-{each}" for each in range(count)]
                if kind == "ours":
                    figures[kind].append(await ours(runtime, image, names, at_once))
                else:
                    figures[kind].append(await loop(client, flags, image_id, names, at_once))
                await clear(runtime, names, at_once)
    finally:
        await runtime.aclose()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--at-once", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engine", choices=sorted(ENGINES), action="append")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    told = {}
    for name in chosen.engine or sorted(ENGINES):
        engine = ENGINES[name]
        if not shutil.which(name):
            continue
        with engine.own() as settings:
            figures = asyncio.run(measure(engine, settings, chosen.count, chosen.at_once, chosen.rounds))
        medians = {kind: statistics.median(seconds) for kind, seconds in figures.items()}
        told[name] = {"median_seconds": medians, "ratio": medians["ours"] / medians["shell loop"]}
        if not chosen.json:
            for kind, seconds in figures.items():
                print(f"{name}, {chosen.count} containers, {kind:<10} median {medians[kind]:6.2f} s {sorted(seconds)}")
            print(f"{name}: ours / shell loop: {told[name]['ratio']:.2f}")
    if chosen.json:
        print(json.dumps({"count": chosen.count, "at_once": chosen.at_once, "engines": told}))


if __name__ == "__main__":
    main()
