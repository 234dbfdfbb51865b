"""Images in Podman's store: present already, pulled, or loaded from an archive; each once, whoever asks together."""

import asyncio
import json
import os
import re
import tarfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from runtimes import archive_digests, archives
from runtimes.containers import streams
from runtimes.containers.engine import ANSWER_LIMIT, Answer, Engine, decoded
from runtimes.containers.names import LOADED, PULLED, given_back, ours, quoted, tag
from runtimes.contract import Image, ImageKind, Rejected
from runtimes.locks import held

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


async def ensure(engine: Engine, image: Image, locks: Path, architectures: frozenset[str]) -> str:
    """The id (`sha256:…`) of the image, which is now in the store.

    Raises `Rejected` if there is no such image, if it is damaged or for none of the `architectures`, `Unavailable` if
    the engine did not answer; then the store is as it was before.
    """
    if image.kind is ImageKind.ROOT_DIRECTORY:
        raise ValueError("a root directory is used in place and is not in the store")
    async with held(locks, f"image {image.location}", seconds=PULL_SECONDS):
        if image.kind is ImageKind.REFERENCE:
            return await _reference(engine, image, architectures)
        return await _archive(engine, image, architectures)


async def _reference(engine: Engine, image: Image, architectures: frozenset[str]) -> str:
    wanted = image.location.removeprefix("docker://")
    found = await _inspect(engine, wanted)
    present = f"sha256:{found['Id']}" if found else None
    if image.pull == "never" or (present and image.pull == "missing"):
        if found is None or present is None:
            raise Rejected(f"image {wanted} is not in podman's store and pull is never")
        if complaint := archives.foreign(wanted, str(found.get("Architecture") or ""), architectures):
            raise complaint
        return present
    if failure := _pull_complaint(await _pull(engine, wanted), wanted):
        raise failure
    found = await _inspect(engine, wanted)
    if found is None:
        raise Rejected(f"image {wanted}: pulled, but podman does not know it")
    image_id = f"sha256:{found['Id']}"
    _, at, pinned = wanted.partition("@")
    if at and not any(str(name).endswith(f"@{pinned}") for name in found.get("RepoDigests") or ()):
        raise Rejected(f"image {wanted}: the registry gave another image, {found.get('Digest')}")
    if complaint := archives.foreign(wanted, str(found.get("Architecture") or ""), architectures):
        if image_id != present:
            await engine.call("DELETE", f"/images/{_quoted(wanted)}")
        raise complaint
    if image_id != present:  # what was there before is not ours to prune
        await _tag(engine, image_id, PULLED)
    return image_id


async def _pull(engine: Engine, name: str) -> Answer:
    """Podman's answer to a pull. A caller who gives up cuts the connection, at which Podman gives up, too."""
    stop = streams.Stop()
    params = {"reference": name, "policy": "always"}

    def read() -> Answer:
        with engine.stream("POST", "/images/pull", params=params, seconds=PULL_SECONDS) as answer:
            stop.answer = answer
            text = b"" if stop.asked else answer.raw.read(ANSWER_LIMIT)
            return engine.answer(answer.status_code, decoded(text))

    try:
        return await engine.run(read)
    except asyncio.CancelledError:
        stop.now()
        raise


def _pull_complaint(answer: Answer, name: str) -> Exception | None:
    """A pull answers 200 even when it fails; its last line of JSON says so."""
    if answer.status != 200:
        return answer.fault(f"pull {name}")
    lines = [answer.body] if isinstance(answer.body, dict) else str(answer.body).splitlines()
    for line in lines:
        report = line if isinstance(line, dict) else _json(line)
        if report.get("error"):
            return replace(answer, status=500, body={"message": report["error"]}).fault(f"pull {name}")
    return None


def _json(line: str) -> dict[str, object]:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


async def _archive(engine: Engine, image: Image, architectures: frozenset[str]) -> str:
    path = Path(image.location)
    described = await engine.run(archives.describe, image.kind, path)
    if complaint := archives.foreign(str(path), described.architecture, architectures):
        raise complaint
    if present := await _id(engine, described.image_id):
        return present
    await engine.run(archive_digests.verify, image.kind, path)
    before = await _names(engine)
    stream = (lambda: _layout_stream(path)) if image.kind is ImageKind.OCI_LAYOUT else (lambda: path.open("rb"))
    answer = await engine.upload("/images/load", stream, seconds=LOAD_SECONDS)
    if answer.status != 200:
        raise replace(answer, body={"message": _of_kind(answer.message, image.kind)}).fault(f"load {path}")
    if await _id(engine, described.image_id) is None:
        raise Rejected(f"image {path}: podman loaded it as another image than {described.image_id}")
    await _tag(engine, described.image_id, LOADED)
    brought = answer.body.get("Names") if isinstance(answer.body, dict) else None
    await _restore(engine, [str(name) for name in brought or ()], before)
    return described.image_id


def _of_kind(message: str, kind: ImageKind) -> str:
    """Podman tries each form of archive and says what is wrong with all of them; this is what is wrong with ours."""
    form = "oci-archive" if kind is ImageKind.OCI_LAYOUT else str(kind)
    found = re.search(rf"\* {form}: (.*?)(?: \* |$)", message)
    return found[1] if found else message


async def _restore(engine: Engine, brought: list[str], before: dict[str, str]) -> None:
    """Take away the names that an archive brought along; one that was another image's is that image's again."""
    for repository, tagged, previous in given_back(brought, before):
        name = f"{repository}:{tagged}"
        path = f"/images/{previous}/tag" if previous else f"/images/{_quoted(name)}/untag"
        answer = await engine.call("POST", path, params={"repo": repository, "tag": tagged})
        if answer.status not in (200, 201, 404):
            raise answer.fault(f"give back the name {name}")


async def _tag(engine: Engine, image_id: str, repository: str) -> None:
    """Mark an image as one that we brought into the store."""
    params = {"repo": repository, "tag": tag(image_id)}
    answer = await engine.call("POST", f"/images/{_quoted(image_id)}/tag", params=params)
    if answer.status not in (200, 201):
        raise answer.fault(f"mark image {image_id}")


async def _names(engine: Engine) -> dict[str, str]:
    """The id of the image behind each name in the store."""
    return {name: str(found["Id"]) for found in await _all(engine) for name in found.get("RepoTags") or ()}


async def _all(engine: Engine) -> list[dict[str, Any]]:
    answer = await engine.call("GET", "/images/json")
    if answer.status != 200:
        raise answer.fault("list images")
    return list(answer.body or ())


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
    found = await _inspect(engine, name)
    return f"sha256:{found['Id']}" if found else None


async def _inspect(engine: Engine, name: str) -> dict[str, Any] | None:
    answer = await engine.call("GET", f"/images/{_quoted(name)}/json")
    if answer.status == 404:
        return None
    if answer.status != 200:
        raise answer.fault(f"look at image {name}")
    return dict(answer.body)


def _quoted(name: str) -> str:
    return quoted(name).removeprefix("sha256:")


async def listed(engine: Engine) -> dict[str, int]:
    """Images that we loaded or pulled, by name, with their size in bytes."""
    return {
        name: int(found["Size"]) for found in await _all(engine) for name in found.get("RepoTags") or () if ours(name)
    }


async def remove(engine: Engine, reference: str) -> None:
    """Remove one image of ours; absent is success. Raises `Rejected` for one that is not ours or is in use.

    An image that we pulled has the name in the registry too: that goes as well, unless somebody has given it more.
    """
    if not ours(reference):
        raise Rejected(f"image {reference} was not brought by lmd and is left alone")
    found = next((i for i in await _all(engine) if reference in (i.get("RepoTags") or ())), None)
    if found is None:
        return
    if found.get("Containers"):
        raise Rejected(f"image {reference} is in use by {found['Containers']} container(s)")
    others = [str(name) for name in found.get("Names") or found.get("RepoTags") or () if name != reference]
    pulled = others if reference.startswith(f"{PULLED}:") and len(others) == 1 else []
    for name in [*pulled, reference]:
        answer = await engine.call("DELETE", f"/images/{_quoted(name)}")
        if answer.status not in (200, 404):
            raise answer.fault(f"remove image {name}")
