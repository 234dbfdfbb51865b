"""`lm run` with types that name CernVM-FS repositories, on a host that has no CernVM-FS installed."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for what the tests of this folder share

from lm_left import left, payloads, servers, until
from lm_repositories import NAME, stand_in

from cvmfs.hosting import shared

WHERE = ["factory", "machine"]
READS = "/cvmfs/test.example.org/bin/program; cat /cvmfs/test.example.org/hello; ls /cvmfs"
SAID = ["a program of the repository", "hello of revision 1", NAME]


def type_of(host, script: str, where: str, **keys: object) -> str:
    keys = {"cvmfs_repositories": [NAME], "cvmfs": {"where": where}} | keys
    return host.machinetype(f"reads-{where}", script, **keys)


@pytest.mark.parametrize("where", WHERE)
def test_a_program_out_of_a_repository_runs_and_can_change_nothing(host, where: str) -> None:
    script = f"{READS}; touch /cvmfs/{NAME}/x 2>&1; mkdir /cvmfs/{NAME}/bin/y 2>&1"
    done = host("run", type_of(host, f"{script}; find / -xdev -name lmd-cvmfs-cache", where, read_only=True))
    assert done.stdout.splitlines()[:3] == SAID, done.stderr
    assert done.stdout.count("Read-only file system") == 2
    assert len(done.stdout.splitlines()) == 5, "the cache is seen"


@pytest.mark.parametrize("where", WHERE)
def test_what_is_wrong_with_a_repository_is_said_and_nothing_is_left(host, where: str) -> None:
    done = host("run", type_of(host, READS, where, cvmfs_repositories=[NAME, "none.example.org"]))
    assert done.returncode != 0
    assert "CernVM-FS repository none.example.org: " in done.stderr
    assert "manifest of none.example.org: made for 'test.example.org'" in done.stderr
    assert "Traceback" not in done.stderr
    assert host.machines() == []


def test_a_repository_that_the_site_does_not_allow_is_refused(host) -> None:
    text = (host.home / "config/lmd.toml").read_text()
    changed = text.replace("[policy]", '[policy]\ncvmfs_repositories = ["other.example.org"]')
    (host.home / "config/lmd.toml").write_text(changed)
    done = host("run", type_of(host, READS, "factory"))
    assert f"cvmfs_repositories: {NAME} is not allowed here" in done.stderr.replace("\n", " ")


@pytest.mark.parametrize("where", WHERE)
def test_the_client_killed_under_a_running_payload_fails_reads_and_not_the_machine(host, where: str) -> None:
    script = "cat /cvmfs/test.example.org/hello; echo ready; "
    script += "while ls /cvmfs/test.example.org/bin >/dev/null 2>&1; do sleep 0.1; done; echo gone"
    running = host.start("run", type_of(host, script, where))
    running.until("ready")
    for pid in servers(host.home):
        os.kill(pid, signal.SIGKILL)
    running.until("gone")
    assert running.wait() == 0


def test_a_mount_that_was_broken_is_mended_under_a_running_machine(host) -> None:
    script = f"cat /cvmfs/{NAME}/hello; echo ready; while cat /cvmfs/{NAME}/hello >/dev/null 2>&1; do sleep 0.1; done; "
    script += f"echo broken; until cat /cvmfs/{NAME}/bin/program >/dev/null 2>&1; do sleep 0.1; done; echo mended"
    running = host.start("run", type_of(host, script, "factory"))
    running.until("ready")
    for pid in servers(host.home):
        os.kill(pid, signal.SIGKILL)
    running.until("broken")
    assert host("cvmfs", "remount", NAME).returncode == 0
    running.until("mended")
    assert running.wait() == 0


@pytest.mark.parametrize("where", WHERE)
def test_a_client_that_was_stopped_does_not_keep_the_machine(host, where: str) -> None:
    script = "cat /cvmfs/test.example.org/hello; echo ready; sleep 1; cat /cvmfs/test.example.org/bin/program; sleep 60"
    running = host.start("run", "--grace", "1", type_of(host, script, where))
    running.until("ready")
    stopped = servers(host.home)
    assert stopped
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    running.signal(signal.SIGINT)
    running.wait()
    if where == "machine":
        assert until(lambda: not servers(host.home))
    for pid in servers(host.home):  # the host's mount may be others' too, and is mended by lm cvmfs remount
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("where", WHERE)
def test_a_killed_machine_leaves_no_mount_and_no_process(host, where: str) -> None:
    running = host.start("run", type_of(host, "cat /cvmfs/test.example.org/hello; echo ready; sleep 60", where))
    running.until("ready")
    (machine,) = host.machines()
    running.signal(signal.SIGKILL)
    running.wait()
    shown = json.loads(host("show", "--json", machine["id"]).stdout)
    pid = shown.get("pid") or next(iter(payloads(machine["id"])))
    os.kill(pid, signal.SIGKILL)
    assert until(lambda: not left(host.home)), left(host.home)


def test_a_root_file_system_in_a_repository_is_run(host, short_tmp: Path, busybox_root: Path) -> None:
    file = host.machinetype(
        "unpacked",
        "cat /etc/passwd | head -1",
        root_image=f"/cvmfs/{NAME}/root",
        user_data=None,
        entrypoint=["/bin/cat", "/etc/here"],
    )
    done = host("run", file)
    assert done.stdout.splitlines() == ["a root file system"], done.stderr
    done = host("run", host.machinetype("absent", "true", root_image=f"/cvmfs/{NAME}/none"))
    assert "/none" in done.stderr
    done = host("run", host.machinetype("absent", "true", root_image="/cvmfs/none.example.org/x"))
    assert "root_image: CernVM-FS repository none.example.org" in done.stderr


def test_both_wheres_work_with_a_stand_in_for_the_distributions_client(host, repository: tuple[str, Path]) -> None:
    path = stand_in(host.home / "bin", *repository, host.home / "stand-in-cache")
    host.environment["PATH"] = f"{path}:{host.environment['PATH']}"
    text = (host.home / "config/lmd.toml").read_text()
    (host.home / "config/lmd.toml").write_text(text.replace('"embedded"', '"system"'))
    done = host("run", type_of(host, READS, "machine"))
    assert done.stdout.splitlines() == SAID, done.stderr
    assert "cvmfs2 -f -o config=" in (path / "said").read_text()
    text = (path / "cvmfs2").read_text()
    (path / "cvmfs2").write_text(
        text.replace('echo "CernVM-FS: mounted', 'echo Failed to discover HTTP proxy servers; exit 8; echo "')
    )
    done = host("run", type_of(host, READS, "machine"))
    assert "client does not come up: CernVM-FS: loading Fuse module... done Failed to discover HTTP" in done.stderr


def test_repositories_are_probed_listed_and_mounted_anew(host) -> None:
    file = host.home / "config/lmd.toml"
    types = f'[machinetypes.reads]\nroot_image = "lmd:busybox"\ncvmfs_repositories = ["{NAME}", "no.example.org"]\n'
    patient = file.read_text().replace("idle_seconds = 1", "idle_seconds = 60") + types
    file.write_text(patient)
    done = host("cvmfs", "probe")
    assert done.returncode == 1
    assert f"lm: {NAME}: answers" in done.stderr
    assert "lm: no.example.org: manifest of no.example.org" in done.stderr
    assert "lm: ../etc: repository '../etc': not a fully qualified name" in host("cvmfs", "probe", "../etc").stderr
    for pid in servers(host.home):
        os.kill(pid, signal.SIGSTOP)
    file.write_text(patient.replace("[cvmfs]", "[cvmfs]\nprobe_seconds = 1"))
    listed = {one["name"]: one for one in json.loads(host("cvmfs", "status", "--json").stdout)}
    assert listed[NAME]["problem"] == "no answer within 1 s"
    assert listed[NAME]["types"] == ["reads"]
    assert f"repository {NAME} does not answer" in host("doctor", "--quick").stdout
    file.write_text(patient)
    done = host("cvmfs", "remount", NAME)
    assert (done.returncode, done.stderr) == (0, f"lm: {NAME}: mounted anew\n")
    assert host("cvmfs", "status").returncode == 0
    assert int(json.loads(host("cvmfs", "cache", "--json").stdout)["bytes"]) > 0
    for pid in servers(host.home):
        os.kill(pid, signal.SIGTERM)


@pytest.fixture
def ordinary(user_with_repository) -> Iterator[Callable[..., object]]:
    """`lm` as an ordinary user, on rootless Podman."""

    def lm(*words: str) -> object:
        user = user_with_repository
        return user.run(str(user.python), "-c", "from lmd.cli.main import main; main()", *words)

    yield lm
    assert until(lambda: not servers(user_with_repository.home))


@pytest.mark.parametrize("where", WHERE)
def test_an_ordinary_user_s_machines_read_repositories(ordinary, ordinary_user, where: str) -> None:
    keys = {
        "root_image": "lmd:busybox",
        "entrypoint": ["/bin/sh", "-c", f"{READS}; touch /cvmfs/{NAME}/x 2>&1"],
        "mb_per_processor": 128,
        "network": "none",
        "cvmfs_repositories": [NAME],
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()] + [f'cvmfs.where = "{where}"']
    (ordinary_user.home / "reads.toml").write_text("\n".join(["[machinetypes.reads]", *lines, ""]))
    done = ordinary("run", "./reads.toml")
    if where == "factory" and not shared(Path("/")):
        assert "rootless engines have mount namespaces of their own that do not see it" in done.stderr
        assert 'set cvmfs.where = "machine"' in done.stderr
        return
    assert done.stdout.splitlines()[:3] == SAID, done.stderr
    assert "Read-only file system" in done.stdout
