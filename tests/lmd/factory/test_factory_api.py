"""The daemon's API: what it answers, refuses and streams."""

import asyncio
import json
from contextlib import suppress
from pathlib import Path

import pytest
from factory_ground import Site, config

from lmd.cli.asking import NoDaemon, Refused
from lmd.factory.api.server import Api
from lmd.factory.events import KEPT

TYPE = """
[settings]
factory_name = "wn1"
total_processors = 1
overload_per_processor = 1000.0
[machinetypes.work]
root_image = "docker://example"
runtime = "fake"
target_share = 1.0
backoff_seconds = 0
mb_per_processor = 64
entrypoint = ["forever"]
"""


@pytest.fixture
def lmd(make_lmd):
    return make_lmd(TYPE, LMD_FAKE="1").start()


def test_it_is_described_as_it_is(lmd) -> None:
    assert (lmd.home / "run/lmd.sock").stat().st_mode & 0o777 == 0o660
    described = lmd.daemon.get("/v1/openapi.json")
    assert described["openapi"].startswith("3.1")
    for path, methods in described["paths"].items():
        if "get" in methods and "{" not in path and path != "/v1/events":
            assert lmd.daemon.get(path) is not None
    assert set(described["paths"]["/v1/machines"]) == {"get", "post"}
    body = described["paths"]["/v1/drain"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["properties"]) == {"reason", "deadline", "machinetype", "host_shutdown"}


WRONG = [
    ("GET", "/v1/nothing", None, "no-such-thing"),
    ("GET", "/v1/machines/nothing", None, "no-such-machine"),
    ("POST", "/v1/machines/nothing/stop", {}, "no-such-machine"),
    ("POST", "/v1/drain", {"deadlin": 1}, "bad-request"),
    ("POST", "/v1/drain", {"deadline": -1}, "bad-request"),
    ("POST", "/v1/drain", {"reason": "x" * 300_000}, "too-large"),
    ("POST", "/v1/drain", {"machinetype": "nothing"}, "not-possible"),
    ("POST", "/v1/machines", {"target": "no-such-type"}, "not-possible"),
    ("GET", "/v1/events?after=x", None, "bad-request"),
]


def test_what_is_wrong_has_a_code_and_a_sentence(lmd) -> None:
    for method, path, body, code in WRONG:
        where, _, query = path.partition("?")
        more = dict([query.split("=")]) if query else {}
        with pytest.raises(Refused) as refused:
            _ = lmd.daemon.get(where, **more) if method == "GET" else lmd.daemon.post(where, body)
        assert refused.value.code == code, path
        assert str(refused.value)
    assert lmd.daemon.get("/v1/factory")["draining"] is None


def test_a_newer_daemon_is_not_misunderstood(lmd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmd.cli.asking.API_VERSION", 0)
    with pytest.raises(NoDaemon, match="update lm"):
        lmd.daemon.get("/v1/factory")


def test_events_come_in_order_and_from_where_one_left_off(lmd) -> None:
    lmd.running(1)
    seen = []
    for line in _lines(lmd.daemon.stream("/v1/events", after=0)):
        seen.append(line)
        if line["kind"] == "machine-running":
            break
    assert [line["seq"] for line in seen] == list(range(1, len(seen) + 1))
    lmd.end()
    lmd.start()
    again = []
    for line in _lines(lmd.daemon.stream("/v1/events", after=2)):
        again.append(line)
        if line["seq"] >= seen[-1]["seq"]:
            break
    assert [(line["seq"], line["kind"]) for line in again] == [(line["seq"], line["kind"]) for line in seen[2:]]


def _lines(pieces):
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from (json.loads(line) for line in whole if line)


async def test_a_reader_that_is_too_slow_is_cut_and_told_where(site: Site, short_tmp: Path) -> None:
    """It reads nothing while more happens than is kept for it; who reads gets everything."""
    path = short_tmp / "slow.sock"
    async with site.running(config(total=1)) as factory:

        async def reload() -> list[str]:
            return []

        api = Api(factory, path, reload)
        await api.open()
        slow, writer = await asyncio.open_unix_connection(str(path), limit=1024)
        writer.write(b"GET /v1/events HTTP/1.1\r\nHost: lmd\r\n\r\n")
        quick, other = await asyncio.open_unix_connection(str(path))
        other.write(b"GET /v1/events HTTP/1.1\r\nHost: lmd\r\n\r\n")
        got = b""
        first = factory.ledger.events.last
        await asyncio.sleep(0.2)
        for number in range(KEPT + 2000):
            factory.ledger.events.add("test", text="x" * 900, number=number)
            if number % 100 == 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.01):
                        got += await quick.read(10**7)
        async with asyncio.timeout(20):
            while f'"number": {KEPT + 1999}'.encode() not in got:
                got += await quick.read(10**7)
            content = await slow.read(-1)
        told = json.loads(content[content.rindex(b'{"kind": "cut"') :].partition(b"\n")[0])
        assert first <= told["last"] < factory.ledger.events.last
        other.close()
        writer.close()
        await api.aclose()
