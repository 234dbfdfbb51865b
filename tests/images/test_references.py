"""Images by name as root directories, from a registry on loopback and from Podman's store."""

import fcntl
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from images_layered import file, folder, write_layout

from images import references
from images.errors import ImageError
from images.references import Fetcher

LAYERS = [[folder("bin"), file("bin/sh", b"one")], [file("bin/sh", b"two")]]


class Registry:
    """One image in a registry of the OCI distribution specification, read only; counts what it is asked for."""

    def __init__(self, layout: Path) -> None:
        self.load(layout)
        self.fault, self.asked = "", list[str]()
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                registry.asked.append(self.path)
                status, kind, body = registry.answer(self.path)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.name = f"127.0.0.1:{self.server.server_port}/test/layered:1"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def load(self, layout: Path) -> None:
        self.blobs = {f"sha256:{path.name}": path.read_bytes() for path in (layout / "blobs/sha256").iterdir()}
        self.digest = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]

    def answer(self, path: str) -> tuple[int, str, bytes]:
        if path == "/v2/":
            return 200, "application/json", b"{}"
        _, kind, reference = path.rsplit("/", 2)
        content = self.blobs.get(reference if ":" in reference else self.digest)
        if content is None or self.fault == "gone":
            return 404, "application/json", b'{"errors": [{"code": "MANIFEST_UNKNOWN"}]}'
        if kind == "manifests":
            return 200, "application/vnd.oci.image.manifest.v1+json", content
        if self.fault == "spoils" and not content.startswith(b"{"):
            content = content[:-1] + bytes([content[-1] ^ 1])
        return 200, "application/octet-stream", content

    @property
    def fetches(self) -> int:
        return sum("/blobs/" in path for path in self.asked)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    write_layout(tmp_path / "layout", LAYERS)
    made = Registry(tmp_path / "layout")
    conf = tmp_path / "registries.conf"
    conf.write_text(f'[[registry]]\nlocation = "{made.name.partition("/")[0]}"\ninsecure = true\n')
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(conf))
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def fetcher(tmp_path: Path) -> Fetcher:
    return Fetcher(directory=tmp_path / "roots", stores=())


def silent(_: str) -> None:
    pass


def test_an_image_is_fetched_once_while_it_is_only_looked_for_when_missing(
    registry: Registry, fetcher: Fetcher
) -> None:
    told: list[str] = []
    root = fetcher.ensure(f"docker://{registry.name}", "missing", told.append)
    assert (root.path / "bin/sh").read_bytes() == b"two"
    assert told[0] == f"fetching the image {registry.name}"
    asked = len(registry.asked)
    assert fetcher.ensure(registry.name, "missing", silent) == root
    assert fetcher.ensure(registry.name, "never", silent) == root
    assert len(registry.asked) == asked, "the registry was asked again"
    assert not list(fetcher.directory.glob("fetch-*"))


def test_with_always_a_newer_image_of_the_name_is_seen_and_the_same_one_is_not_fetched_again(
    tmp_path: Path, registry: Registry, fetcher: Fetcher
) -> None:
    first = fetcher.ensure(registry.name, "always", silent)
    fetched = registry.fetches
    assert fetcher.ensure(registry.name, "always", silent) == first
    assert registry.fetches <= fetched + 1, "more than its configuration was fetched again"
    write_layout(tmp_path / "newer", [*LAYERS, [file("new")]])
    registry.load(tmp_path / "newer")
    assert fetcher.ensure(registry.name, "missing", silent) == first
    newer = fetcher.ensure(registry.name, "always", silent)
    assert (newer.path / "new").is_file()
    assert (first.path / "bin/sh").is_file(), "the older one is still what its digest says"


def test_an_image_is_taken_from_podmans_store(tmp_path: Path, podman_command) -> None:
    image_id = write_layout(tmp_path / "layout", LAYERS)
    podman_command("pull", "--quiet", f"oci:{tmp_path / 'layout'}")
    podman_command("tag", image_id.removeprefix("sha256:"), "localhost/lmd-test/kept:1")
    place = podman_command("info", "--format", "{{.Store.GraphRoot}}+{{.Store.RunRoot}}").strip()
    fetcher = Fetcher(directory=tmp_path / "roots", stores=(f"containers-storage:[{place}]",))
    root = fetcher.ensure("localhost/lmd-test/kept:1", "never", silent)
    assert root.described.image_id == image_id
    assert (root.path / "bin/sh").read_bytes() == b"two"


@pytest.mark.parametrize(
    ("name", "pull", "fault", "wanted"),
    [
        ("localhost/no/such:1", "never", "", "is not here, and pull is never$"),
        ("", "missing", "gone", "manifest unknown|MANIFEST_UNKNOWN|reading manifest"),
        ("", "missing", "spoils", "Digest did not match|digest"),
        ("--version", "missing", "", "is no name of an image"),
        ("a b", "missing", "", "is no name of an image"),
        ("UPPER/case", "missing", "", "^image UPPER/case: .*"),
    ],
)
def test_what_cannot_be_had_is_told_in_one_line_and_leaves_nothing(
    registry: Registry, fetcher: Fetcher, name: str, pull: str, fault: str, wanted: str
) -> None:
    registry.fault = fault
    with pytest.raises(ImageError, match=wanted) as refused:
        fetcher.ensure(name or registry.name, pull, silent)
    assert "\n" not in str(refused.value)
    assert not list(fetcher.directory.glob("*.partial"))


def test_what_a_fetcher_that_was_killed_left_is_removed_and_what_one_at_work_has_is_not(
    registry: Registry, fetcher: Fetcher
) -> None:
    left, in_use = fetcher.directory / "fetch-left.partial", fetcher.directory / "fetch-used.partial"
    for path in (left, in_use):
        path.mkdir(parents=True)
    descriptor = os.open(in_use, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        fetcher.ensure(registry.name, "missing", silent)
        assert (left.exists(), in_use.exists()) == (False, True)
    finally:
        os.close(descriptor)


def test_without_skopeo_it_says_what_to_install(
    tmp_path: Path, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImageError, match="apt-get install skopeo"):
        fetcher.ensure("localhost/a", "missing", silent)


def test_a_skopeo_that_hangs_is_ended(registry: Registry, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "_LOOK_SECONDS", 0.01)
    with pytest.raises(ImageError, match="skopeo inspect took more than"):
        fetcher.ensure(registry.name, "missing", silent)
    assert [path.name for path in fetcher.directory.iterdir()] == ["references"]
