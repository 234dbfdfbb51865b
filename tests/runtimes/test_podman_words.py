"""Podman's words in the contract's: states, ends, console lines, errors, the service's arguments."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from runtimes import cgroups
from runtimes.containers import stamp, translate
from runtimes.containers.console import Reader, kept
from runtimes.containers.engine import AGAIN
from runtimes.containers.network import has_ipv6
from runtimes.contract import EndReason, Exhausted, Rejected, Unavailable
from runtimes.locks import held
from runtimes.podman import service
from runtimes.podman.console import plain
from runtimes.podman.engine import PodmanAnswer, PodmanEngine
from runtimes.rlimits import hard_limit

AT = "2026-11-23T15:30:51.829087299Z"
NEVER = "0001-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("state", "out_of_memory", "reason"),
    [
        ({"ExitCode": 0}, False, EndReason.CLEAN),
        ({"ExitCode": 3}, False, EndReason.FAILED),
        ({"ExitCode": 137}, False, EndReason.KILLED),
        ({"ExitCode": 137}, True, EndReason.OOM),
        ({"ExitCode": 1, "OOMKilled": True}, False, EndReason.OOM),
        ({"ExitCode": 1}, True, EndReason.FAILED),
        ({"ExitCode": -1}, False, EndReason.KILLED),
        ({"ExitCode": 127, "StartedAt": NEVER}, False, EndReason.CRASHED),
        ({"ExitCode": 0, "FinishedAt": NEVER}, False, EndReason.LOST),
    ],
)
def test_an_end_is_told_by_what_podman_and_the_kernel_say(state: dict, out_of_memory: bool, reason: EndReason) -> None:
    assert translate.end({"StartedAt": AT, "FinishedAt": AT} | state, out_of_memory).reason is reason


def test_times_have_nanoseconds_zones_and_none() -> None:
    assert translate.seconds(AT) == pytest.approx(1795447851.829087)
    assert translate.seconds("2026-11-23T16:30:51.8+01:00") == pytest.approx(1795447851.8)
    assert translate.seconds(NEVER) is None
    assert translate.seconds("soon") is None


def test_only_a_stamp_for_its_own_name_makes_a_container_ours() -> None:
    assert stamp.stamped({"lmd.id": "a"}, "a")
    assert not stamp.stamped({"lmd.id": "a"}, "b")
    assert not stamp.stamped(None, "a")


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("write /var: no space left on device", Exhausted),
        ("runc: fork: Resource temporarily unavailable", Exhausted),
        ("dial unix: connection refused", Unavailable),
        ("no such file or directory", Rejected),
    ],
)
def test_an_error_is_one_of_the_contract_s_four(said: str, kind: type[Exception]) -> None:
    fault = PodmanAnswer(500, {"message": f"first line\n{said}"}).fault("do it")
    assert type(fault) is kind
    assert "\n" not in str(fault)


@asynccontextmanager
async def answering(socket: Path, answers: list[tuple[int, dict[str, str]]]) -> AsyncIterator[list[str]]:
    """A socket that gives these answers one after the other, the last again and again; the requests it had."""
    requests: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append((await reader.readuntil(b"\r\n\r\n")).decode().splitlines()[0])
        status, body = answers[min(len(requests), len(answers)) - 1]
        text = json.dumps(body).encode()
        head = b"HTTP/1.1 %d Said\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (status, len(text))
        writer.write(head + text)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_unix_server(serve, socket)
    try:
        yield requests
    finally:
        server.close()
        await server.wait_closed()


VANISHED = (500, {"message": "read /proc/9818/cgroup: no such process"})


async def test_a_look_at_a_process_that_ends_meanwhile_is_asked_for_again(short_tmp: Path) -> None:
    async with answering(short_tmp / "vanished", [VANISHED, VANISHED, (200, {"Id": "a"})]) as requests:
        engine = PodmanEngine(short_tmp / "vanished", workers=1)
        try:
            answer = await engine.call("GET", "/containers/a/json")
        finally:
            engine.close()
    assert (answer.status, len(requests)) == (200, 3)


async def test_it_is_not_asked_for_without_end_and_a_change_is_asked_for_once(short_tmp: Path) -> None:
    async with answering(short_tmp / "never", [VANISHED]) as requests:
        engine = PodmanEngine(short_tmp / "never", workers=1)
        try:
            assert (await engine.call("GET", "/containers/a/json")).status == 500
            assert len(requests) == 1 + AGAIN
            assert (await engine.call("POST", "/containers/a/start")).status == 500
        finally:
            engine.close()
    assert len(requests) == 2 + AGAIN


def test_console_lines_lose_their_times_and_partial_ones_are_joined() -> None:
    lines = [b"t stdout P hel", b"t stdout F lo", b"t stderr F  two  ", b"not such a line"]
    assert plain(lines) == b"hello\n two  \nnot such a line\n"


def test_a_reader_goes_on_in_the_file_that_replaced_the_one_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "ctr.log"
    path.write_bytes(b"t stdout F one\n")
    reader = Reader(path, plain, most=1_000_000)
    try:
        assert reader.read().data == b"one\n"
        with path.open("ab") as old:
            old.write(b"t stdout F two\n")
            (tmp_path / "new").write_bytes(b"t stdout F three\n")
            (tmp_path / "new").rename(path)
        assert b"".join(reader.read().data for _ in range(4)) == b"two\nthree\n"
    finally:
        reader.close()


def test_who_reads_slowly_skips_and_is_told_how_much(tmp_path: Path) -> None:
    path = tmp_path / "ctr.log"
    line = b"t stdout F " + b"x" * 89 + b"\n"
    path.write_bytes(line * 100_000)
    reader = Reader(path, plain, most=100_000)
    try:
        chunks = [reader.read() for _ in range(8)]
        kept_bytes, skipped = sum(len(c.data) for c in chunks), sum(c.skipped for c in chunks)
        assert skipped > 0
        assert kept_bytes < 3_000_000
        assert chunks[0].data.startswith(b"x" * 89 + b"\n")
    finally:
        reader.close()


def test_what_is_kept_has_both_ends_and_the_right_gap(tmp_path: Path) -> None:
    path = tmp_path / "ctr.log"
    path.write_bytes(b"".join(b"t stdout F %09d\n" % number for number in range(50_000)))
    reader = Reader(path, plain, most=10**9)
    try:
        head, tail = kept(reader, 200_000)
    finally:
        reader.close()
    assert head.data.startswith(b"000000000\n")
    assert tail.data.endswith(b"000049999\n")
    assert len(head.data) + len(tail.data) + tail.skipped == 500_000


@pytest.mark.parametrize(
    ("mountinfo", "controllers", "installed", "chosen"),
    [
        ("hybrid", "hugetlb", {"crun", "runc"}, "runc"),
        ("hybrid", "hugetlb", {"crun"}, None),
        ("hybrid", "", {"crun", "runc"}, None),
        ("v2", "cpu memory", {"crun", "runc"}, None),
    ],
)
def test_runc_is_taken_where_crun_would_refuse(mountinfo, controllers, installed, chosen) -> None:
    v1 = {"memory": Path("/m")} if mountinfo == "hybrid" else {}
    found = cgroups.Mounts(v1, Path("/u"), frozenset(controllers.split()))
    assert service.oci_runtime(found, frozenset(installed)) == chosen


def test_an_own_service_is_told_what_the_host_lacks() -> None:
    bare = service.command("podman", {"root": "/r"}, "runc", systemd=False)
    assert bare[:3] == ["podman", "--runtime=runc", "--root=/r"]
    assert "--cgroup-manager=cgroupfs" in bare
    assert "--cgroup-manager=cgroupfs" not in service.command("podman", {}, None, systemd=True)


def test_a_hard_limit_is_read_from_the_kernel_s_table() -> None:
    table = "Limit                     Soft Limit           Hard Limit           Units     \n"
    table += "Max processes             100                  32768                processes \n"
    table += "Max open files            100                  unlimited            files     \n"
    assert hard_limit(table, "Max processes") == [32768]
    assert hard_limit(table, "Max open files") == []


def test_ipv6_is_there_when_an_interface_has_a_global_address() -> None:
    loopback = "00000000000000000000000000000001 01 80 10 80       lo"
    local = "fe800000000000000000000000000001 02 40 20 80     eth0"
    wide = "fd000000000000000000000000000002 04 40 00 82     eth0"
    assert not has_ipv6("\n".join([loopback, local]))
    assert has_ipv6("\n".join([loopback, wide]))


async def test_a_lock_excludes_by_key_and_goes_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "run/locks"
    async with held(path, "a"):
        async with held(path, "b", seconds=0):
            pass
        with pytest.raises(Unavailable, match="lock for a"):
            async with held(path, "a", seconds=0.05):
                pass
    async with held(path, "a", seconds=0):
        pass
