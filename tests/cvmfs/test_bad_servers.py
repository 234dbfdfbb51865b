"""Servers and proxies that hang, drip, redirect or lie cost time within bounds, and never give wrong data."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cvmfs_publisher import Publisher
from cvmfs_served import FIXTURE, Open, Web, reply

from cvmfs.errors import BadConfiguration, CvmfsError, Unreachable
from cvmfs.http import Http, Limits
from cvmfs.routes import ResetAfter, Routes, parse_proxies, parse_servers

QUICK = {"CVMFS_TIMEOUT": "1", "CVMFS_TIMEOUT_DIRECT": "1"}


class Raw:
    """A TCP server that does with each connection whatever `behave` says."""

    def __init__(self, behave: Callable[[socket.socket], None]) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._behave = behave
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.recv(65536)
            self._behave(connection)

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            connection.close()
        self._thread.join(5)


@pytest.fixture
def raw() -> Iterator[Callable[[Callable[[socket.socket], None]], Raw]]:
    made: list[Raw] = []

    def make(behave: Callable[[socket.socket], None]) -> Raw:
        made.append(Raw(behave))
        return made[-1]

    yield make
    for server in made:
        server.stop()


def hang(connection: socket.socket) -> None:
    time.sleep(30)


def drip_headers(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        connection.sendall(b"X-A: b\r\n")
        time.sleep(0.05)


def drip_body(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        connection.sendall(b"x")
        time.sleep(0.05)


def endless_body(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        connection.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")


def endless_header(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        connection.sendall(b"x" * 65536)


def close_early(connection: socket.socket) -> None:
    connection.close()


def announce_more(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\nshort")
    connection.shutdown(socket.SHUT_RDWR)


def nonsense(connection: socket.socket) -> None:
    connection.sendall(b"\x00\x01\x02 nonsense\r\n\r\n")
    connection.shutdown(socket.SHUT_RDWR)


def bad_length(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nabc")
    connection.shutdown(socket.SHUT_RDWR)


def redirect_away(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n")


BEHAVIOURS = [hang, drip_headers, drip_body, endless_body, endless_header, close_early, announce_more, nonsense]
BEHAVIOURS += [bad_length, redirect_away]


def test_an_idle_connection_that_the_server_has_closed_costs_nothing(
    raw: Callable[[Callable[[socket.socket], None]], Raw],
) -> None:
    served: list[int] = []

    def once(connection: socket.socket) -> None:
        served.append(1)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        connection.shutdown(socket.SHUT_RDWR)

    http = Http("test")
    for _ in range(3):
        assert b"".join(http.get(raw(once).url + "/x", None, Limits(5), 10)) == b"ok"
    url = raw(once).url + "/x"
    assert [b"".join(http.get(url, None, Limits(5), 10)) for _ in range(3)] == [b"ok"] * 3
    assert len(served) == 6
    http.close()


def test_a_server_without_a_trusted_certificate_is_refused(
    raw: Callable[[Callable[[socket.socket], None]], Raw], tmp_path: Path
) -> None:
    publisher = Publisher(tmp_path / "repo")
    (tmp_path / "cert").write_bytes(publisher.certificate)
    key = publisher.signer.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "key").write_bytes(key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as wrapped:
            wrapped.recv(1000)
            wrapped.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    thread = threading.Thread(target=serve)
    thread.start()
    http = Http("test")
    with pytest.raises(Unreachable, match="certificate verify failed"):
        b"".join(http.get(f"https://127.0.0.1:{listener.getsockname()[1]}/x", None, Limits(5), 10))
    thread.join(5)
    http.close()
    listener.close()


@pytest.mark.parametrize("behave", BEHAVIOURS, ids=lambda behave: behave.__name__)
def test_a_bad_server_is_left_for_the_next_one_within_seconds(
    raw: Callable[..., Raw], web: Web, opened: Open, behave: Callable[[socket.socket], None]
) -> None:
    started = time.monotonic()
    repository = opened(f"{raw(behave).url};{web.url}", **QUICK)
    assert repository.revision.number == 3
    assert time.monotonic() - started < 6


@pytest.mark.parametrize("behave", [hang, drip_headers, drip_body, close_early], ids=lambda behave: behave.__name__)
def test_a_bad_server_alone_is_an_error_that_names_it(
    raw: Callable[..., Raw], opened: Open, behave: Callable[[socket.socket], None]
) -> None:
    server = raw(behave)
    started = time.monotonic()
    with pytest.raises(Unreachable, match=server.url):
        opened(server.url, **QUICK)
    assert time.monotonic() - started < 6


@pytest.mark.parametrize("behave", [hang, close_early, nonsense], ids=lambda behave: behave.__name__)
def test_a_bad_proxy_is_left_for_the_next_group(
    raw: Callable[..., Raw], web: Web, opened: Open, behave: Callable[[socket.socket], None]
) -> None:
    started = time.monotonic()
    opened(web.url, CVMFS_HTTP_PROXY=f"{raw(behave).url};DIRECT", **QUICK)
    assert time.monotonic() - started < 6


def test_a_dead_proxy_is_an_error_if_there_is_no_other_way(web: Web, opened: Open) -> None:
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:9"):
        opened(web.url, CVMFS_HTTP_PROXY="http://127.0.0.1:9", **QUICK)
    assert web.requests == []


def test_a_redirection_is_followed_only_when_allowed(webs: Callable[[Path], Web], opened: Open) -> None:
    target, front = webs(FIXTURE / "repo"), webs(FIXTURE / "repo")

    def redirect(handler: Any, path: Path) -> bool:
        handler.send_response(302)
        handler.send_header("Location", target.url + handler.path)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return True

    front.answer = redirect
    with pytest.raises(Unreachable, match="302"):
        opened(front.url)
    assert opened(front.url, "second", CVMFS_FOLLOW_REDIRECTS="yes").revision.number == 3


def test_proxies_of_a_group_share_the_load_and_the_next_group_stays_idle(
    webs: Callable[[Path], Web], opened: Open
) -> None:
    server, first, second, spare = (webs(FIXTURE / "repo") for _ in range(4))
    proxies = f"{first.url}|{second.url};{spare.url}"
    repository = opened(server.url, CVMFS_HTTP_PROXY=proxies)
    for _, located in repository.tree.walk():
        if located.entry.kind == "file":
            assert b"".join(repository.read(located)) is not None
    assert server.requests == spare.requests == []
    assert len(first.requests) > 5
    assert len(second.requests) > 5
    assert all(path.startswith("http://") for path in first.requests + second.requests)


def test_automatic_configuration_asks_the_script_for_the_proxies(
    webs: Callable[[Path], Web], opened: Open, tmp_path: Path
) -> None:
    server, proxy = webs(FIXTURE / "repo"), webs(FIXTURE / "repo")
    (tmp_path / "pac").mkdir()
    script = f'function FindProxyForURL(url, host) {{ return "PROXY 127.0.0.1:9; PROXY 127.0.0.1:{proxy.port}"; }}'
    (tmp_path / "pac/wpad.dat").write_text(script)
    pac = webs(tmp_path / "pac")
    urls = f"http://127.0.0.1:9/none;{pac.url}/wpad.dat"
    assert opened(server.url, CVMFS_HTTP_PROXY="auto", CVMFS_PAC_URLS=urls).revision.number == 3
    assert server.requests == []
    assert proxy.requests


def test_an_object_that_one_server_has_damaged_comes_from_another(webs: Callable[[Path], Web], opened: Open) -> None:
    bad, good = webs(FIXTURE / "repo"), webs(FIXTURE / "repo")

    def damage(handler: Any, path: Path) -> bool:
        if "data" in path.parts:
            reply(handler, b"damaged")
            return True
        return False

    bad.answer = damage
    repository = opened(f"{bad.url};{good.url}")
    located = repository.tree.lookup(b"/README.txt")
    assert located is not None
    assert len(b"".join(repository.read(located))) == 53


def test_one_slow_object_does_not_hold_up_the_others(web: Web, opened: Open) -> None:
    repository = opened(web.url)
    slow = repository.tree.lookup(b"/README.txt")
    quick = repository.tree.lookup(b"/bin/hello.sh")
    assert slow is not None
    assert quick is not None
    release = threading.Event()

    def wait(handler: Any, path: Path) -> bool:
        if path.match("b2/768f93bf2cd7f60ba3bba419eaa58097cee6ed"):
            release.wait(10)
        return False

    web.answer = wait
    found: list[bytes] = []
    readers = [threading.Thread(target=lambda: found.append(b"".join(repository.read(slow)))) for _ in range(5)]
    for reader in readers:
        reader.start()
    started = time.monotonic()
    assert b"".join(repository.read(quick)).startswith(b"#!")
    assert time.monotonic() - started < 1
    release.set()
    for reader in readers:
        reader.join()
    assert len(found) == 5
    assert web.requests.count("/data/b2/768f93bf2cd7f60ba3bba419eaa58097cee6ed") == 1


def test_what_failed_is_tried_last_until_its_time_is_over() -> None:
    now = 0.0
    routes = Routes(("http://a", "http://b"), lambda: (("P", "Q"), ("R",)), ResetAfter(10, 20), lambda: now)
    routes.failed("http://a")
    assert routes.servers() == ["http://b", "http://a"]
    now = 20.0
    assert routes.servers() == ["http://a", "http://b"]
    routes.failed("P")
    assert routes.proxies("x") == ["Q", "R", "P"]
    routes.works("P")
    assert sorted(routes.proxies("x")[:2]) == ["P", "Q"]


@pytest.mark.parametrize("text", ["", ";", "ftp://a", "http://", "http://a:99999", "http://a b", "http://a:x"])
def test_a_proxy_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(BadConfiguration, match="proxy"):
        parse_proxies(text)


def test_servers_are_named_with_the_repository_and_its_first_part() -> None:
    found = parse_servers("http://a/cvmfs/@fqrn@;https://b/@org@/", "x.cern.ch")
    assert found == ("http://a/cvmfs/x.cern.ch", "https://b/x")
    with pytest.raises(CvmfsError, match="server"):
        parse_servers("file:///etc", "x.cern.ch")
