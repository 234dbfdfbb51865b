"""Virtual machines with CernVM-FS repositories: the host's mounts by virtiofs, only those that the type names."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from lm_left import left, servers, until
from lm_repositories import NAME

READS = f"/cvmfs/{NAME}/bin/program; cat /cvmfs/{NAME}/hello; ls /cvmfs; touch /cvmfs/{NAME}/x 2>&1"
SAID = ["a program of the repository", "hello of revision 1", NAME]

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def site(host, vm, shared_tmp: Path) -> Iterator[object]:
    """`lm` whose run-time directory is where libvirt sees what is mounted in it, as on a host with systemd."""
    home = shared_tmp / host.home.name
    host.environment["LMD_RUN_DIR"] = str(home / "run")
    yield host
    try:
        assert until(lambda: not left(home)), left(home)
    finally:
        for pid in servers(home):
            os.kill(pid, signal.SIGKILL)


def test_a_program_out_of_a_repository_runs_in_a_virtual_machine(site, shared_tmp: Path) -> None:
    """As an ordinary user of it, and it has nothing but what its type names."""
    script = f"{READS}; echo ready; while ls /cvmfs/{NAME}/bin >/dev/null 2>&1; do sleep 0.1; done; echo gone"
    keys = {"isolation": "vm", "mb_per_processor": 96, "user_data": None, "user": "1000:1000"}
    type_ = site.machinetype("reads", "", entrypoint=["sh", "-c", script], cvmfs_repositories=[NAME], **keys)
    running = site.start("run", type_)
    try:
        running.until("ready", 300)
        for pid in servers(shared_tmp / site.home.name):  # reads fail, and the machine goes on
            os.kill(pid, signal.SIGKILL)
        running.until("gone", 100)
        assert running.wait(100) == 0
    finally:
        running.end()
    said = running.out.read_text().splitlines()
    assert said[:3] == SAID
    assert "Read-only file system" in said[3]


def test_a_virtual_machine_boots_from_a_root_file_system_in_a_repository(site) -> None:
    keys = {"isolation": "vm", "mb_per_processor": 96, "user_data": None, "root_image": f"/cvmfs/{NAME}/root"}
    done = site("run", site.machinetype("unpacked", "", entrypoint=["/bin/cat", "/etc/here"], **keys), seconds=300)
    assert done.stdout.splitlines() == ["a root file system"], done.stderr
