"""The daemon's figures: machines started, adopted, looked after.

    python bench/daemon.py [fake] [adopt] [idle] [reaction] [podman] [--machines 64] [--json]

fake    1,000 machines of the fake runtime from empty to running: machines a second, all of it in one process. Set
        TMPDIR to a file system of its own: ext4 passes over the inodes of files that were deleted in the last minutes,
        so that a second run there takes two to three times as long
adopt   a daemon starts on 200 machines that run already: seconds from its start until it knows of each that it runs
idle    a daemon that looks after 200 machines for 30 s: memory above a process that has imported the same, CPU share
reaction  milliseconds from an event of the engine to the decision after it, and from then to the create call that fills
        the freed slot: medians and the worst of 30, in a factory of 64 machines
podman  real containers from an empty factory to all running, beside `podman run --detach` in a loop with the same
        parallelism, in the same run: seconds of each, and the ratio. Needs root and a working Podman.
"""

import argparse
import asyncio
import json
import os
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests/lmd/factory"))

from factory_ground import Site, config, machinetype, rows, until  # noqa: E402

from lmd.environment.outcome import Why  # noqa: E402
from lmd.factory.rows import Phase  # noqa: E402
from lmd.factory.watched import AT_A_TIME  # noqa: E402
from runtimes import cgroups  # noqa: E402
from runtimes.contract import EndReason, Settings  # noqa: E402
from runtimes.fake import Fake  # noqa: E402
from runtimes.podman import Podman  # noqa: E402
from runtimes.podman.service import oci_runtime  # noqa: E402


async def fake(count: int = 1000) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as directory:
        site = Site(Path(directory))
        async with site.running(config(machinetype("work", mb_per_processor=1), total=count)) as factory:
            await until(lambda: factory.ledger.rows, 60)
            began, cpu = time.perf_counter(), time.process_time()
            while len(rows(factory, Phase.RUNNING)) < count:
                await asyncio.sleep(0.05)
            seconds, spent = time.perf_counter() - began, time.process_time() - cpu
        return {
            "machines": count,
            "seconds": round(seconds, 2),
            "cpu_seconds": round(spent, 2),
            "a_second": round(count / seconds, 1),
            "a_cpu_second": round(count / spent, 1),
        }


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


async def reaction(rounds: int = 30, count: int = 64) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as directory:
        site = Site(Path(directory))
        told: list[float] = []

        class Tells(Fake):
            async def watch(self) -> AsyncIterator[str]:
                async for name in super().watch():
                    told.append(time.perf_counter())
                    yield name

        site.load = lambda name, _: Tells(site.settings) if name == "fake" else _lacking(name)
        configured = config(machinetype("work", mb_per_processor=1, max_processors=1), total=count)
        decided: list[float] = []
        asked: list[float] = []
        async with site.running(configured) as factory:
            while len(rows(factory, Phase.RUNNING)) < count:
                await asyncio.sleep(0.05)
            for _ in range(rounds):
                await asyncio.sleep(0.5)
                known, made = set(factory.ledger.rows), _creates(site)
                told.clear()
                site.engine.cut(rows(factory, Phase.RUNNING)[0].id, EndReason.KILLED, 137)
                while not told:
                    await asyncio.sleep(0.001)
                while set(factory.ledger.rows) == known:
                    await asyncio.sleep(0.001)
                decided.append(1000 * (time.perf_counter() - told[0]))
                while _creates(site) == made:
                    await asyncio.sleep(0.001)
                asked.append(1000 * (time.perf_counter() - told[0]))
        return {
            "machines": count,
            "event_to_decision_ms": [round(statistics.median(decided), 1), round(max(decided), 1)],
            "event_to_create_ms": [round(statistics.median(asked), 1), round(max(asked), 1)],
        }


def _lacking(name: str) -> Fake:
    raise LookupError(name)


def _creates(site: Site) -> int:
    return sum(exchange == "create.insert" for exchange, _ in site.engine.calls())


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
joboutputs_bytes = 100000
console_bytes = 131072
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
    home = Path(tempfile.mkdtemp(prefix="lmd-b."))
    options = {name: str(home / name) for name in ("root", "runroot", "tmpdir", "network_config_dir")}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    if not Path("/run/systemd/system").is_dir():
        flags += ["--cgroup-manager=cgroupfs", "--events-backend=file"]
    default = oci_runtime(cgroups.mounts(), frozenset(n for n in ("crun", "runc") if shutil.which(n)))
    flags += [f"--runtime={default}"] if default else []
    os.environ.setdefault("CONTAINERS_CONF", str(_conf(home)))  # the same for the client and for our service
    try:
        archive = _rootfs(home / "rootfs", home / "rootfs.tar")
        subprocess.run(["podman", *flags, "import", str(archive), "localhost/bench:1"], check=True, capture_output=True)
        first = asyncio.run(_ours(home / "first", options, count))
        theirs = _theirs(flags, count)
        second = asyncio.run(_ours(home / "second", options, count))
    finally:
        _clear(home, flags)
    return {
        "machines": count,
        "parallelism": AT_A_TIME,
        "ours_s": [round(first, 2), round(second, 2)],
        "engine_s": round(theirs, 2),
        "ratio": [round(first / theirs, 2), round(second / theirs, 2)],
    }


def _conf(home: Path) -> Path:
    """The settings that our service has where an administrator has made none: with a network backend that is there."""
    lines = ["[containers]", 'base_hosts_file = "none"', "[engine]", "exit_command_delay = 1"]
    if shutil.which("netavark", path="/usr/lib/podman:/usr/libexec/podman:/usr/local/libexec/podman"):
        lines += ["[network]", 'network_backend = "netavark"']
    conf = home / "containers.conf"
    conf.write_text("\n".join(lines) + "\n")
    return conf


def _rootfs(rootfs: Path, archive: Path) -> Path:
    for name in ("bin", "etc", "proc", "sys", "dev", "tmp", "run", "var"):
        (rootfs / name).mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "/bin/busybox", rootfs / "bin/busybox")
    for name in ("sh", "sleep"):
        (rootfs / "bin" / name).symlink_to("busybox")
    subprocess.run(["tar", "-C", str(rootfs), "-cf", str(archive), "."], check=True)
    return archive


async def _ours(home: Path, options: dict[str, str], count: int) -> float:
    """From an empty factory, whose image is there, until all run; then all are removed, untimed."""
    home.mkdir()
    site = Site(home)
    settings = Settings(
        state_dir=site.places.state, run_dir=site.places.run, cache_dir=site.places.cache, options=options
    )

    def load(name: str, _: object) -> object:
        if name != "podman":
            raise LookupError(name)
        return Podman(settings)

    site.load = load
    keys = {"root_image": "docker://localhost/bench:1", "pull": "never", "network": "none", "runtime": "podman"}
    type_ = machinetype("work", "/bin/sleep", "1000", **(keys | {"mb_per_processor": 16, "max_processors": 1}))
    async with site.running(config(type_, total=count)) as factory:
        while not factory.ledger.rows:
            await asyncio.sleep(0.005)
        began = time.perf_counter()
        while len(rows(factory, Phase.RUNNING)) < count:
            await asyncio.sleep(0.02)
            assert not factory.ledger.warnings.open(), factory.ledger.warnings.open()
        seconds = time.perf_counter() - began
        factory.ledger.intend("drain", {"reason": "over"})
        for row in factory.ledger.live():
            factory.condemn(row, Why.STOPPED, "over", 0.0)
        while factory.ledger.live() or not all(row.cleaned for row in factory.ledger.rows.values()):
            factory.wake()
            await asyncio.sleep(0.1)
    return seconds


def _theirs(flags: list[str], count: int) -> float:
    """The engine's own client, so many at a time, asking for what ours have: limits, user ids, no network."""
    script = (
        'n=$1; shift; first=$((1879048192 + n * 65536)); exec podman "$@" run --detach --name bench-$n'
        " --network none --cap-drop ALL --security-opt no-new-privileges --uidmap 0:$first:65536"
        " --gidmap 0:$first:65536 --cpus 1 --memory 16m --memory-swap 16m --pids-limit 4096"
        " --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 localhost/bench:1 /bin/sleep 1000 > /dev/null"
    )
    numbers = "\n".join(map(str, range(count))) + "\n"
    began = time.perf_counter()
    words = ["xargs", "-P", str(AT_A_TIME), "-I", "{}", "sh", "-c", script, "sh", "{}", *flags]
    subprocess.run(words, input=numbers, text=True, check=True)
    seconds = time.perf_counter() - began
    _remove(flags, [f"bench-{number}" for number in range(count)])
    return seconds


def _remove(flags: list[str], names: list[str]) -> None:
    """Untimed. Again if need be: the engine clears up after an end at the same time, and then finds the other busy."""
    for _ in range(5):
        words = ["podman", *flags, "rm", "--force", "--ignore", "--time", "0", *names]
        done = subprocess.run(words, check=False, capture_output=True, text=True)
        if not done.returncode:
            return
        time.sleep(1)
    raise SystemExit(f"podman rm ended with code {done.returncode}: {done.stderr.strip()[-500:]}")


def _clear(home: Path, flags: list[str]) -> None:
    listed = subprocess.run(["podman", *flags, "ps", "-aq"], check=False, capture_output=True, text=True)
    if names := listed.stdout.split():  # of the root in `home` alone
        subprocess.run(["podman", *flags, "rm", "--force", "--time", "0", *names], check=False, capture_output=True)
    for path in home.glob("*/run/podman*.sock"):
        with socket.socket(socket.AF_UNIX) as connection, suppress(OSError):
            connection.connect(str(path))
            pid = struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
            os.kill(pid, signal.SIGKILL)
    time.sleep(1)
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        if line.split()[4].startswith(f"{home}/"):
            subprocess.run(["umount", "-l", line.split()[4]], check=False)
    shutil.rmtree(home, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="*", choices=["fake", "adopt", "idle", "reaction", "podman", []], default=[])
    parser.add_argument("--machines", type=int, default=64)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # nothing is left behind then either
    figures: dict[str, dict[str, object]] = {}
    for name in arguments.what or ["fake", "adopt", "idle", "reaction", "podman"]:
        work = {"fake": lambda: asyncio.run(fake()), "adopt": lambda: asyncio.run(adopt()), "idle": idle}
        work["reaction"] = lambda: asyncio.run(reaction())
        figures[name] = work[name]() if name in work else podman(arguments.machines)
        if not arguments.json:
            print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in figures[name].items()), flush=True)
    if arguments.json:
        print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
