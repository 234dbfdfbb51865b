"""The process: one for a host, without rights, needing nothing of its files once it serves, and no loss when killed."""

import logging
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmd.metadata import card, launch
from lmd.metadata.account import USER, Account, account
from lmd.metadata.process import ALREADY, Calm
from lmd.network.addresses import GATEWAY

KILLS = 50


@pytest.fixture
def factory(factory, short_tmp: Path) -> Iterator[object]:
    """A factory of the test's own, whose server may be killed."""
    made = type(factory)(short_tmp / f"process-{secrets.token_hex(3)}")
    try:
        yield made
    finally:
        made.close()


def test_it_has_given_up_all_rights_when_it_serves(factory, machine):
    factory.start()
    status = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{factory.process.pid}/status").read_text().splitlines()
        if "\t" in line
    )
    assert status["Uid"].split() == [str(factory.server.uid)] * 4
    assert status["Gid"].split() == [str(factory.server.gid)] * 4
    assert status["Groups"].split() == []
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert factory.server.uid not in (0, 65534)
    one = machine()
    assert one.put("x", b"x") == 201
    assert one.get("/latest/user-data").startswith(b"#!")


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="systemd is not installed")
def test_the_account_of_the_package_is_what_it_becomes(tmp_path: Path):
    (tmp_path / "etc").mkdir()
    packaged = Path(__file__).parents[3] / "packaging/sysusers.d/lmd.conf"
    subprocess.run(["systemd-sysusers", f"--root={tmp_path}", packaged], check=True, capture_output=True)
    lines = [line.split(":") for line in (tmp_path / "etc/passwd").read_text().splitlines()]
    ids = {words[0]: (int(words[2]), int(words[3])) for words in lines}
    shells = {words[0]: words[6] for words in lines}
    assert shells[USER] == "/usr/sbin/nologin"
    assert 0 < ids[USER][0] < 1000, "a system account"
    assert account(0, ids.get) == Account(*ids[USER])
    assert "lmd:" in (tmp_path / "etc/group").read_text()


def test_no_other_account_of_the_host_can_read_what_it_may_read(factory, machine):
    factory.start()
    one = machine()
    files = [
        one.directory.path / card.ASIDE / card.USER_DATA,
        one.directory.path / card.ASIDE / card.CARD,
        factory.run / card.CALLERS / str(one.place.address),
        factory.run / "metadata" / "token-key",
    ]
    become = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"]
    for path in files:
        assert path.exists()
        assert subprocess.run([*become, "cat", path], capture_output=True, check=False).returncode != 0, path
    server = ["setpriv", f"--reuid={factory.server.uid}", f"--regid={factory.server.gid}", "--clear-groups"]
    for path in (one.directory.path / "machine.json", one.directory.secrets, factory.state / "machines"):
        found = subprocess.run([*server, "ls", "-R", path], capture_output=True, check=False)
        assert found.returncode != 0 or found.stdout.count(b"\n") <= 1, path


def test_it_goes_on_when_its_files_are_gone(factory, machine):
    """An upgrade replaces the code and the libraries beneath it."""
    factory.start("unshare", "--mount", "--propagation=private")
    one = machine()
    enter = ["nsenter", f"--mount=/proc/{factory.process.pid}/ns/mnt"]
    for gone in {str(Path(__file__).parents[3] / "lmd"), sys.prefix, str(Path(os.__file__).parent)}:
        subprocess.run([*enter, "mount", "-t", "tmpfs", "none", gone], check=True)
    assert one.get("/latest/user-data").startswith(b"#!")
    assert one.get("/openstack/latest/meta_data.json")
    assert one.get("/jobfeatures/", at=GATEWAY)
    assert one.put("%C3%A9t%C3%A9", bytes(100_000)) == 201
    assert one.ask("GET", "/none")[0] == 404
    assert one.put("..", b"") in (400, 404)
    assert one.ask("PUT", "/joboutputs/large", at=GATEWAY, headers={"Content-Length": "9" * 15})[0] == 507
    assert one.ask("PUT", "/latest/api/token", headers={"X-aws-ec2-metadata-token-ttl-seconds": "9"})[0] == 200
    connection = one.socket()
    connection.sendall(b"nonsense\r\n\r\n")
    assert b" 400 " in connection.recv(1000)
    assert "Error" not in factory.log(), factory.log()


def test_a_second_server_finds_the_first_and_leaves(factory):
    factory.start()
    second = subprocess.run(factory.namespace.command(*factory.words()), capture_output=True, text=True, check=False)
    assert second.returncode == ALREADY
    assert "another server of this host" in second.stderr


def test_a_port_that_is_taken_is_said_in_one_line(factory):
    factory.start()
    (factory.run / "metadata.lock").unlink()
    second = subprocess.run(factory.namespace.command(*factory.words()), capture_output=True, text=True, check=False)
    assert second.returncode == 1
    assert second.stderr.strip() == f"lmd-metadata: cannot listen on {GATEWAY} port 80: Address already in use"


def test_what_was_answered_as_stored_is_there_after_a_kill_and_the_rest_is_cleared(factory, machine):
    factory.start()
    one = machine(outputs_files=10_000, outputs_bytes=10**9)
    token = one.ask("PUT", "/latest/api/token", headers={"X-aws-ec2-metadata-token-ttl-seconds": "900"})[1].decode()
    _killed(factory, one, "n", 30)
    assert one.ask("GET", "/latest/", headers={"X-aws-ec2-metadata-token": token})[0] == 200, "tokens outlive it"


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_of_many_kills_under_load_none_loses_what_was_answered_as_stored(factory, machine):
    factory.start()
    one = machine(outputs_files=100_000, outputs_bytes=10**10)
    stored: dict[str, bytes] = {}
    for number in range(KILLS):
        stored |= _killed(factory, one, f"{number}-", random.randrange(1, 60))
        lost = [name for name, content in stored.items() if one.output(name) != content]
        assert not lost, f"after kill {number + 1}"


def _killed(factory, one, prefix: str, after: int) -> dict[str, bytes]:
    """Upload, kill the server when `after` files are stored, start it again; what was answered 201."""
    stored: dict[str, bytes] = {}

    def send(worker: int) -> None:
        for number in range(1000):
            name, content = f"{prefix}{worker}-{number}", os.urandom(20_000)
            try:
                if one.put(name, content) == 201:
                    stored[name] = content
            except Exception:  # whatever a killed server makes of it
                return

    assert one.put(f"{prefix}kept", b"as it was") == 201
    workers = [threading.Thread(target=send, args=(number,)) for number in range(3)]
    for worker in workers:
        worker.start()
    # Of a new file, and of one that would have replaced another.
    for name in ("half", "kept"):
        begun = one.socket(GATEWAY)
        begun.sendall(
            f"PUT /joboutputs/{prefix}{name} HTTP/1.1\r\nHost: {GATEWAY}\r\nContent-Length: 9\r\n\r\nx".encode()
        )
    last = time.monotonic() + 20
    while len(stored) < after or not one.left_aside():
        assert time.monotonic() < last
        time.sleep(0.02)
    factory.process.kill()
    factory.process.wait()
    for worker in workers:
        worker.join()
    assert one.left_aside() != []
    factory.start()
    assert one.left_aside() == []
    assert not (one.directory.joboutputs / f"{prefix}half").exists()
    for name, content in stored.items():
        assert one.output(name) == content
    name, content = next(iter(stored.items()))
    assert one.get(f"/joboutputs/{name}", at=GATEWAY) == content
    return stored | {f"{prefix}kept": b"as it was"}


def test_it_ends_when_it_is_told_to(factory, machine):
    factory.start()
    one = machine()
    one.socket()
    factory.process.send_signal(signal.SIGTERM)
    assert factory.process.wait(10) == 0
    assert not launch.serving(factory.run)


def test_it_ends_by_itself_when_there_have_been_no_machines_for_a_while(factory, machine):
    one = machine()
    words = factory.words("--idle", "0.3")
    process = subprocess.Popen(factory.namespace.command(*words), stderr=subprocess.DEVNULL)
    try:
        time.sleep(1.5)
        assert process.poll() is None, "it left a machine alone"
        one.directory.remove()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


def test_whoever_needs_it_starts_it_once_and_it_outlives_them(factory, machine):
    sides, one = ([str(GATEWAY)], ["169.254.169.254"]), machine()

    def ensure() -> None:
        launch.ensure(factory.run, *sides, idle=0.5)

    threads = [threading.Thread(target=factory.namespace.run, args=(ensure,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert launch.serving(factory.run)
    assert one.get("/latest/user-data").startswith(b"#!")
    one.close()
    last = time.monotonic() + 30
    while launch.serving(factory.run):
        assert time.monotonic() < last
        time.sleep(0.1)


def test_a_server_that_cannot_start_says_why(factory, tmp_path: Path):
    with pytest.raises(launch.CannotLaunch, match="'not-an-address' does not appear to be"):
        launch.ensure(tmp_path, ["not-an-address"], ["169.254.169.254"])


def test_its_log_cannot_be_filled_by_machines():
    now = 0.0
    calm = Calm(3, lambda: now)
    record = logging.makeLogRecord({})
    assert [calm.filter(record) for _ in range(5)] == [True] * 3 + [False] * 2
    now = 11.0
    assert calm.filter(record)
