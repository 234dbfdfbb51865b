"""The daemon on real containers of a private Podman."""

import asyncio
import json
import os
import signal
import socket
import struct
from pathlib import Path

import pytest

from runtimes.podman import Podman


def configuration(podman, image: str, script: Path, total: int) -> str:
    options = "\n".join(f"{key} = {json.dumps(value)}" for key, value in podman.options.items())
    return f"""
[settings]
factory_name = "wn1"
total_processors = {total}
overload_per_processor = 1000.0
[runtimes.podman]
{options}
[machinetypes.work]
root_image = "docker://{image}"
pull = "never"
runtime = "podman"
network = "none"
target_share = 1.0
backoff_seconds = 0
fizzle_seconds = 0
mb_per_processor = 64
user_data = {json.dumps(str(script))}
"""


@pytest.fixture
def script(short_tmp: Path) -> Path:
    path = short_tmp / "work.sh"
    path.write_text(
        "#!/bin/sh\necho begun\ntrap 'echo \"200 told to end\" > $JOBOUTPUTS/shutdown_message; exit 0' TERM\n"
        "while sleep 0.1; do :; done\n"
    )
    return path


@pytest.fixture
def lmd(make_lmd, podman, podman_image: str, script: Path):
    made = make_lmd(configuration(podman, podman_image, script, 3))
    made.start()
    yield made
    made.empty()


def pids(podman) -> dict[str, int]:
    """The first process of each running machine, by id, as Podman has them."""

    async def ask() -> dict[str, int]:
        runtime = Podman(podman.settings)
        try:
            return {seen.id: seen.pid for seen in await runtime.machines() if seen.pid and seen.state == "running"}
        finally:
            await runtime.aclose()

    return asyncio.run(ask())


def listener(path: Path) -> int:
    """The process that serves a socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        return struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_containers_outlive_daemons_and_end_in_good_order(lmd, podman) -> None:
    before = {machine["id"] for machine in lmd.running(3)}
    processes = pids(podman)
    for number in (signal.SIGKILL, signal.SIGTERM):
        lmd.end(number)
        assert pids(podman) == processes
        lmd.start()
        assert {machine["id"] for machine in lmd.running(3)} == before
    assert pids(podman) == processes
    assert _outside(lmd.process.pid, set(processes.values()))
    assert lmd("drain", "--wait", "--deadline", "2", seconds=100).returncode == 0
    ended = [machine for machine in lmd.machines(ended=True) if machine["id"] in before]
    assert [machine["outcome"]["message"] for machine in ended] == ["200 told to end"] * 3
    assert lmd("logs", ended[0]["id"]).stdout == "begun\n"
    assert not pids(podman)


def _outside(daemon: int, machines: set[int]) -> bool:
    """No machine is a child of the daemon, nor in its control group where the engine has made it one of its own."""
    parents = {int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in machines}
    groups = {tuple(sorted(Path(f"/proc/{pid}/cgroup").read_text().splitlines())) for pid in machines}
    own = tuple(sorted(Path(f"/proc/{daemon}/cgroup").read_text().splitlines()))
    return daemon not in parents and own not in groups


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_podman_that_hangs_or_is_started_anew_costs_no_machine(lmd, podman) -> None:
    before = set(lmd.machine_ids(3))
    service = listener(podman.options.get("socket") or next((lmd.home / "run").glob("podman*.sock")))
    victim = min(pids(podman).values())
    os.kill(service, signal.SIGSTOP)
    try:
        os.kill(victim, signal.SIGKILL)
        lmd.until(lambda: [w["key"] for w in lmd.daemon.get("/v1/warnings")] == ["runtime:podman"], seconds=90)
        assert {machine["id"] for machine in lmd.machines()} == before
        assert {machine["phase"] for machine in lmd.machines()} == {"unknown"}
        assert lmd("why").returncode == 0  # it answers while its engine does not
    finally:
        os.kill(service, signal.SIGCONT)
    lmd.until(lambda: len({machine["id"] for machine in lmd.machines()} & before) == 2, seconds=60)
    after = set(lmd.machine_ids(3))
    if "socket" not in podman.options:  # a service of our own is started again when it is needed
        os.kill(service, signal.SIGKILL)
        lmd.until(lambda: lmd.daemon.get("/v1/factory")["runtimes"]["podman"]["usable"], seconds=60)
        assert set(lmd.machine_ids(3)) == after
