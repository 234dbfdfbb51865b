"""Images in Docker's store: present already, pulled, or loaded from an archive; each once, whoever asks together."""

import asyncio
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from typing import IO, Any, cast

from docker import auth
from docker.utils import parse_repository_tag

from runtimes import archive_digests, archives
from runtimes.containers import streams
from runtimes.containers.engine import ANSWER_LIMIT, Answer, Engine, decoded
from runtimes.containers.names import LOADED, PULLED, given_back, ours, quoted, tag
from runtimes.contract import Image, ImageKind, Rejected
from runtimes.locks import held

PULL_SECONDS = 3600.0
LOAD_SECONDS = 1800.0
END_SECONDS = 10.0
SCHEMES = {ImageKind.OCI_ARCHIVE: "oci-archive", ImageKind.OCI_LAYOUT: "oci"}
"""How skopeo calls what Docker cannot load by itself."""
Found = dict[str, Any]
"""An image as Docker's `inspect` shows it."""


async def ensure(engine: Engine, image: Image, run_dir: Path, architecture: str) -> Found:
    """The image, which is now in the store, and is for `architecture`.

    Raises `Rejected` if there is no such image or it is damaged, `Unavailable` if the engine did not answer.
    """
    if image.kind is ImageKind.REFERENCE:
        wanted = image.location.removeprefix("docker://")
        if image.pull != "always" and (found := await _fitting(engine, wanted, architecture)):
            return found
        if image.pull == "never":
            raise Rejected(f"image {wanted} is not in docker's store and pull is never")
        async with held(run_dir / "locks", f"image {image.location}", seconds=PULL_SECONDS):
            if image.pull != "always" and (found := await _fitting(engine, wanted, architecture)):
                return found  # whoever had the lock before us has pulled it
            return await _pulled(engine, wanted, architecture)
    path = Path(image.location)
    described = await engine.run(archives.describe, image.kind, path)
    if complaint := archives.foreign(str(path), described.architecture, frozenset({architecture})):
        raise complaint
    if found := await _loaded(engine, described.image_id):
        return found
    async with held(run_dir / "locks", f"image {image.location}", seconds=PULL_SECONDS):
        if found := await _loaded(engine, described.image_id):
            return found
        await engine.run(archive_digests.verify, image.kind, path)
        await _load(engine, image, described.image_id, run_dir)
    if found := await _loaded(engine, described.image_id):
        return found
    raise Rejected(f"image {path}: docker loaded it as another image than {described.image_id}")


async def _fitting(engine: Engine, name: str, architecture: str) -> Found | None:
    if found := await _inspect(engine, name):
        _fit(name, found, architecture)
    return found


def _fit(name: str, found: Found, architecture: str) -> None:
    if complaint := archives.foreign(name, str(found.get("Architecture") or ""), frozenset({architecture})):
        raise complaint


async def _loaded(engine: Engine, image_id: str) -> Found | None:
    """The image of an archive: by its id, or where the engine gives other ids (its containerd store) by our name."""
    return await _inspect(engine, image_id) or await _inspect(engine, f"{LOADED}:{tag(image_id)}")


async def _pulled(engine: Engine, wanted: str, architecture: str) -> Found:
    before = await _inspect(engine, wanted)
    if complaint := _complaint(await _pull(engine, wanted), f"pull {wanted}"):
        raise complaint
    found = await _inspect(engine, wanted)
    if found is None:
        raise Rejected(f"image {wanted}: pulled, but docker does not know it")
    new = before is None or before["Id"] != found["Id"]
    try:
        _fit(wanted, found, architecture)
        _, at, pinned = wanted.partition("@")
        if at and not any(str(name).endswith(f"@{pinned}") for name in found.get("RepoDigests") or ()):
            raise Rejected(f"image {wanted}: the registry gave another image, {found['Id']}")
    except Rejected:
        if new:
            await engine.call("DELETE", f"/images/{quoted(wanted)}")
        raise
    if new:  # what was there before is not ours to prune
        await _tag(engine, found["Id"], PULLED)
    return found


async def _pull(engine: Engine, name: str) -> Answer:
    """Docker's answer to a pull. A caller who gives up cuts the connection, at which Docker gives up, too."""
    repository, tagged = parse_repository_tag(quoted(name))
    params = {"fromImage": repository, "tag": tagged or "latest"}
    stop = streams.Stop()

    def read() -> Answer:
        registry, _ = auth.resolve_repository_name(repository)
        header = auth.get_config_header(engine.client(), registry)
        headers = {"X-Registry-Auth": header.decode() if isinstance(header, bytes) else header} if header else {}
        with engine.stream("POST", "/images/create", params=params, headers=headers, seconds=PULL_SECONDS) as answer:
            stop.answer = answer
            text = b"" if stop.asked else answer.raw.read(ANSWER_LIMIT)
            return engine.answer(answer.status_code, decoded(text))

    try:
        return await engine.run(read)
    except asyncio.CancelledError:
        stop.now()
        raise


def _reports(answer: Answer) -> Iterator[dict[str, Any]]:
    """The objects of a stream of JSON, one a line."""
    lines = [answer.body] if isinstance(answer.body, dict) else str(answer.body).splitlines()
    for line in lines:
        try:
            report = line if isinstance(line, dict) else json.loads(line)
        except ValueError:
            continue
        if isinstance(report, dict):
            yield report


def _complaint(answer: Answer, doing: str) -> Exception | None:
    """A pull or a load answers 200 even when it fails; a line of its JSON says so."""
    if answer.status != 200:
        return answer.fault(doing)
    error = next((report["error"] for report in _reports(answer) if report.get("error")), None)
    return replace(answer, status=500, body={"message": error}).fault(doing) if error else None


async def _load(engine: Engine, image: Image, image_id: str, run_dir: Path) -> None:
    path = Path(image.location)
    before = {name: str(found["Id"]) for found in await _all(engine) for name in found.get("RepoTags") or ()}
    if image.kind in SCHEMES:
        answer = await _converted(engine, SCHEMES[image.kind], path, f"{LOADED}:{tag(image_id)}", run_dir)
    else:
        answer = await engine.upload("/images/load", lambda: path.open("rb"), seconds=LOAD_SECONDS)
    if complaint := _complaint(answer, f"load {path}"):
        raise complaint
    if await _inspect(engine, image_id):
        await _tag(engine, image_id, LOADED)
    said = "".join(str(report.get("stream", "")) for report in _reports(answer)).splitlines()
    brought = [line.partition("Loaded image: ")[2] for line in said if line.startswith("Loaded image: ")]
    await _restore(engine, brought, before)


async def _converted(engine: Engine, scheme: str, path: Path, name: str, run_dir: Path) -> Answer:
    """Docker's answer to what skopeo makes of the image; nothing is written in between.

    Skopeo's own way into Docker passes over Docker's complaints. Raises `Rejected` with skopeo's last line.
    """
    with tempfile.TemporaryDirectory(dir=run_dir, prefix="load-") as directory:
        link = Path(directory) / "image"  # skopeo takes what follows a colon in a path for a name
        link.symlink_to(path.absolute())
        target = f"docker-archive:/dev/stdout:{name}"
        words = ["skopeo", "--insecure-policy", "copy", "--quiet", f"{scheme}:{link}", target]
        with tempfile.TemporaryFile(dir=directory) as errors:
            process = await engine.run(lambda: Popen(words, stdin=DEVNULL, stdout=PIPE, stderr=errors))
            try:
                answer = await engine.upload(
                    "/images/load", lambda: cast("IO[bytes]", process.stdout), seconds=LOAD_SECONDS
                )
                await asyncio.to_thread(process.wait, END_SECONDS)
            finally:
                process.kill()
                await asyncio.to_thread(process.wait)
            errors.seek(0)
            said = errors.read(10_000).decode(errors="replace").strip().splitlines()
    if process.returncode > 0 and not any("broken pipe" in line for line in said):  # that would be Docker's refusal
        return replace(answer, status=500, body={"message": said[-1] if said else "skopeo failed"})
    return answer


async def _restore(engine: Engine, brought: list[str], before: dict[str, str]) -> None:
    """Take away the names that an archive brought along; one that was another image's is that image's again."""
    for repository, tagged, previous in given_back(brought, before):
        if previous:
            params = {"repo": repository, "tag": tagged}
            answer = await engine.call("POST", f"/images/{previous}/tag", params=params)
        else:
            answer = await engine.call("DELETE", f"/images/{quoted(f'{repository}:{tagged}')}")
        if answer.status not in (200, 201, 404):
            raise answer.fault(f"give back the name {repository}:{tagged}")


async def _tag(engine: Engine, image_id: str, repository: str) -> None:
    """Mark an image as one that we brought into the store."""
    params = {"repo": repository, "tag": tag(image_id)}
    answer = await engine.call("POST", f"/images/{image_id}/tag", params=params)
    if answer.status != 201:
        raise answer.fault(f"mark image {image_id}")


async def _all(engine: Engine) -> list[Found]:
    answer = await engine.call("GET", "/images/json")
    if answer.status != 200:
        raise answer.fault("list images")
    return list(answer.body or ())


async def _inspect(engine: Engine, name: str) -> Found | None:
    answer = await engine.call("GET", f"/images/{quoted(name)}/json")
    if answer.status == 404:
        return None
    if answer.status != 200:
        raise answer.fault(f"look at image {name}")
    return dict(answer.body)


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
    found = await _inspect(engine, reference)
    if found is None:
        return
    filters = json.dumps({"ancestor": [found["Id"]]})
    users = await engine.call("GET", "/containers/json", params={"all": True, "filters": filters})
    if users.status != 200:
        raise users.fault(f"ask who uses image {reference}")
    if users.body:
        raise Rejected(f"image {reference} is in use by {len(users.body)} container(s)")
    others = [str(name) for name in found.get("RepoTags") or () if name != reference]
    digests = [str(name) for name in found.get("RepoDigests") or ()] if not others else []
    brought = reference.startswith(f"{PULLED}:")
    for name in [*(others if brought and len(others) == 1 else []), reference, *(digests if brought else ())]:
        answer = await engine.call("DELETE", f"/images/{quoted(name)}")
        if answer.status not in (200, 404):
            raise answer.fault(f"remove image {name}")
