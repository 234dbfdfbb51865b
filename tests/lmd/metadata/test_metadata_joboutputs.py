"""Outputs that are PUT: whole or not at all, within the quota, and nowhere else."""

import os
import socket
import time
from pathlib import Path

import pytest

from lmd.network.addresses import GATEWAY


def test_what_is_put_is_there_and_can_be_read_back_by_its_own_machine_alone(machine):
    one, other = machine(), machine()
    assert one.put("result.txt", b"42\n") == 201
    assert one.output("result.txt") == b"42\n"
    assert (one.directory.joboutputs / "result.txt").stat().st_mode & 0o777 == 0o644
    assert one.get("/joboutputs/result.txt", at=GATEWAY) == b"42\n"
    assert b'href="result.txt"' in one.get("/joboutputs/", at=GATEWAY)
    assert other.ask("GET", "/joboutputs/result.txt", at=GATEWAY)[0] == 404
    assert b"result" not in other.get("/joboutputs", at=GATEWAY)


def test_a_second_put_replaces_the_first_and_a_link_is_replaced_not_followed(machine, tmp_path: Path):
    one = machine()
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (one.directory.joboutputs / "link").symlink_to(victim)
    os.lchown(one.directory.joboutputs / "link", one.factory.server.uid, -1)
    for content in (b"first", b"second"):
        assert one.put("link", content) == 201
        assert one.output("link") == content
    assert victim.read_bytes() == b"precious"
    assert not (one.directory.joboutputs / "link").is_symlink()
    (one.directory.joboutputs / "again").symlink_to(victim)
    assert one.ask("GET", "/joboutputs/again", at=GATEWAY)[0] in (403, 404)


def test_names_are_decoded_once_and_kept(machine):
    one = machine()
    assert one.put("a%20b%25c+%C3%A9", b"x") == 201
    assert one.output("a b%c+é") == b"x"
    assert one.put(".hidden", b"x") == 201


@pytest.mark.parametrize(
    "path",
    [
        "/joboutputs/../../etc/passwd",
        "/joboutputs/..%2f..%2fetc%2fpasswd",
        "/joboutputs/%2e%2e/x",
        "/joboutputs/%2e%2e",
        "/joboutputs/..",
        "/joboutputs/.",
        "/joboutputs/a%2fb",
        "/joboutputs/a%5cb",
        "/joboutputs/a/b",
        "/joboutputs/a/",
        "/joboutputs/",
        "/joboutputs",
        "/joboutputs/a%00b",
        "/joboutputs/a%0ab",
        "/joboutputs/%ff",
        "/joboutputs/" + "n" * 256,
        "/joboutputs/" + "n" * 10_000,
        "/../joboutputs/x",
        "/joboutputs/%2e%2e%2fmachinefeatures%2ftotal_cpu",
        "http://169.254.169.254/joboutputs/x",
        "joboutputs/x",
    ],
)
def test_a_name_that_leads_elsewhere_is_refused_and_nothing_is_written(machine, path: str):
    one = machine()
    before = sorted(str(each) for each in one.factory.state.rglob("*"))
    assert one.ask("PUT", path, at=GATEWAY, body=b"x")[0] in (400, 404, 405)
    assert sorted(str(each) for each in one.factory.state.rglob("*")) == before


def test_a_body_larger_than_the_quota_is_refused_before_it_comes(machine):
    one = machine()
    headers = {"Content-Length": str(100 * 10**9)}
    assert one.ask("PUT", "/joboutputs/large", at=GATEWAY, headers=headers)[0] == 507
    headers["Expect"] = "100-continue"
    assert one.ask("PUT", "/joboutputs/large", at=GATEWAY, headers=headers)[0] == 507
    assert list(one.directory.joboutputs.iterdir()) == one.left_aside() == []


def test_a_body_of_unknown_length_is_cut_off_at_the_quota(machine):
    one = machine()
    connection = one.socket(GATEWAY)
    connection.sendall(b"PUT /joboutputs/x HTTP/1.1\r\nHost: 169.254.169.253\r\nTransfer-Encoding: chunked\r\n\r\n")
    piece, last = b"10000\r\n" + bytes(0x10000) + b"\r\n", time.monotonic() + 20
    with pytest.raises(ConnectionError):
        while time.monotonic() < last:
            connection.sendall(piece)
    _wait(lambda: one.left_aside() == [])
    assert list(one.directory.joboutputs.iterdir()) == []


def test_the_quota_counts_all_files_and_lets_replacements_through(machine):
    one = machine()
    assert [one.put(f"n{number}", b"x") for number in range(22)] == [201] * 20 + [507] * 2
    assert one.put("n3", b"y") == 201
    assert one.output("n3") == b"y"
    assert len(list(one.directory.joboutputs.iterdir())) == 20


def test_the_quota_counts_all_bytes_and_a_refused_file_leaves_nothing(machine):
    one = machine()
    answers = [one.put(f"n{number}", bytes(200_000)) for number in range(6)]
    assert answers == [201] * 4 + [507] * 2
    assert sorted(path.name for path in one.directory.joboutputs.iterdir()) == ["n0", "n1", "n2", "n3"]
    assert one.left_aside() == []


def test_a_file_whose_sender_goes_away_is_never_seen(machine):
    one = machine()
    assert one.put("kept", b"old") == 201
    for name in ("kept", "new"):
        connection = one.socket(GATEWAY)
        connection.sendall(f"PUT /joboutputs/{name} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf".encode())
        connection.close()
        connection = one.socket(GATEWAY)
        head = f"PUT /joboutputs/{name} HTTP/1.1\r\nHost: {GATEWAY}\r\nContent-Length: 9\r\n\r\nhalf"
        connection.sendall(head.encode())
        _wait(lambda: one.left_aside() != [])
        connection.close()
        _wait(lambda: one.left_aside() == [])
    assert one.output("kept") == b"old"
    assert not (one.directory.joboutputs / "new").exists()


def test_a_write_that_fails_is_not_answered_as_stored(machine):
    one = machine()
    (one.directory.joboutputs / "taken").mkdir()
    (one.directory.joboutputs / "owned").write_bytes(b"the machine's")
    os.chown(one.directory.joboutputs / "owned", 1234, 1234)
    assert one.put("taken", b"x") == 409
    assert one.put("owned", b"x") == 409, "what the machine's own users wrote stays theirs"
    assert one.output("owned") == b"the machine's"
    one.directory.joboutputs.chmod(0o700)
    assert one.put("shut", b"x") == 403
    one.directory.joboutputs.chmod(0o1777)
    assert one.left_aside() == []


def test_a_full_disk_is_not_answered_as_stored(machine):
    import subprocess

    one = machine(outputs_bytes=10**9)
    outputs = one.directory.joboutputs
    incoming = one.directory.path / "incoming"
    # One small file system for both places: joboutputs and what is not complete yet.
    small = one.directory.path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k,mode=755", "lmd-test", small], check=True)
    try:
        for path in (outputs, incoming):
            made = small / path.name
            made.mkdir()
            os.chown(made, 0, one.factory.server.gid)
            made.chmod(0o1777 if path == outputs else 0o770)
            path.rmdir()
            path.symlink_to(made)
        # The server follows no link: bind instead.
        for path in (outputs, incoming):
            path.unlink()
            path.mkdir()
            subprocess.run(["mount", "--bind", small / path.name, path], check=True)
        assert one.put("fits", bytes(50_000)) in (201, 500)
        assert one.put("too-large", bytes(500_000)) == 507
        assert not (outputs / "too-large").exists()
        assert one.left_aside() == []
    finally:
        for path in (outputs, incoming, small):
            subprocess.run(["umount", "-l", path], check=False, capture_output=True)


def test_curl_style_uploads_wait_for_the_word_to_go_on(machine):
    one = machine()
    connection = one.socket(GATEWAY)
    head = f"PUT /joboutputs/x HTTP/1.1\r\nHost: {GATEWAY}\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
    connection.sendall(head.encode())
    assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
    connection.sendall(b"body")
    assert connection.recv(1000).startswith(b"HTTP/1.1 201 ")
    connection.close()
    assert one.output("x") == b"body"


def test_http_1_0_as_busybox_and_nc_speak_it(machine):
    one = machine()
    connection = one.socket(GATEWAY)
    connection.sendall(b"PUT /joboutputs/x HTTP/1.0\r\nContent-Length: 4\r\n\r\nbody")
    answer = b""
    while piece := connection.recv(1000):
        answer += piece
    assert answer.split()[1] == b"201"
    assert one.output("x") == b"body"


def test_a_client_that_shuts_its_side_when_it_has_said_all_is_answered(machine):
    """As nc does at the end of its input."""
    one = machine()
    for name, length, status in (("whole", 4, b"201"), ("cut", 9, b"")):
        connection = one.socket(GATEWAY)
        connection.sendall(f"PUT /joboutputs/{name} HTTP/1.0\r\nContent-Length: {length}\r\n\r\nbody".encode())
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(1000):
            answer += piece
        assert answer[9:12] == status
    assert [path.name for path in one.directory.joboutputs.iterdir()] == ["whole"]
    _wait(lambda: one.left_aside() == [])


def test_a_body_without_a_length_or_in_parts_or_packed_is_not_guessed_at(machine):
    one = machine()
    assert one.ask("PUT", "/joboutputs/x", at=GATEWAY)[0] == 411
    assert one.ask("PUT", "/joboutputs/x", at=GATEWAY, body=b"x", headers={"Content-Range": "bytes 0-0/9"})[0] == 400
    import gzip

    packed = gzip.compress(bytes(10_000_000))
    assert one.ask("PUT", "/joboutputs/z", at=GATEWAY, body=packed, headers={"Content-Encoding": "gzip"})[0] == 201
    assert one.output("z") == packed, "stored as it was sent, never unpacked"


def _wait(condition) -> None:
    last = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < last
        time.sleep(0.02)


def test_of_very_many_files_no_more_than_the_quota_are_kept_and_the_rest_costs_nothing(machine):
    """The first of a hundred thousand; the rest is in the soak below."""
    _many(machine, files=500, asked=1_000)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_files_are_held_to_the_quota(machine):
    _many(machine, files=20_000, asked=100_000)


def _many(machine, *, files: int, asked: int) -> None:
    one, other = machine(outputs_files=files, outputs_bytes=10**9), machine()
    connection = one.socket(GATEWAY)
    connection.settimeout(60)
    server = one.factory.process.pid
    before, counts = _memory(server), {b"201": 0, b"507": 0}
    for number in range(asked):
        head = f"PUT /joboutputs/n{number} HTTP/1.1\r\nHost: {GATEWAY}\r\nContent-Length: 1\r\n\r\nx"
        connection.sendall(head.encode())
        answer = connection.recv(4096)
        counts[answer.split()[1]] += 1
        if answer.split()[1] == b"507":  # a refusal closes
            connection.close()
            connection = one.socket(GATEWAY)
            connection.settimeout(60)
    assert counts == {b"201": files, b"507": asked - files}
    assert sum(1 for _ in one.directory.joboutputs.iterdir()) == files
    assert one.left_aside() == []
    assert one.put("n1", b"again") == 201, "a replacement has room"
    assert other.put("x", b"x") == 201
    assert _memory(server) - before < 20_000


def _memory(pid: int) -> int:
    """Resident memory in kB."""
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0])
