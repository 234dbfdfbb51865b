"""A web server for repositories, and settings to open them with."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cvmfs.repository import Repository
from cvmfs.settings import Settings, make_settings

FIXTURE = Path(__file__).parent / "data" / "lm-test.example.org"
NAME = "lm-test.example.org"
Answer = Callable[[http.server.BaseHTTPRequestHandler, Path], bool]


class Web:
    """A static server on loopback. `requests` are the paths asked for, `answer` may take a request over (True)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.requests: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.answer: Answer | None = None
        web = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def do_GET(self) -> None:
                web.requests.append(self.path)
                web.headers.append(dict(self.headers))
                path = self.path.partition("://")[2].partition("/")[2] if "://" in self.path else self.path
                file = web.root / path.lstrip("/")
                if web.answer is not None and web.answer(self, file):
                    return
                if file.is_file():
                    reply(self, file.read_bytes())
                else:
                    reply(self, b"no such file", 404)

            def log_message(self, *args: Any) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # clients that go away in the middle are part of the tests

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def reply(handler: http.server.BaseHTTPRequestHandler, body: bytes, status: int = 200) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)
    handler.wfile.flush()


Open = Callable[..., Repository]


def settings_for(url: str, cache: Path, **values: str) -> Settings:
    defaults = {
        "CVMFS_SERVER_URL": url,
        "CVMFS_HTTP_PROXY": "DIRECT",
        "CVMFS_PUBLIC_KEY": str(FIXTURE / "keys" / f"{NAME}.pub"),
        "CVMFS_CACHE_DIR": str(cache),
        "CVMFS_TIMEOUT": "2",
        "CVMFS_TIMEOUT_DIRECT": "2",
        "ARCH": "x86_64",
    }
    return make_settings(NAME, defaults | values)


def records(file: str) -> list[dict[str, Any]]:
    """The lines of one of the fixture's descriptions."""
    return [json.loads(line) for line in (FIXTURE / file).read_text().splitlines()]
