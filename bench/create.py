"""From the create call to a running machine: our runtimes beside the engines' own clients doing the same, in one run.

    python bench/create.py [--engine docker|podman] [--rounds 30] [--json]

Each round starts one machine by our runtime, one by bare API calls of the engine's Python client with the very same
request (create, start), and one by the engine's command line (run --detach), in turn, and removes them untimed. Printed
are the medians and the ratios of ours to each. Needs root and the engines' packages; images and containers are its own,
in a temporary directory.
"""

import argparse
import asyncio
import json
import secrets
import statistics
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import engine_of_its_own as own

from runtimes.containers.host import greatest
from runtimes.containers.runtime import Containers
from runtimes.contract import Settings, Spec
from runtimes.docker import Docker
from runtimes.docker import body as docker_body
from runtimes.idranges import DEFAULT_FIRST, IdRange
from runtimes.podman import Podman, network
from runtimes.podman.body import create_body

Body = dict[str, Any]


@dataclass(frozen=True)
class Engine:
    runtime: type[Containers]
    own: Callable[[], AbstractContextManager[Settings]]
    request: Callable[[Spec, str, int, int], Body]
    words: tuple[str, ...]
    """The command line's, up to its `run`, and what it needs more to do the same."""
    more: tuple[str, ...] = ()


def podman_request(wanted: Spec, image_id: str, nofile: int, nproc: int) -> Body:
    ids, image = IdRange(DEFAULT_FIRST, 65_536), image_id.removeprefix("sha256:")
    body = create_body(wanted, image=image, root=None, ids=ids, nofile=nofile, nproc=nproc, fuse="")
    return body | network.request(wanted.network, rootless=False)


def docker_request(wanted: Spec, image_id: str, nofile: int, nproc: int) -> Body:
    ground = docker_body.Ground(
        image={"Id": image_id}, first_uid=0, nofile=nofile, nproc=nproc, fuse=False, apparmor=False, wait=None
    )
    return docker_body.create_body(wanted, ground)


ENGINES = {
    "docker": Engine(Docker, own.docker, docker_request, ("docker", "--host")),
    "podman": Engine(
        Podman,
        own.podman,
        podman_request,
        ("podman", "--url"),
        ("--uidmap", f"0:{DEFAULT_FIRST}:65536", "--gidmap", f"0:{DEFAULT_FIRST}:65536"),
    ),
}


async def bare(runtime: Containers, name: str, body: Body) -> float:
    """The same two requests on the same connection, nothing else."""
    began = time.perf_counter()
    made = await runtime._engine.call("POST", "/containers/create", params={"name": name}, body=body)
    started = await runtime._engine.call("POST", f"/containers/{name}/start")
    seconds = time.perf_counter() - began
    assert (made.status, started.status) == (201, 204), (made, started)
    return seconds


async def command_line(runtime: Containers, engine: Engine, name: str, image_id: str, most: tuple[int, int]) -> float:
    arguments = [
        *(*engine.words, f"unix://{runtime._engine.socket}", "run", "--detach", "--name", name, *engine.more),
        *("--network", "none", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
        *("--cpus", "1", "--memory", "64m", "--memory-swap", "64m", "--pids-limit", "100"),
        *(f"--ulimit={kind}={value}:{value}" for kind, value in zip(("nofile", "nproc"), most, strict=True)),
        *("--entrypoint", "/bin/sleep", image_id, "1000"),
    ]
    began = time.perf_counter()
    await asyncio.to_thread(subprocess.run, arguments, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


async def ours(runtime: Containers, wanted: Spec) -> float:
    began = time.perf_counter()
    await runtime.create(wanted)
    return time.perf_counter() - began


async def gone(runtime: Containers, name: str) -> None:
    """Remove it, and let the engine come to rest."""
    params = {"force": True, "timeout": 0}
    while (await runtime._engine.call("DELETE", f"/containers/{name}", params=params)).status != 404:
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.1)


def rotated(kinds: list[str], number: int) -> list[str]:
    """Each kind goes first, second and last in turn, since what went before leaves the engine busy."""
    return kinds[number % len(kinds) :] + kinds[: number % len(kinds)]


async def measure(engine: Engine, settings: Settings, rounds: int) -> dict[str, list[float]]:
    runtime = engine.runtime(settings)
    figures: dict[str, list[float]] = {"ours": [], "bare API": [], "command line": []}
    try:
        await runtime.probe()
        image = own.busybox(settings.state_dir)
        image_id = await runtime.ensure(image)
        most = greatest(runtime._engine.socket)
        for number in range(rounds + 2):
            for kind in rotated(list(figures), number):
                name = f"bench-{secrets.token_hex(4)}"
                wanted = own.spec(name, image)
                if kind == "ours":
                    seconds = await ours(runtime, wanted)
                elif kind == "bare API":
                    seconds = await bare(runtime, name, engine.request(wanted, image_id, *most))
                else:
                    seconds = await command_line(runtime, engine, name, image_id, most)
                await gone(runtime, name)
                if number >= 2:  # the first rounds warm the caches
                    figures[kind].append(seconds)
    finally:
        await runtime.aclose()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=sorted(ENGINES), action="append")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    told = {}
    for name in chosen.engine or sorted(ENGINES):
        engine = ENGINES[name]
        with engine.own() as settings:
            figures = asyncio.run(measure(engine, settings, chosen.rounds))
        medians = {kind: statistics.median(seconds) for kind, seconds in figures.items()}
        ratios = {kind: medians["ours"] / seconds for kind, seconds in medians.items() if kind != "ours"}
        told[name] = {"median_seconds": medians, "ratio": ratios}
        if chosen.json:
            continue
        for kind, seconds in figures.items():
            median, low, high = (1000 * value for value in (medians[kind], min(seconds), max(seconds)))
            print(f"{name}, {kind:<12} median {median:6.1f} ms   ({low:.1f} to {high:.1f}, n={len(seconds)})")
        for kind, ratio in ratios.items():
            print(f"{name}: ours / {kind}: {ratio:.2f}")
    if chosen.json:
        print(json.dumps({"rounds": chosen.rounds, "engines": told}))


if __name__ == "__main__":
    main()
