"""A registry on loopback that can also misbehave."""

from __future__ import annotations

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class Registry:
    """One image in a registry of the OCI distribution specification, read only; `fault` says how it misbehaves.

    `listener`: a listening socket, made in whatever network; without it one on loopback.
    """

    def __init__(self, layout: Path, listener: socket.socket | None = None) -> None:
        self.blobs: dict[str, bytes] = {}
        self.digest = self.add(layout)
        self.image_id = json.loads(self.blobs[self.digest])["config"]["digest"]
        self.fault = ""
        self.pulls = 0
        self.over = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler(), bind_and_activate=listener is None)
        if listener is not None:
            self.server.socket.close()
            self.server.socket, self.server.server_address = listener, listener.getsockname()
            self.server.server_port = self.server.server_address[1]
        self.name = f"127.0.0.1:{self.server.server_port}/test/busybox"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def add(self, layout: Path) -> str:
        """Have the image of a layout too, by its digest, which is returned."""
        self.blobs |= {f"sha256:{path.name}": path.read_bytes() for path in (layout / "blobs/sha256").iterdir()}
        return json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]

    def close(self) -> None:
        self.over.set()
        self.server.shutdown()
        self.server.server_close()

    def _handler(registry) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = registry.answer(self.path)
                self.send_response(status)
                self.send_header("Content-Type", MANIFEST if "/manifests/" in self.path else "application/octet-stream")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def answer(self, path: str) -> tuple[int, bytes]:
        if path == "/v2/":
            return 200, b"{}"
        if self.fault == "hangs":
            self.over.wait(60)
        if self.fault == "refuses":
            return 403, b'{"errors": [{"code": "DENIED", "message": "not for you"}]}'
        _, kind, reference = path.rsplit("/", 2)
        if kind == "manifests":
            self.pulls += 1
            content = self.blobs.get(reference if ":" in reference else self.digest)
            return (404, b"{}") if content is None else (200, content + (b" " if self.fault == "lies" else b""))
        content = self.blobs.get(reference, b"")
        return 200, content[:-1] + b"x" if self.fault == "spoils" else content
