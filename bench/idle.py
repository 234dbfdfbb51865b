"""What idle machines cost the busy ones beside them, on this host's kernel.

    python bench/idle.py [--rounds 20] [--seconds 3] [--json]        some 10 s a round

Busy machines, one a processor, count loops of a fixed piece of work. In turn, for some seconds each, they run alone,
with as many idle machines (`class = "idle"`) beside them, and with as many ordinary machines beside them, which shows
that the measure can tell. The others are paused when it is not their turn, and who goes first changes from round to
round. Printed is the median over rounds of the work done beside the others, relative to the work done alone in the same
round; the host's other load falls on all of them. Beside it stands the part of the processor time of both that the
others took, which the kernel counts. Needs root and a working Podman; images and containers are its own, in a temporary
directory.
"""

import argparse
import asyncio
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from images.archive import ImageConfig, write_oci_archive
from runtimes.contract import Image, ImageKind, Limits, Mount, Network, Settings, Spec
from runtimes.podman import Podman

Measured = tuple[dict[str, list[float]], dict[str, list[float]]]
WORK = "n=0; while :; do i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done; n=$((n+1)); echo $n > /count/$1; done"


def spec(name: str, image: Image, counts: Path, *, idle: bool) -> Spec:
    return Spec(
        id=name,
        owner="run:bench",
        space="bench.invalid",
        machinetype="bench",
        image=image,
        entrypoint=("/bin/sh", "-c", WORK, "sh", name),
        mounts=(Mount(source=counts, target=Path("/count"), read_only=False, owned_by_machine=True),),
        limits=Limits(processors=1, memory_bytes=64 * 2**20, pids=100),
        network=Network.NONE,
        idle=idle,
    )


def busybox(directory: Path) -> Image:
    root = directory / "image"
    (root / "bin").mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "/bin/busybox", root / "bin/busybox")
    (root / "bin/sh").symlink_to("busybox")
    write_oci_archive(root, directory / "image.tar", ImageConfig())
    return Image(kind=ImageKind.OCI_ARCHIVE, location=str(directory / "image.tar"))


def done(counts: Path, names: list[str]) -> int:
    """Loops that these machines have gone through."""
    return sum(_count(counts / name / name) for name in names)


def _count(file: Path) -> int:
    """A machine writes its count again and again: between its opening and its writing the file is empty."""
    while True:
        text = file.read_text().strip() if file.exists() else ""
        if text:
            return int(text)
        time.sleep(0.001)


async def pause(runtime: Podman, names: list[str], what: str) -> None:
    for name in names:
        await runtime._engine.call("POST", f"/containers/{name}/{what}")


async def measure(settings: Settings, directory: Path, rounds: int, seconds: float) -> Measured:
    runtime = Podman(settings)
    count = os.cpu_count() or 1
    beside = {"idle": [f"idle{n}" for n in range(count)], "ordinary": [f"ordinary{n}" for n in range(count)]}
    busy = [f"busy{n}" for n in range(count)]
    rates: dict[str, list[float]] = {"alone": [], "idle": [], "ordinary": []}
    took: dict[str, list[float]] = {"idle": [], "ordinary": []}
    try:
        await runtime.probe()
        image = busybox(directory)
        await runtime.ensure(image)
        counts = directory / "counts"
        for kind, names in {"busy": busy, **beside}.items():
            for name in names:
                (counts / name).mkdir(parents=True)
                await runtime.create(spec(name, image, counts / name, idle=kind == "idle"))
        for names in beside.values():
            await pause(runtime, names, "pause")
        for number in range(rounds):
            if sys.stderr.isatty():
                print(f"round {number + 1} of {rounds}", end="\r", file=sys.stderr, flush=True)
            for kind in list(rates)[number % 3 :] + list(rates)[: number % 3]:
                others = beside.get(kind, [])
                await pause(runtime, others, "unpause")
                await asyncio.sleep(0.3)
                before, since = done(counts, busy), time.monotonic()
                used = await cpu_seconds(runtime, busy), await cpu_seconds(runtime, others)
                await asyncio.sleep(seconds)
                rates[kind].append((done(counts, busy) - before) / (time.monotonic() - since))
                if others:
                    own = await cpu_seconds(runtime, busy) - used[0]
                    theirs = await cpu_seconds(runtime, others) - used[1]
                    took[kind].append(theirs / max(own + theirs, 1e-9))
                await pause(runtime, others, "pause")
    finally:
        for names in (busy, *beside.values()):
            for name in names:
                await runtime.destroy(name)
        await runtime.aclose()
    return rates, took


async def cpu_seconds(runtime: Podman, names: list[str]) -> float:
    """Processor time of these machines together."""
    usage = await runtime.usage()
    return sum(usage[name].cpu_seconds for name in names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="lmd-i."))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # machines are ended then, too
    store = {name: str(directory / name) for name in ("root", "runroot", "tmpdir", "network_config_dir")}
    settings = Settings(state_dir=directory, run_dir=directory / "run", cache_dir=directory, options=store)
    try:
        rates, took = asyncio.run(measure(settings, directory, chosen.rounds, chosen.seconds))
    finally:
        subprocess.run(["pkill", "-KILL", "-f", f"podman.*{directory}"], check=False)
        subprocess.run(["umount", "-q", directory / "root/overlay"], check=False)
        shutil.rmtree(directory, ignore_errors=True)
    ratios = {
        kind: [beside / alone for beside, alone in zip(rates[kind], rates["alone"], strict=True) if alone]
        for kind in ("idle", "ordinary")
    }
    medians = {kind: statistics.median(values) for kind, values in ratios.items()}
    shares = {kind: statistics.median(values) for kind, values in took.items()}
    if chosen.json:
        print(
            json.dumps({"rounds": chosen.rounds, "loadavg": os.getloadavg(), "relative_work": medians, "took": shares})
        )
        return
    for kind, values in ratios.items():
        low, high = statistics.quantiles(values, n=4)[0], statistics.quantiles(values, n=4)[2]
        print(f"beside {kind} machines: {medians[kind]:.3f} of the work done alone (quartiles {low:.3f} to {high:.3f})")
        print(f"    and they took {shares[kind]:.2%} of the processor time of both")


if __name__ == "__main__":
    main()
