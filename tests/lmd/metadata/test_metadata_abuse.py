"""What one machine does to the server is not noticed by another, and nobody passes for somebody else."""

import http.client
import os
import socket
import threading
import time
from pathlib import Path

import pytest

from lmd.metadata.limits import Bucket, Limits
from lmd.network import bridge
from lmd.network.addresses import GATEWAY, METADATA
from runtimes.containers.nic import index


def rss(pid: int) -> int:
    """Resident memory in kB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0])


def test_a_thousand_open_connections_of_one_machine_leave_the_server_to_the_others(machine):
    bad, good = machine(), machine()
    held = []
    before = rss(_server(bad))
    try:
        for number in range(1000):
            connection = bad.socket(GATEWAY if number % 2 else METADATA)
            connection.sendall(b"GET /latest/user-data HTTP/1.1\r\nX-Slow: ")
            held.append(connection)
        assert good.get("/latest/meta-data/instance-id").decode() == good.given.job_id
        assert good.put("x", b"x") == 201
    finally:
        for connection in held:
            connection.close()
    assert rss(_server(bad)) - before < 30_000
    _answers_again(bad)


def test_requests_that_never_end_are_given_up(machine):
    one = machine()
    idle, slow = one.socket(), one.socket()
    slow.sendall(b"GET /latest/ HTTP/1.1\r\nHost: 169.254.169.254\r\n")
    slow.settimeout(0.3)
    began, gone = time.monotonic(), False
    while not gone and time.monotonic() - began < 20:
        try:
            slow.sendall(b"X: y\r\n")
            gone = slow.recv(1000) == b""
        except TimeoutError:
            continue
        except OSError:
            gone = True
    assert gone, "a header that drips kept its connection"
    idle.settimeout(20)
    assert idle.recv(100) == b""


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"PUT /joboutputs/x HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"PUT /joboutputs/x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"X%d: y\r\n" % number for number in range(5000)) + b"\r\n",
        b"\0" * 5000,
        b"\r\n" * 5000 + b"x",
        b"GET http://example.org/latest/user-data HTTP/1.1\r\nHost: example.org\r\n\r\n",
        b"GET /latest/user-data HTTP/1.1\r\nHost: rebound.example.org\r\n\r\n",
        b"GET /latest/user-data HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"CONNECT 10.0.0.1:22 HTTP/1.1\r\nHost: 10.0.0.1:22\r\n\r\n",
        b"GET /latest/user-data HTTP/1.1\r\nHost: 169.254.169.254\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ],
)
def test_what_is_no_request_for_this_server_gets_no_secret_and_does_no_harm(machine, request_: bytes):
    one, other = machine(), machine()
    connection = one.socket()
    connection.settimeout(20)
    said = b""
    try:
        connection.sendall(request_)
        connection.shutdown(socket.SHUT_WR)
        while piece := connection.recv(65536):
            said += piece
    except (ConnectionResetError, BrokenPipeError):
        pass
    if b"websocket" not in request_:
        assert said == b"" or said.split()[1] in (b"400", b"404", b"405", b"411"), said[:200]
        assert b"secret of" not in said
    assert other.get("/latest/meta-data/instance-id").decode() == other.given.job_id


@pytest.mark.parametrize(
    "path",
    [
        "//example.org/latest/",
        "//example.org/%2e%2e",
        "/\\\\example.org/",
        "/%5c%5cexample.org",
        "/latest/%0d%0aLocation:%20http://example.org/",
        "/latest%2f..%2f..%2f",
        "/latest/meta-data?next=http://example.org/",
        "/openstack/latest/../../?url=http://example.org/",
        "/joboutputs?to=//example.org",
        "/machinefeatures",
    ],
)
def test_nobody_is_sent_elsewhere_and_nothing_is_put_into_an_answers_head(machine, path: str) -> None:
    one = machine()
    for at in (METADATA, GATEWAY):
        connection = one.socket(at)
        connection.settimeout(20)
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n".encode())
        said = b""
        while piece := connection.recv(65536):
            said += piece
        head = said.partition(b"\r\n\r\n")[0]
        assert head.split()[1] in (b"200", b"400", b"404"), head
        assert b"location" not in head.lower()
        assert b"example.org" not in head


@pytest.mark.parametrize(
    "header",
    ["X-Forwarded-For", "X-Real-IP", "Forwarded", "X-Instance-ID", "X-Instance-ID-Signature", "X-Client-IP", "Via"],
)
def test_no_header_makes_a_machine_another(machine, header: str) -> None:
    """Behind OpenStack's own proxy some of them do."""
    one, other = machine(), machine()
    address = str(other.place.address)
    for value in (address, f"for={address}", other.given.job_id):
        said = one.ask("GET", "/latest/meta-data/instance-id", headers={header: value})
        assert (said[0], said[1].decode()) == (200, one.given.job_id)
    for word in ("X-HTTP-Method-Override", "X-Original-URL", "X-Rewrite-URL"):
        assert one.ask("GET", "/joboutputs/x", at=GATEWAY, headers={word: "PUT"}, body=b"x")[0] == 404
    assert list(one.directory.joboutputs.iterdir()) == list(other.directory.joboutputs.iterdir()) == []


def test_pipelined_requests_are_answered_in_order_and_without_an_end_cost_no_memory(machine):
    one = machine()
    ask = b"GET /latest/meta-data/instance-id HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n"
    connection = one.socket()
    connection.sendall(ask * 50)
    answers = b""
    while answers.count(b"HTTP/1.1 200") < 50:
        answers += connection.recv(65536)
    assert answers.count(one.given.job_id.encode()) == 50
    before, sent = rss(_server(one)), 0
    connection.settimeout(1)
    try:
        while sent < 60_000_000:
            sent += connection.send(ask * 1000)
    except TimeoutError:
        pass
    assert sent < 60_000_000, "requests were taken in without bound"
    assert rss(_server(one)) - before < 30_000
    connection.close()


def test_readers_that_do_not_read_cost_little_memory(machine):
    content = os.urandom(8_000_000)
    bad, good = machine(user_data=content), machine()
    before = rss(_server(bad))
    held = []
    for _ in range(40):
        connection = bad.socket()
        connection.sendall(b"GET /latest/user-data HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n")
        held.append(connection)
    assert good.get("/latest/meta-data/instance-id").decode() == good.given.job_id
    assert rss(_server(bad)) - before < 60_000
    for connection in held:
        connection.close()


def test_a_machine_that_asks_without_pause_is_slowed_and_the_others_are_not(machine):
    bad, good = machine(), machine()
    stop, counts = threading.Event(), [0] * 8

    def hammer(number: int) -> None:
        connection = http.client.HTTPConnection(str(METADATA), 80, timeout=20)
        connection.sock = bad.socket()
        while not stop.is_set():
            connection.request("GET", "/latest/meta-data/")
            connection.getresponse().read()
            counts[number] += 1
        connection.close()

    threads = [threading.Thread(target=hammer, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    try:
        began = time.monotonic()
        while sum(counts) < Limits().burst and time.monotonic() - began < 20:
            time.sleep(0.05)
        start, first = time.monotonic(), sum(counts)
        slowest = 0.0
        while time.monotonic() - start < 1.5:
            asked = time.monotonic()
            good.get("/latest/meta-data/instance-id")
            slowest = max(slowest, time.monotonic() - asked)
        rate = (sum(counts) - first) / (time.monotonic() - start)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert rate < 2 * Limits().per_second
    assert slowest < 5


def test_the_bucket_lets_a_burst_through_and_then_one_in_its_time():
    bucket = Bucket(per_second=10, burst=3)
    assert [bucket.wait(100.0) for _ in range(3)] == [0, 0, 0]
    assert bucket.wait(100.0) == pytest.approx(0.1)
    assert bucket.wait(100.0) == pytest.approx(0.2)
    assert bucket.wait(101.0) == 0


def test_uploads_at_the_same_time_are_limited_for_each_machine(machine):
    bad, good = machine(outputs_bytes=10**9), machine()
    head = f"Host: {GATEWAY}\r\nContent-Length: 1000\r\n\r\nx"
    held = []
    for number in range(Limits().uploads):
        connection = bad.socket(GATEWAY)
        connection.sendall(f"PUT /joboutputs/n{number} HTTP/1.1\r\n{head}".encode())
        held.append(connection)
    last = time.monotonic() + 10
    while len(bad.left_aside()) < Limits().uploads:
        assert time.monotonic() < last
        time.sleep(0.02)
    assert bad.put("more", b"x") == 503
    assert good.put("x", b"x") == 201
    for connection in held:
        connection.close()


def test_an_address_that_is_no_machines_is_not_answered(machine):
    one = machine()
    stranger = str(one.place.address + 0x100)
    one.namespace.run(_add_address, stranger)
    with pytest.raises(OSError):
        _silent(one.socket(source=stranger))


def test_a_machine_that_takes_anothers_address_is_not_answered(machine):
    thief, victim = machine(), machine()
    assert victim.get("/latest/user-data").startswith(b"#!/bin/sh")
    victim.namespace.close()  # no longer there to object; its card still is
    thief.namespace.run(_add_address, str(victim.place.address))
    with pytest.raises(OSError):
        _silent(thief.socket(source=str(victim.place.address)))
    # With the victim's MAC too, it is still behind another port.
    thief.namespace.run(_set_mac, victim.place.mac)
    with pytest.raises(OSError):
        _silent(thief.socket(source=str(victim.place.address)))
    assert thief.factory.log().count("which is not where machine") >= 2


def test_a_machine_that_is_gone_is_not_answered_however_its_address_is_used(machine):
    one = machine()
    one.directory.remove()
    with pytest.raises(OSError):
        _silent(one.socket())


def test_the_server_can_be_asked_from_nowhere_else(factory, machine):
    machine()

    def ask() -> None:
        _silent(socket.create_connection((str(METADATA), 80), 10))

    with pytest.raises(OSError):
        factory.namespace.run(ask)


def _silent(connection: socket.socket) -> None:
    """Raises OSError if the connection is closed without a word; else fails."""
    with connection:
        connection.sendall(b"GET /latest/user-data HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n")
        said = connection.recv(1000)
        assert said == b"", said
        raise ConnectionResetError


def _add_address(address: str) -> None:
    with bridge.netlink() as net:
        net.addr("add", index=index(net, "eth0"), address=address, prefixlen=16)


def _set_mac(mac: str) -> None:
    with bridge.netlink() as net:
        net.link("set", index=index(net, "eth0"), address=mac)


def _server(machine) -> int:
    return machine.factory.process.pid


def _answers_again(machine) -> None:
    last = time.monotonic() + 20
    while True:
        try:
            assert machine.get("/latest/meta-data/instance-id").decode() == machine.given.job_id
            return
        except OSError:
            assert time.monotonic() < last
            time.sleep(0.1)
