"""Images by their names in a registry or in an engine's store, brought here by skopeo as root directories.

references/HEX.json   the id of the image that a name meant when it was last looked up; HEX is of the name
fetch-….partial/      an image on its way, or that was when its fetcher died; its lock tells
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from images import roots
from images.appear import whole_file
from images.container import Form, opened
from images.described import describe
from images.errors import ImageError
from images.members import DOCUMENT_LIMIT
from images.roots import Progress, Root, locked
from images.unpack import Limits

REGISTRY = "docker://"
STORE = "containers-storage:"
LIMITS = Limits()
_LOOK_SECONDS = 120
_FETCH_SECONDS = 3600
_PASSED_ON = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "HOME")
_SETTINGS = ("CONTAINERS_STORAGE_CONF", "REGISTRY_AUTH_FILE", "DOCKER_CONFIG")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetcher:
    """Brings images into `directory`, where root directories are. `stores` are looked into before the registry: each
    what skopeo wants before a name, such as `containers-storage:`."""

    directory: Path
    stores: Sequence[str] = (STORE,)
    limits: Limits = LIMITS

    def ensure(self, name: str, pull: str, progress: Progress) -> Root:
        """The root of the image that a name means; `pull` is missing, always or never, as for containers.

        Raises ImageError, one line, if there is no such image, or it may not be fetched.
        """
        name = name.removeprefix(REGISTRY)
        if not name or name.startswith("-") or any(not c.isprintable() or c.isspace() for c in name):
            raise ImageError(f"image {name!r}: is no name of an image")
        record = self.directory / "references" / f"{hashlib.sha256(name.encode()).hexdigest()}.json"
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            record.parent.mkdir(mode=0o700, exist_ok=True)
            with locked(record.with_suffix(".lock"), name, progress):
                return self._known(name, pull, record) or self._fetched(name, pull, record, progress)
        except OSError as error:
            raise ImageError(f"image {name}: {error.filename or self.directory}: {error.strerror or error}") from error

    def _known(self, name: str, pull: str, record: Path) -> Root | None:
        """What is here already, of a name that need not be looked up again."""
        if pull == "always":
            return None
        try:
            with record.open("rb") as stream:
                known = json.loads(stream.read(DOCUMENT_LIMIT))
            return roots.find(self.directory, str(known["image_id"])) if known["name"] == name else None
        except (OSError, ValueError, KeyError, TypeError, ImageError):
            return None

    def _fetched(self, name: str, pull: str, record: Path, progress: Progress) -> Root:
        stores = () if pull == "always" else tuple(self.stores)
        sources = [f"{store}{name}" for store in (*stores, *((REGISTRY,) if pull != "never" else ()))]
        complaint = "is not here, and pull is never"
        for source in sources:
            try:
                config = _skopeo(["inspect", "--config", "--raw", source], _LOOK_SECONDS, self.directory)
            except _Failed as failed:
                complaint = str(failed)
                continue
            root = self._of(name, source, describe_or_refuse(name, config), progress)
            with whole_file(record) as part:
                part.write_text(json.dumps({"name": name, "image_id": root.described.image_id}) + "\n")
            return root
        if pull == "never":
            complaint = "is not here, and pull is never"
        raise ImageError(f"image {name}: {complaint}")

    def _of(self, name: str, source: str, image_id: str, progress: Progress) -> Root:
        """The root of the image with this id, brought from `source` if it is not here."""
        if root := roots.find(self.directory, image_id):
            return root
        progress(f"fetching the image {name}")
        with _scratch(self.directory) as scratch:
            try:
                _skopeo(["copy", "--quiet", source, f"oci:{scratch}/layout:image"], _FETCH_SECONDS, scratch)
            except _Failed as failed:
                raise ImageError(f"image {name}: {failed}") from failed
            with opened(Form.OCI_LAYOUT, scratch / "layout", scratch) as image:
                return roots.ensure(self.directory, image, progress, self.limits)


def describe_or_refuse(name: str, config: bytes) -> str:
    """The id of the image with this configuration. Raises ImageError if it is none."""
    try:
        return describe(config).image_id
    except ValueError as error:
        raise ImageError(f"image {name}: {error}") from error


class _Failed(Exception):
    """skopeo's last words, in one line."""


def _skopeo(arguments: Sequence[str], seconds: float, scratch: Path) -> bytes:
    program = shutil.which("skopeo")
    if program is None:
        raise ImageError("skopeo is not installed, which brings images for virtual machines: apt-get install skopeo")
    environment = {key: os.environ[key] for key in (*_PASSED_ON, *_SETTINGS) if key in os.environ}
    registries = os.environ.get("CONTAINERS_REGISTRIES_CONF")  # podman heeds it by itself, skopeo does not
    options = [f"--registries-conf={registries}"] if registries else []
    environment |= {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "TMPDIR": str(scratch)}
    try:
        done = subprocess.run(
            [program, *options, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired as error:
        raise _Failed(f"skopeo {arguments[0]} took more than {seconds:g} s") from error
    if done.returncode != 0:
        raise _Failed(_last_words(done.stderr.decode(errors="replace")) or f"skopeo failed with {done.returncode}")
    return done.stdout


def _last_words(said: str) -> str:
    """skopeo's complaint without the time and level before it."""
    lines = [line for line in said.strip().splitlines() if line.strip()]
    if not lines:
        return ""
    _, found, text = lines[-1].partition(' msg="')
    words = text.removesuffix('"').replace('\\"', '"') if found else lines[-1]
    return " ".join("".join(c for c in words if c.isprintable()).split())[-300:]


@contextmanager
def _scratch(directory: Path) -> Iterator[Path]:
    """A directory of our own; those of fetchers that died are removed, which their locks tell."""
    for left in directory.glob("fetch-*.partial"):
        with suppress(OSError):
            descriptor = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(descriptor)
    path = Path(tempfile.mkdtemp(prefix="fetch-", suffix=".partial", dir=directory))
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)
