"""The daemon's figures: machines started, adopted, looked after.

    python bench/daemon.py [fake] [adopt] [idle] [podman] [--machines 64] [--json]

fake    1,000 machines of the fake runtime from empty to running: machines a second, all of it in one process
adopt   a daemon starts on 200 machines that run already: seconds from its start until it knows of each that it runs
idle    a daemon that looks after 200 machines for 30 s: memory above a process that has imported the same, CPU share
podman  real containers from an empty factory to all running, beside `podman run --detach` in a loop with the same
        parallelism, in the same run: seconds of each, and the ratio. Needs root and a working Podman.
"""

import argparse
import asyncio
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests/lmd/factory"))

from factory_ground import Site, config, machinetype, rows, until

from lmd.factory.rows import Phase
from lmd.factory.watched import AT_A_TIME


async def fake(count: int = 1000) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as directory:
        site = Site(Path(directory))
        async with site.running(config(machinetype("work", mb_per_processor=1), total=count)) as factory:
            await until(lambda: factory.ledger.rows, 60)
            began = time.perf_counter()
            while len(rows(factory, Phase.RUNNING)) < count:
                await asyncio.sleep(0.05)
            seconds = time.perf_counter() - began
        return {"machines": count, "seconds": round(seconds, 2), "a_second": round(count / seconds, 1)}


async def adopt(count: int = 200) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as directory:
        site = Site(Path(directory))
        configured = config(machinetype("work", mb_per_processor=1), total=count)
        async with site.running(configured) as factory:
            while len(rows(factory, Phase.RUNNING)) < count:
                await asyncio.sleep(0.05)
        began = time.perf_counter()
        async with site.running(configured) as factory:
            while not (factory.engines["fake"].complete and factory.passes > 1):
                await asyncio.sleep(0.001)
            assert len(rows(factory, Phase.RUNNING)) == count
            seconds = time.perf_counter() - began
        for path in site.places.state.glob("factory.sqlite*"):
            path.unlink()
        began = time.perf_counter()
        async with site.running(configured) as factory:
            while len([row for row in rows(factory, Phase.RUNNING) if row.shown]) < count:
                await asyncio.sleep(0.001)
            without = time.perf_counter() - began
        return {"machines": count, "seconds": round(seconds, 3), "seconds_without_database": round(without, 3)}


TYPES = """
[settings]
factory_name = "wn1"
total_processors = 200
overload_per_processor = 100000.0
[machinetypes.work]
root_image = "docker://example"
runtime = "fake"
target_share = 1.0
mb_per_processor = 1
entrypoint = ["forever"]
heartbeat_file = "beat"
fizzle_seconds = 86400
"""
IMPORTS = "import lmd.factory.main, lmd.factory.api.server, runtimes.fake, lmd.config.load, time; time.sleep(20)"


def idle(seconds: float = 30.0) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        (home / "config").mkdir()
        (home / "config/lmd.toml").write_text(TYPES)
        names = ("CONFIG", "STATE", "RUN", "CACHE")
        environment = os.environ | {f"LMD_{name}_DIR": str(home / name.lower()) for name in names} | {"LMD_FAKE": "1"}
        bare = subprocess.Popen([sys.executable, "-c", IMPORTS])
        time.sleep(8)
        imports = _memory(bare.pid)
        bare.kill()
        bare.wait()
        command = [sys.executable, "-c", "from lmd.factory.main import main; main()", "--log", "json"]
        with (home / "log").open("wb") as log:
            daemon = subprocess.Popen(command, env=environment, stderr=log)
        try:
            while (home / "log").read_text().count('"machine-running"') < 200:
                time.sleep(0.5)
            time.sleep(10)
            before = _cpu(daemon.pid)
            time.sleep(seconds)
            share = (_cpu(daemon.pid) - before) / seconds
            memory, threads = _memory(daemon.pid), len(list(Path(f"/proc/{daemon.pid}/task").iterdir()))
        finally:
            daemon.send_signal(signal.SIGTERM)
            daemon.wait()
        return {
            "machines": 200,
            "memory_mb": round(memory, 1),
            "imports_mb": round(imports, 1),
            "above_imports_mb": round(memory - imports, 1),
            "cpu_percent_of_a_core": round(100 * share, 2),
            "threads": threads,
        }


def _memory(pid: int) -> float:
    """Resident megabytes that are not shared with files."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("RssAnon:")[1].split()[0]) / 1000


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def podman(count: int) -> dict[str, object]:
    from images.archive import ImageConfig, write_oci_archive

    home = Path(tempfile.mkdtemp(prefix="lmd-b."))
    options = {name: str(home / name) for name in ("root", "runroot", "tmpdir", "network_config_dir")}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    try:
        archive = home / "image.tar"
        _image(home / "rootfs", archive, ImageConfig, write_oci_archive)
        ours = _ours(home, options, archive, count)
        image = subprocess.run(
            ["podman", *flags, "images", "--quiet", "--no-trunc"], capture_output=True, text=True, check=True
        ).stdout.split()[0]
        theirs = _theirs(home, flags, image, count)
        again = _ours(home, options, archive, count)
    finally:
        _clear(home, flags)
    best = min(ours, again)
    return {
        "machines": count,
        "parallelism": AT_A_TIME,
        "ours_s": [round(ours, 2), round(again, 2)],
        "engine_s": round(theirs, 2),
        "ratio": round(best / theirs, 2),
    }


def _image(rootfs: Path, archive: Path, config_: type, write: object) -> None:
    (rootfs / "bin").mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "/bin/busybox", rootfs / "bin/busybox")
    for name in ("sh", "sleep"):
        (rootfs / "bin" / name).symlink_to("busybox")
    for name in ("etc", "proc", "sys", "dev", "tmp", "run", "var"):
        (rootfs / name).mkdir()
    subprocess.run(["tar", "-C", str(rootfs), "-cf", str(archive), "."], check=True)


def _ours(home: Path, options: dict[str, str], archive: Path, count: int) -> float:
    raise NotImplementedError


if __name__ == "__main__":
    pass
