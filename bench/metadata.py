"""The metadata server while a hundred machines boot at once, with and without one that attacks it, in one run.

    python bench/metadata.py [--machines 100] [--rounds 3] [--json]

Each simulated machine is a network namespace in a factory's network of the benchmark's own (the real bridge, rules and
server), and asks what cloud-init asks when it boots: the EC2 tree key by key, then the OpenStack tree, then its
features, a connection for each request; then it PUTs a file. In every second round one more machine does its worst
meanwhile: it opens connections and leaves them, pipelines requests without an end, and begins uploads. Printed are
requests a second, the slowest answer and the median, and the ratio of both rounds; and the server's resident memory.
Then what it costs that a 201 is on the disk: machines PUT file after file to this server, and to the same one whose
fsync does nothing, in turns.
Needs root. The clients run on the same processors, the attacker's program among them, so the rates are a lower bound.
"""

import argparse
import ctypes
import json
import multiprocessing
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from lmd.environment import features
from lmd.environment.directory import Directory
from lmd.environment.features import Allocation
from lmd.metadata import card, launch
from lmd.metadata.account import account
from lmd.metadata.card import Card
from lmd.network import factory_network
from runtimes.containers.nic import connect
from runtimes.contract import Nic

SETTINGS = factory_network.Settings(libvirt="no")
FEATURES, METADATA = "169.254.169.253", "169.254.169.254"
PROCESSES = 4
STORING, FILES, FILE_BYTES = 20, 40, 50_000
"""Machines that PUT at once, the files of each, and their size."""
EC2 = ("ami-id", "ami-launch-index", "hostname", "instance-id", "instance-type", "local-hostname", "local-ipv4", "mac")
PATHS = (
    [(METADATA, "/"), (METADATA, "/2009-04-04/meta-data/instance-id"), (METADATA, "/2021-03-23/meta-data/")]
    + [(METADATA, f"/2021-03-23/meta-data/{key}") for key in EC2]
    + [(METADATA, path) for path in ("/2021-03-23/user-data", "/openstack", "/openstack/2018-08-27/")]
    + [(METADATA, f"/openstack/2018-08-27/{name}_data.json") for name in ("meta", "network", "vendor")]
    + [(METADATA, "/openstack/2018-08-27/user_data")]
    + [(FEATURES, f"/jobfeatures/{key}") for key in ("allocated_cpu", "job_id", "wall_limit_secs", "shutdowntime_job")]
    + [(FEATURES, f"/machinefeatures/{key}") for key in ("total_cpu", "shutdowntime")]
)


def enter(pid: int) -> None:
    """Take this thread into the network namespace of a process."""
    descriptor = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    assert ctypes.CDLL(None).setns(descriptor, 0x40000000) == 0
    os.close(descriptor)


def ask(address: str, head: str, body: bytes = b"") -> float:
    """Seconds from the first packet to the last byte of the answer."""
    began = time.perf_counter()
    with socket.create_connection((address, 80), 60) as connection:
        connection.sendall(f"{head} HTTP/1.0\r\nHost: {address}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    assert answer[9:12] in (b"200", b"201"), (head, answer[:200])
    return time.perf_counter() - began


def boot(pid: int, go: threading.Event, taken: list[float]) -> None:
    enter(pid)
    go.wait()
    for address, path in PATHS:
        taken.append(ask(address, f"GET {path}"))
    taken.append(ask(FEATURES, "PUT /joboutputs/log", bytes(50_000)))


def lives(
    life: Callable[[int, threading.Event, list[float]], None],
    pids: list[int],
    start: float,
    out: "multiprocessing.SimpleQueue[list[float]]",
) -> None:
    """All machines of one process, a thread each."""
    go, taken = threading.Event(), list[list[float]]()
    threads = []
    for pid in pids:
        taken.append([])
        threads.append(threading.Thread(target=life, args=(pid, go, taken[-1])))
        threads[-1].start()
    time.sleep(max(0.0, start - time.monotonic()))
    go.set()
    for thread in threads:
        thread.join()
    out.put([seconds for each in taken for seconds in each])


def store(pid: int, go: threading.Event, taken: list[float]) -> None:
    enter(pid)
    go.wait()
    for number in range(FILES):
        taken.append(ask(FEATURES, f"PUT /joboutputs/n{number}", bytes(FILE_BYTES)))


def attack(pid: int) -> None:
    """Until it is killed."""
    enter(pid)
    held: list[socket.socket] = []
    pipelined = b"GET /latest/meta-data/ HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n" * 200
    while True:
        with suppress(OSError):
            connection = socket.socket()
            connection.settimeout(0.5)
            connection.connect((METADATA if len(held) % 2 else FEATURES, 80))
            connection.setblocking(False)
            held.append(connection)
            match len(held) % 3:
                case 0:
                    connection.send(pipelined)
                case 1:
                    connection.send(b"GET /latest/user-data HTTP/1.1\r\nX: ")
                case 2:
                    connection.send(b"PUT /joboutputs/x HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + bytes(9000))
        for each in held[-50:]:
            with suppress(OSError):
                each.recv(65536)
        if len(held) > 1000:
            held.pop(0).close()


def all_at_once(
    life: Callable[[int, threading.Event, list[float]], None], machines: list[int]
) -> tuple[list[float], float]:
    """How long each request of the machines took, and all of it, in seconds."""
    start, out = time.monotonic() + 2, multiprocessing.SimpleQueue()
    workers = [
        multiprocessing.Process(target=lives, args=(life, machines[number::PROCESSES], start, out))
        for number in range(PROCESSES)
    ]
    for worker in workers:
        worker.start()
    taken = [seconds for _ in workers for seconds in out.get()]
    seconds = time.monotonic() - start
    for worker in workers:
        worker.join()
    return taken, seconds


class Ground:
    """The factory in this process's own network namespace, and its machines."""

    def __init__(self, home: Path, count: int) -> None:
        self.home, self.run = home, home / "run"
        self.run.mkdir(mode=0o711)
        (home / "machines").mkdir()
        account(0).share(home / "machines", 0o710)
        home.chmod(0o711)
        self.holders = [self._machine(f"m{number}") for number in range(count)]
        self.server = int((self.run / "metadata.lock").read_text())

    def _machine(self, name: str) -> "subprocess.Popen[bytes]":
        directory = Directory(self.home / "machines" / name)
        nic = factory_network.join(self.run, directory.path, name, SETTINGS)
        now = time.time()
        given = Allocation(job_id=name, processors=1, memory_bytes=2**30, started=now, shutdown_time=now + 9e4, grace=1)
        directory.make(features.machinefeatures(given), features.jobfeatures(given))
        card.make(directory.path, described(name, nic), b"#!/bin/sh\n" + bytes(4000), account(0))
        holder = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; read _"], stdin=-1, stdout=-1)
        assert holder.stdout
        holder.stdout.readline()
        connect(nic, holder.pid)
        return holder

    def memory(self) -> int:
        """The server's resident kilobytes."""
        return int(Path(f"/proc/{self.server}/status").read_text().partition("VmRSS:")[2].split()[0])

    def round(self, attacked: bool) -> dict[str, float]:
        *machines, bad = [holder.pid for holder in self.holders]
        attacker = multiprocessing.Process(target=attack, args=(bad,), daemon=True)
        if attacked:
            attacker.start()
            time.sleep(1)
        taken, seconds = all_at_once(boot, machines)
        memory = self.memory()
        if attacked:
            attacker.kill()
            attacker.join()
        return {
            "requests_per_second": len(taken) / seconds,
            "slowest": max(taken),
            "median": statistics.median(taken),
            "kilobytes": memory,
        }

    def storing(self, *, forced: bool) -> float:
        """Files a second that a server takes which forces them to the disk, or does not."""
        self._restart({} if forced else {"PYTHONPATH": str(self.home / "unforced")})
        taken, seconds = all_at_once(store, [holder.pid for holder in self.holders[:STORING]])
        return len(taken) / seconds

    def _restart(self, environment: dict[str, str]) -> None:
        """The server once more, as `lm run` starts it, with variables of its own."""
        self._end()
        (self.home / "unforced").mkdir(exist_ok=True)
        (self.home / "unforced/sitecustomize.py").write_text("import os\nos.fsync = lambda descriptor: None\n")
        before = dict(os.environ)
        os.environ.update(environment)
        try:
            factory_network.mend(self.run, SETTINGS)
        finally:
            os.environ.clear()
            os.environ.update(before)
        self.server = int((self.run / "metadata.lock").read_text())

    def _end(self) -> None:
        os.kill(self.server, signal.SIGTERM)
        while launch.serving(self.run):
            time.sleep(0.05)

    def close(self) -> None:
        self._end()
        for holder in self.holders:
            holder.kill()
            holder.communicate()


def described(name: str, nic: Nic) -> Card:
    return Card(
        id=name,
        job_id=name,
        space="bench.invalid",
        machinetype="bench",
        factory="bench",
        address=nic.address,
        address6=nic.address6,
        mac=nic.mac,
        port=nic.port,
        bridge=nic.bridge,
        variables={},
        outputs_bytes=10**9,
        outputs_files=1000,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--machines", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if not os.environ.get("LMD_BENCH_ALONE"):  # once more, in a network namespace of its own
        words = ["unshare", "--net", "--", sys.executable, *sys.argv]
        os.execvpe(words[0], words, os.environ | {"LMD_BENCH_ALONE": "1"})
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    # Where a factory has its machines: /tmp may be memory.
    with tempfile.TemporaryDirectory(prefix="lmd-bench.", dir="/var/tmp") as home:
        ground = Ground(Path(home), asked.machines + 1)
        try:
            idle = ground.memory()
            rounds = [(ground.round(False), ground.round(True)) for _ in range(asked.rounds)]
            # Files that replace others count differently: the first round of each is not counted.
            stored = [(ground.storing(forced=False), ground.storing(forced=True)) for _ in range(asked.rounds + 1)][1:]
        finally:
            ground.close()
    loose, forced = (statistics.median(each[kind] for each in stored) for kind in (0, 1))
    print_results(rounds, idle, asked, {"forced": forced, "not_forced": loose, "ratio": forced / loose})


def print_results(
    rounds: list[tuple[dict, dict]], idle: int, asked: argparse.Namespace, stored: dict[str, float]
) -> None:
    kinds = [{key: statistics.median(each[kind][key] for each in rounds) for key in rounds[0][0]} for kind in (0, 1)]
    quiet, attacked = kinds
    ratios = {key: attacked[key] / quiet[key] for key in ("requests_per_second", "slowest", "median")}
    if asked.json:
        found = {"quiet": quiet, "attacked": attacked, "ratios": ratios, "idle_kilobytes": idle, "stored": stored}
        print(json.dumps(found, indent=1))
        return
    print(f"{asked.machines} machines boot at once, {len(PATHS) + 1} requests each, medians of {asked.rounds} rounds:")
    for name, found in (("quiet", quiet), ("one attacks", attacked)):
        print(
            f"{name:12} {found['requests_per_second']:7.0f} requests/s   slowest {found['slowest'] * 1000:7.0f} ms"
            f"   median {found['median'] * 1000:6.0f} ms   server {found['kilobytes'] / 1000:.0f} MB"
        )
    text = "   ".join(f"{key} {ratios[key]:.2f}" for key in ratios)
    print(f"ratio        {text}   server idle {idle / 1000:.0f} MB")
    print(
        f"{STORING} machines PUT files of {FILE_BYTES // 1000} kB, forced to the disk: {stored['forced']:.0f} a second"
        f"   not forced: {stored['not_forced']:.0f}   ratio {stored['ratio']:.2f}"
    )


if __name__ == "__main__":
    main()
