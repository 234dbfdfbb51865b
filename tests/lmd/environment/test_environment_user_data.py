"""user_data: where it comes from, what is put into it, and whether it can be run."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmd.environment.user_data import Facts, UserDataError, load, runnable, substitute

FACTS = Facts(
    space="space.example.org",
    machinetype="example",
    machine_hostname="host-aaaaaaaaaaaaa",
    manager_version="lmd 0.1.0",
    manager_hostname="wn01.example.org",
    machinefeatures_url="file:///etc/machinefeatures",
    jobfeatures_url="file:///etc/jobfeatures",
    joboutputs_url="file:///var/spool/joboutputs",
    url="https://example.org/user_data",
    site="EXAMPLE-SITE",
    root_image_url="https://example.org/image",
    uuid="5f4dcc3b-5aa7-4a1c-9d3e-0123456789ab",
)
BARE = Facts(space="s", machinetype="t", machine_hostname="h", manager_version="v", manager_hostname="m")


@pytest.mark.parametrize(
    ("pattern", "value"),
    [
        ("url", "https://example.org/user_data"),
        ("site", "EXAMPLE-SITE"),
        ("space", "space.example.org"),
        ("machinetype", "example"),
        ("machine_hostname", "host-aaaaaaaaaaaaa"),
        ("manager_version", "lmd 0.1.0"),
        ("manager_hostname", "wn01.example.org"),
        ("machinefeatures_url", "file:///etc/machinefeatures"),
        ("jobfeatures_url", "file:///etc/jobfeatures"),
        ("joboutputs_url", "file:///var/spool/joboutputs"),
        ("root_image_url", "https://example.org/image"),
        ("vmtype", "example"),
        ("vm_hostname", "host-aaaaaaaaaaaaa"),
        ("vmlm_version", "lmd 0.1.0"),
        ("vmlm_hostname", "wn01.example.org"),
        ("uuid", "5f4dcc3b-5aa7-4a1c-9d3e-0123456789ab"),
        ("option_colour", "blue"),
        ("option_key", "-----BEGIN"),
        ("file_key", "-----BEGIN"),
        ("option_unknown", ""),
        ("a,b_9", ""),
        ("", ""),
    ],
)
def test_each_pattern_becomes_its_value_everywhere(pattern: str, value: str) -> None:
    content = f"a ##user_data_{pattern}##\n##user_data_{pattern}## z".encode()
    result = substitute(content, FACTS, {"colour": "blue"}, {"key": b"-----BEGIN"})
    assert result.decode() == f"a {value}\n{value} z"


def test_what_is_not_known_is_deleted() -> None:
    assert substitute(b"<##user_data_url####user_data_site####user_data_uuid##>", BARE, {}, {}) == b"<>"


@pytest.mark.parametrize(
    "text", [b"##user_data_", b"##user_data_X##", b"##user_data_a b##", b"# #user_data_a##", b"\xff\x00\n"]
)
def test_what_is_no_pattern_stays(text: bytes) -> None:
    assert substitute(text, FACTS, {}, {}) == text


def test_values_stand_as_they_are_whatever_they_hold() -> None:
    key = b"\x00\xff ##user_data_uuid## ##user_data_option_b## ##user_data_nothing## \\1 \\g<0>"
    result = substitute(
        b"[##user_data_file_key##][##user_data_option_a##]",
        FACTS,
        {"a": "##user_data_file_key####user_data_option_b##", "b": "injected"},
        {"key": key},
    )
    assert result == b"[" + key + b"][##user_data_file_key####user_data_option_b##]"


def test_no_pattern_arises_where_a_value_meets_the_text() -> None:
    content = b"##user_data_option_a##space## ##user_data_##user_data_option_b##"
    result = substitute(content, FACTS, {"a": "##user_data_", "b": "space##"}, {})
    assert result == b"##user_data_space## ##user_data_space##"


def test_patterns_that_share_their_marks_are_replaced_in_the_order_of_the_rules() -> None:
    # `uuid` comes before the options, so it takes the marks between the two.
    assert substitute(b"##user_data_option_a##user_data_uuid##", FACTS, {"a": "x"}, {}) == (
        b"##user_data_option_a" + b"5f4dcc3b-5aa7-4a1c-9d3e-0123456789ab"
    )


@given(
    st.lists(
        st.sampled_from([b"##user_data_option_a##", b"##user_data_space##", b"x", b"##", b"#", b"user_data_", b"\n"])
    ),
    st.text(alphabet="#user_dataoption_a ", max_size=30),
)
def test_a_value_never_changes_what_is_done_elsewhere(pieces: list[bytes], value: str) -> None:
    content = b"".join(pieces)
    plain = substitute(content, FACTS, {"a": "\x01"}, {})
    assert substitute(content, FACTS, {"a": value}, {}) == plain.replace(b"\x01", value.encode())


def test_a_result_beyond_all_bounds_is_refused_before_it_is_made() -> None:
    with pytest.raises(UserDataError, match="larger than 16000000 bytes"):
        substitute(b"##user_data_file_big##" * 40_000, FACTS, {}, {"big": b"x" * 1_000_000})


@pytest.mark.parametrize("name", ["Upper", "with-hyphen", "", "a b", "a\n"])
def test_a_name_that_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(UserDataError, match="is no name for a pattern"):
        substitute(b"", FACTS, {name: "x"}, {})


@pytest.mark.parametrize("content", [b"#!/bin/sh\n", b"#! /usr/bin/env python3\nx", b"#!/bin/sh", b"\x7fELF\x02\x01"])
def test_scripts_and_programs_can_be_run(content: bytes) -> None:
    assert runnable(content) == ""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"#cloud-config\n", "#!/bin/sh"),
        (b"<html>not found</html>", "#!/bin/sh"),
        (b"\xef\xbb\xbf#!/bin/sh\n", "#!/bin/sh"),
        (b"#!/bin/sh\r\necho\r\n", "CR LF"),
        (b"#!\n", "absolute path"),
        (b"#!sh\n", "absolute path"),
    ],
)
def test_what_cannot_be_run_is_told_with_the_reason(content: bytes, said: str) -> None:
    assert said in runnable(content)
    assert "\n" not in runnable(content)


def test_a_file_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "user_data").write_bytes(b"#!/bin/sh\n\xff\x00")
    assert load(str(tmp_path / "user_data")) == b"#!/bin/sh\n\xff\x00"


def test_a_file_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * 1001)
    for name, said in (("none", "no such file"), ("", "not a regular file"), ("large", "larger than 1000 bytes")):
        with pytest.raises(UserDataError, match=said) as caught:
            load(str(tmp_path / name), limit=1000)
        assert str(tmp_path) in str(caught.value)


class Handler(BaseHTTPRequestHandler):
    """Answers by path, some of them badly."""

    def do_GET(self) -> None:
        getattr(self, f"answer_{self.path.strip('/').split('?')[0]}")()

    def answer_good(self) -> None:
        self._send(200, b"#!/bin/sh\necho good\n")

    def answer_error(self) -> None:
        self._send(404, b"#!/bin/sh\necho an error page\n")

    def answer_partial(self) -> None:
        self._send(206, b"#!/bin/sh\n")

    def answer_once(self) -> None:
        self._send(302, b"", Location="/good")

    def answer_round(self) -> None:
        self._send(302, b"", Location="/round")

    def answer_elsewhere(self) -> None:
        self._send(302, b"", Location="file:///etc/passwd")

    def answer_large(self) -> None:
        self._send(200, b"x" * 2_000_000)

    def answer_cut(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"half")

    def answer_drip(self) -> None:
        self.send_response(200)
        self.end_headers()
        for _ in range(100):
            self.wfile.write(b"#")
            time.sleep(0.1)

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away early is no fault."""


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """The address of a page of a server on this host, reached without a proxy."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield lambda page: f"http://127.0.0.1:{server.server_port}/{page}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("page", ["good", "once"])
def test_a_page_is_fetched_over_a_redirect_too(url: Callable[[str], str], page: str) -> None:
    assert load(url(page)) == b"#!/bin/sh\necho good\n"


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("error", "status 404"),
        ("partial", "status 206"),
        ("round", "more than 5 redirects"),
        ("elsewhere", "file:"),
        ("large", "larger than 1000000 bytes"),
        ("cut", "IncompleteRead"),
    ],
)
def test_an_answer_that_is_not_the_page_is_an_error(url: Callable[[str], str], page: str, said: str) -> None:
    with pytest.raises(UserDataError, match=said) as caught:
        load(url(page))
    assert url(page) in str(caught.value) and "\n" not in str(caught.value)


def test_a_server_that_drips_is_given_up_in_time(url: Callable[[str], str]) -> None:
    began = time.monotonic()
    with pytest.raises(UserDataError, match=r"did not come within 0\.5 s"):
        load(url("drip"), seconds=0.5)
    assert time.monotonic() - began < 2


def test_a_server_that_says_nothing_is_given_up_in_time() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(UserDataError, match=r"within 0\.3 s|timed out"),
    ):
        load(f"http://127.0.0.1:{silent.getsockname()[1]}/x", seconds=0.3)


def test_a_server_that_is_not_there_is_named_without_its_password() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(UserDataError, match="Connection refused") as caught:
        load(f"http://name:password@127.0.0.1:{port}/x?token=abc")
    assert "password" not in str(caught.value) and "abc" not in str(caught.value)
