"""Images in Podman's store: present already, pulled, or loaded from an archive; each once, whoever asks together."""

import json
import os
import tarfile
import threading
from pathlib import Path
from typing import IO

from runtimes import archives
from runtimes.contract import Image, ImageKind, Rejected
from runtimes.locks import held
from runtimes.podman.engine import Answer, Engine

OURS = "localhost/lmd"
PULL_SECONDS = 3600.0
LOAD_SECONDS = 1800.0


UNKNOWN = ("image not known", "no such image", "image name or path")
"""What Podman says of an image that is not in its store."""


def name(image: Image) -> str | None:
    """By what name the image can be asked for as if it were in the store; None if it has to be fetched anyway.

    Raises `Rejected` for an archive that cannot be read.
    """
    if image.kind is ImageKind.REFERENCE:
        return None if image.pull == "always" else _quoted(image.location.removeprefix("docker://"))
    return archives.describe(image.kind, Path(image.location)).image_id.removeprefix("sha256:")


async def ensure(engine: Engine, image: Image, locks: Path) -> str:
    """The id (`sha256:…`) of the image, which is now in the store.

    Raises `Rejected` if there is no such image, `Unavailable` if the engine did not answer.
    """
    if image.kind is ImageKind.ROOT_DIRECTORY:
        raise ValueError("a root directory is used in place and is not in the store")
    async with held(locks, f"image {image.location}", seconds=PULL_SECONDS):
        if image.kind is ImageKind.REFERENCE:
            return await _reference(engine, image)
        return await _archive(engine, image)


async def _reference(engine: Engine, image: Image) -> str:
    wanted = image.location.removeprefix("docker://")
    present = await _id(engine, wanted)
    if image.pull == "never" or (present and image.pull == "missing"):
        if present is None:
            raise Rejected(f"image {wanted} is not in podman's store and pull is never")
        return present
    params = {"reference": wanted, "policy": "always", "quiet": True}
    answer = await engine.call("POST", "/images/pull", params=params, seconds=PULL_SECONDS)
    if complaint := _pull_complaint(answer):
        raise complaint
    found = await _id(engine, wanted)
    if found is None:
        raise Rejected(f"image {wanted}: pulled, but podman does not know it")
    return found


def _pull_complaint(answer: Answer) -> Exception | None:
    """A pull answers 200 even when it fails; its last line of JSON says so."""
    if answer.status != 200:
        return answer.fault("pull the image")
    lines = [answer.body] if isinstance(answer.body, dict) else str(answer.body).splitlines()
    for line in lines:
        report = line if isinstance(line, dict) else _json(line)
        if report.get("error"):
            return Answer(500, {"message": report["error"]}).fault("pull the image")
    return None


def _json(line: str) -> dict[str, object]:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


async def _archive(engine: Engine, image: Image) -> str:
    path = Path(image.location)
    described = await engine.run(archives.describe, image.kind, path)
    if present := await _id(engine, described.image_id):
        return present
    stream = (lambda: _layout_stream(path)) if image.kind is ImageKind.OCI_LAYOUT else (lambda: path.open("rb"))
    answer = await engine.upload("/images/load", stream, seconds=LOAD_SECONDS)
    if answer.status != 200:
        raise answer.fault(f"load {path}")
    if await _id(engine, described.image_id) is None:
        raise Rejected(f"image {path}: podman loaded it as another image than {described.image_id}")
    tag = {"repo": OURS, "tag": described.image_id.removeprefix("sha256:")[:12]}
    await engine.call("POST", f"/images/{described.image_id}/tag", params=tag)
    return described.image_id


def _layout_stream(path: Path) -> IO[bytes]:
    """An OCI layout directory as the stream of a tar file, written by a thread while it is read."""
    reader, writer = os.pipe()

    def pack() -> None:
        try:
            with os.fdopen(writer, "wb") as out, tarfile.open(fileobj=out, mode="w|") as archive:
                for name in ("oci-layout", "index.json", "blobs"):
                    archive.add(path / name, arcname=name)
        except OSError:
            return  # the engine stopped reading, or a file is missing: its answer says so

    threading.Thread(target=pack, daemon=True).start()
    return os.fdopen(reader, "rb")


async def _id(engine: Engine, name: str) -> str | None:
    answer = await engine.call("GET", f"/images/{_quoted(name)}/json")
    if answer.status == 404:
        return None
    if answer.status != 200:
        raise answer.fault(f"look at image {name}")
    return f"sha256:{answer.body['Id']}"


def _quoted(name: str) -> str:
    if not name or any(ch.isspace() or ch in "?#%" or not ch.isprintable() for ch in name) or ".." in name:
        raise Rejected(f"image {name!r}: not an image's name")
    return name.removeprefix("sha256:") if name.startswith("sha256:") else name


async def listed(engine: Engine) -> dict[str, int]:
    """Images that we loaded, by name, with their size in bytes."""
    answer = await engine.call("GET", "/images/json", params={"filters": json.dumps({"reference": [f"{OURS}"]})})
    if answer.status != 200:
        raise answer.fault("list images")
    return {name: int(found["Size"]) for found in answer.body or [] for name in found.get("RepoTags") or ()}


async def remove(engine: Engine, reference: str) -> None:
    """Remove one image of ours; absent is success. Raises `Rejected` for one that is not ours or is in use."""
    if not reference.startswith(f"{OURS}:"):
        raise Rejected(f"image {reference} was not loaded by lmd and is left alone")
    answer = await engine.call("DELETE", f"/images/{_quoted(reference)}")
    if answer.status not in (200, 404):
        raise answer.fault(f"remove image {reference}")
