"""user_data: fetched, its `##user_data_…##` patterns replaced, and checked to be something that can be run."""

import os
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from lmd.environment import printable

if TYPE_CHECKING:
    import requests

LIMIT = 1_000_000
RESULT_LIMIT = 16_000_000
SECONDS = 30.0
MOST_REDIRECTS = 5

_LEFT_OVER = re.compile(rb"##user_data_[a-z0-9_,]*##")
_NAME = re.compile(r"[a-z0-9_]+")


class UserDataError(Exception):
    """user_data cannot be had or used; one line that names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the patterns that have a name of their own stand for; None: not known, so the pattern is deleted.

    `url` is where the user_data itself came from, if by http(s); `root_image_url` likewise for the image.
    """

    space: str
    machinetype: str
    machine_hostname: str
    manager_version: str
    manager_hostname: str
    machinefeatures_url: str | None = None
    jobfeatures_url: str | None = None
    joboutputs_url: str | None = None
    url: str | None = None
    site: str | None = None
    root_image_url: str | None = None
    uuid: str | None = None


def substitute(content: bytes, facts: Facts, options: Mapping[str, str], files: Mapping[str, bytes]) -> bytes:
    """`content` with all its patterns replaced, in Vac's order (vacuum platform, user_data).

    A value stands as it is: patterns in it are neither replaced nor deleted, nor can one arise where a value meets the
    text around it. Patterns that are left in `content` are deleted. Raises `UserDataError` if the result is too large.
    """
    pieces: list[tuple[bytes, bool]] = [(content, False)]  # text, and whether it is a value
    for pattern, value in _values(facts, options, files):
        if pattern in content:
            pieces = list(_replaced(pieces, pattern, value))
    result = [text if is_value else _LEFT_OVER.sub(b"", text) for text, is_value in pieces]
    if sum(map(len, result)) > RESULT_LIMIT:
        raise UserDataError(f"user_data is larger than {RESULT_LIMIT} bytes once its patterns are replaced")
    return b"".join(result)


def runnable(content: bytes) -> str:
    """Why this cannot be run; empty if it can: a script with an interpreter in its first line, or an ELF program."""
    if content.startswith(b"\x7fELF"):
        return ""
    if not content:
        return "it is empty"
    if not content.startswith(b"#!"):
        return 'it begins neither with "#!" and an interpreter, such as #!/bin/sh, nor as an ELF program'
    first = content[:4096].split(b"\n", 1)[0]
    if first.endswith(b"\r"):
        return "its lines end in CR LF, so that its interpreter is not found; write it with LF alone"
    if not first[2:].strip().startswith(b"/"):
        return "the interpreter in its first line is not an absolute path"
    return ""


def load(source: str, *, limit: int = LIMIT, seconds: float = SECONDS) -> bytes:
    """The content of a file, or of what an http(s) URL answers with status 200. Blocks for `seconds` at most.

    Raises `UserDataError` if it cannot be had, is larger than `limit` bytes or does not come in time.
    """
    if re.match(r"https?://", source, re.IGNORECASE):
        return _Fetch(source, limit, seconds).result()
    return _read(Path(source), limit)


def _values(facts: Facts, options: Mapping[str, str], files: Mapping[str, bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Patterns and what they stand for, in the order in which they are replaced."""
    named: Sequence[tuple[str, str | None]] = (
        ("url", facts.url),
        ("site", facts.site),
        ("space", facts.space),
        ("machinetype", facts.machinetype),
        ("machine_hostname", facts.machine_hostname),
        ("manager_version", facts.manager_version),
        ("manager_hostname", facts.manager_hostname),
        ("machinefeatures_url", facts.machinefeatures_url),
        ("jobfeatures_url", facts.jobfeatures_url),
        ("joboutputs_url", facts.joboutputs_url),
        ("root_image_url", facts.root_image_url),
        ("vmtype", facts.machinetype),
        ("vm_hostname", facts.machine_hostname),
        ("vmlm_version", facts.manager_version),
        ("vmlm_hostname", facts.manager_hostname),
        ("uuid", facts.uuid),
    )
    yield from ((_pattern("", name), os.fsencode(value)) for name, value in named if value is not None)
    for name, value in options.items():
        yield _pattern("option_", name), value.encode(errors="surrogateescape")
    for name, data in files.items():
        yield _pattern("file_", name), data
        yield _pattern("option_", name), data


def _pattern(prefix: str, name: str) -> bytes:
    if not _NAME.fullmatch(name):
        raise UserDataError(f"user_data: {name!r} is no name for a pattern: only a-z, 0-9 and _ may be in it")
    return f"##user_data_{prefix}{name}##".encode()


def _replaced(pieces: list[tuple[bytes, bool]], pattern: bytes, value: bytes) -> Iterator[tuple[bytes, bool]]:
    for text, is_value in pieces:
        if is_value or pattern not in text:
            yield text, is_value
            continue
        first, *others = text.split(pattern)
        yield first, False
        for other in others:
            yield value, True
            yield other, False


def _read(path: Path, limit: int) -> bytes:
    try:
        if not path.is_file():
            raise UserDataError(f"{path}: {'not a regular file' if path.exists() else 'no such file'}")
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise UserDataError(f"{path}: {error.strerror}") from error
    if len(content) > limit:
        raise UserDataError(f"{path}: larger than {limit} bytes")
    return content


class _Fetch:
    """One request in a thread of its own, given up at its deadline however slowly the server drips."""

    def __init__(self, url: str, limit: int, seconds: float) -> None:
        self._url, self._limit, self._seconds = url, limit, seconds
        self._deadline = time.monotonic() + seconds
        self._content: bytes | None = None
        self._problem = f"did not come within {seconds:g} s"

    def result(self) -> bytes:
        thread = threading.Thread(target=self._run, name="user_data", daemon=True)
        thread.start()
        thread.join(self._seconds)
        if self._content is None:
            raise UserDataError(f"{_shown(self._url)}: {self._problem}")
        return self._content

    def _run(self) -> None:
        import requests  # only machines whose user_data is elsewhere need it

        try:
            with requests.Session() as session:
                session.max_redirects = MOST_REDIRECTS
                if "@" not in self._url:
                    session.auth = lambda request: request  # no passwords from the caller's netrc
                with session.get(self._url, stream=True, timeout=min(10.0, self._seconds)) as answer:
                    self._take(answer)
        except requests.TooManyRedirects:
            self._problem = f"more than {MOST_REDIRECTS} redirects"
        except (OSError, ValueError) as error:
            self._problem = _reason(error)

    def _take(self, answer: "requests.Response") -> None:
        if answer.status_code != 200:
            self._problem = f"the server answered with status {answer.status_code}"
            return
        content = bytearray()
        for piece in answer.iter_content(4096):
            content += piece
            if len(content) > self._limit:
                self._problem = f"larger than {self._limit} bytes"
                return
            if time.monotonic() > self._deadline:
                return
        self._content = bytes(content)


def _shown(url: str) -> str:
    """A URL as it may stand in a message: without a password or a query."""
    parts = urlsplit(url)
    return printable.name(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}")


def _reason(error: BaseException) -> str:
    """The innermost reason of a failed request, in one line."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return printable.line(text.encode(errors="replace"), 200)
