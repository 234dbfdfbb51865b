"""From the create call to a running machine: our runtime beside Podman's own clients doing the same, in one run.

    python bench/create.py [--rounds 30] [--json]

Each round starts one machine by our runtime, one by bare API calls of podman-py with the very same request (create,
start), and one by the `podman` command line (run --detach), in turn, and removes them untimed. Printed are the medians
and the ratios of ours to each. Needs root and a working Podman; the images and containers are its own, in a temporary
directory.
"""

import argparse
import asyncio
import json
import secrets
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from images.archive import ImageConfig, write_oci_archive
from runtimes.containers.host import greatest
from runtimes.contract import Image, ImageKind, Limits, Network, Settings, Spec
from runtimes.idranges import IdRange
from runtimes.podman import Podman, network
from runtimes.podman.body import create_body

FIRST = 1_879_048_192


def spec(name: str, image: Image) -> Spec:
    return Spec(
        id=name,
        owner="run:bench",
        space="bench.invalid",
        machinetype="bench",
        image=image,
        entrypoint=("/bin/sleep", "1000"),
        limits=Limits(processors=1, memory_bytes=64 * 2**20, pids=100),
        network=Network.NONE,
    )


async def bare(runtime: Podman, body: dict) -> float:
    """The same two requests on the same connection, nothing else."""
    engine = runtime._engine
    began = time.perf_counter()
    made = await engine.call("POST", "/containers/create", body=body)
    started = await engine.call("POST", f"/containers/{body['name']}/start")
    seconds = time.perf_counter() - began
    assert (made.status, started.status) == (201, 204), (made, started)
    return seconds


async def command_line(runtime: Podman, body: dict, image_id: str) -> float:
    arguments = [
        *("podman", "--url", f"unix://{runtime._engine.socket}", "run", "--detach", "--name", body["name"]),
        *("--network", "none", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
        *("--uidmap", f"0:{FIRST}:65536", "--gidmap", f"0:{FIRST}:65536", "--cpus", "1", "--memory", "64m"),
        *("--memory-swap", "64m", "--pids-limit", "100"),
        *(f"--ulimit={r['type']}={r['soft']}:{r['hard']}" for r in body["r_limits"]),
        *("--entrypoint", json.dumps(list(body["entrypoint"])), image_id),
    ]
    began = time.perf_counter()
    await asyncio.to_thread(subprocess.run, arguments, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


async def one(kind: str, runtime: Podman, wanted: Spec, body: dict, image_id: str) -> float:
    if kind == "bare API":
        return await bare(runtime, body)
    if kind == "podman run":
        return await command_line(runtime, body, image_id)
    began = time.perf_counter()
    await runtime.create(wanted)
    return time.perf_counter() - began


async def gone(runtime: Podman, name: str) -> None:
    """Remove it, and let the engine come to rest."""
    params = {"force": True, "timeout": 0}
    while (await runtime._engine.call("DELETE", f"/containers/{name}", params=params)).status != 404:
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.1)


def rotated(kinds: list[str], number: int) -> list[str]:
    """Each kind goes first, second and last in turn, since what went before leaves the engine busy."""
    return kinds[number % len(kinds) :] + kinds[: number % len(kinds)]


async def measure(settings: Settings, image: Image, rounds: int) -> dict[str, list[float]]:
    runtime = Podman(settings)
    figures: dict[str, list[float]] = {"ours": [], "bare API": [], "podman run": []}
    try:
        await runtime.probe()
        image_id = (await runtime.ensure(image)).removeprefix("sha256:")
        nofile, nproc = greatest(runtime._engine.socket)
        for number in range(rounds + 2):
            for kind in rotated(list(figures), number):
                name = f"bench-{secrets.token_hex(4)}"
                wanted = spec(name, image)
                body = create_body(
                    wanted, image=image_id, root=None, ids=IdRange(FIRST, 65_536), nofile=nofile, nproc=nproc, fuse=""
                )
                body |= network.request(wanted.network, rootless=False)
                seconds = await one(kind, runtime, wanted, body, image_id)
                await gone(runtime, name)
                if number >= 2:  # the first rounds warm the caches
                    figures[kind].append(seconds)
    finally:
        await runtime.aclose()
    return figures


def busybox(directory: Path) -> Image:
    root = directory / "root"
    (root / "bin").mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "/bin/busybox", root / "bin/busybox")
    (root / "bin/sleep").symlink_to("busybox")
    write_oci_archive(root, directory / "image.tar", ImageConfig())
    return Image(kind=ImageKind.OCI_ARCHIVE, location=str(directory / "image.tar"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="lmd-b."))
    store = {name: str(directory / name) for name in ("root", "runroot", "tmpdir", "network_config_dir")}
    settings = Settings(state_dir=directory, run_dir=directory / "run", cache_dir=directory, options=store)
    try:
        figures = asyncio.run(measure(settings, busybox(directory), chosen.rounds))
    finally:
        subprocess.run(["pkill", "-KILL", "-f", f"podman.*{directory}"], check=False)
        subprocess.run(["umount", "-q", directory / "root/overlay"], check=False)
        shutil.rmtree(directory, ignore_errors=True)
    medians = {kind: statistics.median(seconds) for kind, seconds in figures.items()}
    ratios = {kind: medians["ours"] / seconds for kind, seconds in medians.items() if kind != "ours"}
    if chosen.json:
        print(json.dumps({"rounds": chosen.rounds, "median_seconds": medians, "ratio": ratios}))
        return
    for kind, seconds in figures.items():
        median, low, high = (1000 * value for value in (medians[kind], min(seconds), max(seconds)))
        print(f"{kind:<12} median {median:6.1f} ms   ({low:.1f} to {high:.1f}, n={len(seconds)})")
    for kind, ratio in ratios.items():
        print(f"ours / {kind}: {ratio:.2f}")


if __name__ == "__main__":
    main()
