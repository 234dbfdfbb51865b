"""Repositories handed to one machine: mounted on the host and bound, or mounted in the machine's own namespaces."""

import asyncio
import contextlib
import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from lmd.config.chosen import Chosen
from lmd.config.models import Config, MachineType
from lmd.config.virtual import SELF_STARTING
from lmd.environment.directory import Directory, write
from lmd.places import Places
from lmd.repositories.provider import ALL, NoRepositories, cache, provider, reader_file
from lmd.repositories.telling import told
from runtimes.contract import Exhausted, Image, ImageKind, Mount, Rejected, Seen, Spec, Started, Tmpfs

if TYPE_CHECKING:
    from cvmfs.hosting import Provider

ROOT = PurePosixPath("/cvmfs")
_POINTS_BYTES = 1_000_000
_NOTED = ("repositories", "inside", "base", "root", "virtual")
_RECORD, _PIDS = "cvmfs.json", "cvmfs"


@dataclass(frozen=True, slots=True)
class Handed:
    """What a machine is given: `repositories`, by `mounts` of the host's or mounted in it by the provider `inside`.

    `base` is where the embedded reader's own mounts are, if they are the host's; `root` is the repository that holds
    the machine's root, which the host has mounted; `virtual`: the machine gets them by virtiofs;
    `told`: what its own client has to know, where it has one.
    """

    repositories: tuple[str, ...] = ()
    mounts: tuple[Mount, ...] = ()
    inside: str = ""
    base: str = ""
    root: str = ""
    virtual: bool = False
    told: Mapping[str, str] = field(default_factory=dict)

    @property
    def tmpfs(self) -> tuple[Tmpfs, ...]:
        """Where mount points can be made, whatever the image holds."""
        whole = any(mount.target == ROOT for mount in self.mounts)
        if whole or not (self.inside or self.mounts):
            return ()
        return (Tmpfs(target=ROOT, size_bytes=_POINTS_BYTES),)


async def handed(type_: MachineType, image: Image, config: Config, places: Places) -> Handed:
    """Have the type's repositories mounted on this host, or see that they can be mounted in the machine.

    Raises `NoRepositories` with the reason, which names the type.
    """
    names = tuple(dict.fromkeys(type_.cvmfs_repositories))
    root = _of_root(image, config, places)
    if not names and not root:
        return Handed()
    try:
        if type_.machine_model in SELF_STARTING:
            return Handed(told=await asyncio.to_thread(told, names, config.cvmfs, places))
        in_place = image.kind is ImageKind.ROOT_DIRECTORY and type_.isolation == "container"
        if names and in_place and not await asyncio.to_thread(_has_root, image):
            raise NoRepositories(f"CernVM-FS: the root directory {image.location} has no directory /cvmfs to mount on")
        by = provider(config.cvmfs, places)
        if type_.cvmfs_where == "machine":
            return Handed(names, inside=by.name, base=str(getattr(by, "base", "")) if root else "", root=root)
        found = [await asyncio.to_thread(_mount, by, name) for name in names]
    except NoRepositories as error:
        raise NoRepositories(f"machinetype {type_.name}: {error}") from error
    return Handed(names, tuple(found), base=str(getattr(by, "base", "")), root=root, virtual=type_.isolation == "vm")


def _of_root(image: Image, config: Config, places: Places) -> str:
    """The repository in which a root directory lies; "" if it lies elsewhere, or where nobody can mount."""
    if image.kind is not ImageKind.ROOT_DIRECTORY:
        return ""
    try:
        below = Path(image.location).relative_to(provider(config.cvmfs, places).root)
    except (NoRepositories, ValueError):
        return ""
    return below.parts[0] if below.parts else ""


def _has_root(image: Image) -> bool:
    return (Path(image.location) / "cvmfs").is_dir()


def _mount(by: "Provider", name: str) -> Mount:
    from cvmfs.errors import CvmfsError
    from cvmfs.hosting import shared

    try:
        if name == ALL:
            by.root.mkdir(mode=0o755, parents=True, exist_ok=True)
            return Mount(source=by.root, target=ROOT, propagate=shared(by.root))
        where = by.ensure(name, os.getpid())
        if by.name == "embedded" and os.geteuid() != 0 and not shared(where.parent):
            raise NoRepositories(
                f"CernVM-FS repository {name}: mounted, and rootless engines have mount namespaces of their own that do"
                ' not see it, as / is not a shared mount here: set cvmfs.where = "machine", or: mount --make-rshared /'
            )
    except (CvmfsError, OSError) as error:
        raise NoRepositories(f"CernVM-FS repository {name}: {error}") from error
    return Mount(source=where, target=ROOT / name, propagate=shared(where))


def note(given: Handed, directory: Directory) -> None:
    """Beside the machine's other files, so that whoever looks after it later knows. Raises `DirectoryError`."""
    if given.repositories or given.root:
        text = json.dumps({name: getattr(given, name) for name in _NOTED})
        write(directory.path / _RECORD, text.encode(), 0o600)


def _recorded(directory: Directory) -> Handed:
    try:
        found = json.loads((directory.path / _RECORD).read_text())
        more = {name: found[name] for name in _NOTED[1:] if name in found}
        return Handed(tuple(found["repositories"]), **more)
    except (OSError, ValueError, KeyError, TypeError):
        return Handed()


def with_step(spec: Spec, directory: Directory, config: Config, places: Places) -> Spec:
    """The spec with the mounts inside the machine as a step before its payload, after any other such step."""
    given = _recorded(directory)
    names, by = given.repositories, given.inside
    if not by:
        return spec
    before = spec.before_start

    async def step(started: Started) -> None:
        if before is not None:
            await before(started)
        file = await asyncio.to_thread(reader_file, config.cvmfs, places)
        words = [_words(name, by, started.pid, file, directory, places) for name in names]
        await asyncio.gather(*(asyncio.to_thread(_inside, name, word) for name, word in zip(names, words, strict=True)))

    return replace(spec, before_start=step)


def _words(name: str, by: str, pid: int, file: Path, directory: Directory, places: Places) -> list[str]:
    """The command that mounts one repository inside, and then serves it in a process that ends with the machine."""
    pids, log = directory.path / _PIDS, places.run / "cvmfs" / "log"
    for folder in (pids, log):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    words = [sys.executable, "-m", "cvmfs", "mount", name, str(ROOT / name), "--inside", str(pid)]
    words += ["--pid-file", str(pids / name), "--log", str(log / name)]
    if by == "system":
        from cvmfs.hosting import client

        return [*words, "--client", client() or "cvmfs2", "--cache", str(cache(places).with_name("cvmfs2"))]
    return [*words, "--config", str(file)]


def _inside(name: str, words: list[str]) -> None:
    from cvmfs.errors import BadConfiguration, CvmfsError
    from cvmfs.hosting import run_reader

    try:
        run_reader(words, name)
    except CvmfsError as error:
        kind = Rejected if isinstance(error, BadConfiguration) else Exhausted
        raise kind(f"CernVM-FS repository {name}: {error}") from error


async def keep(seen: Seen, directory: Directory, config: Config, places: Places) -> str:
    """Let the host's mounts live as long as the machine does. Returns what is wrong with those that it sees, or "".

    An engine in a mount namespace of its own may not see what was mounted after its start: its machines then have
    empty directories.
    """
    given = _recorded(directory)
    bound, pid = () if given.inside else given.repositories, seen.pid
    if not (bound or given.root):
        return ""

    def take() -> str:
        from cvmfs.hosting import shared

        found = provider(config.cvmfs, places)
        for name in {*bound, given.root} - {ALL, ""}:
            if pid:
                found.keep(name, pid)
        if ALL in bound and not shared(found.root):
            return _not_passed_on(found.root)
        if not pid:  # it has ended already
            return ""
        below = found.root if given.virtual else Path(ROOT)
        unseen = [name for name in bound if name != ALL and not _sees(pid, str(below / name), given.virtual)]
        if not unseen:
            return ""
        return (
            f"does not see {', '.join(unseen)}: the engine has a mount namespace of its own, in which it is not mounted"
            ' (set cvmfs.where = "machine", or start the engine with MountFlags=shared)'
        )

    try:
        return await asyncio.to_thread(take)
    except (NoRepositories, OSError):
        return ""


def _not_passed_on(root: Path) -> str:
    return (
        f"sees of {ROOT} only what was mounted there when it started, as {root} is not a shared mount"
        f" (mount --bind {root} {root}; mount --make-rshared {root})"
    )


def _sees(pid: int, where: str, virtual: bool) -> bool:
    """Whether a repository is mounted there in the namespace of this process; where it cannot be told it counts as
    seen. A hypervisor has a copy of the namespace in which its virtiofsd is."""
    try:
        lines = Path(f"/proc/{pid}/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return True
    kinds = [line.partition(" - ")[2].split(" ")[0] for line in lines if line.split(" ")[4] == where]
    return kinds[-1].startswith("fuse") if kinds else not virtual


def end_clients(directory: Directory, leaving: int | None = None) -> None:
    """Kill what still serves a mount inside the machine, which is gone: one that was stopped cannot end by itself.
    Mounts of the host of which the server was killed go too, if no other machine has them; process `leaving` has none
    any more."""
    given = _recorded(directory)
    if not given.repositories and not given.root:
        return
    from cvmfs.hosting import kill_server, sweep

    folder = directory.path / _PIDS
    if folder.is_dir():
        for file in folder.iterdir():
            kill_server(file)
        shutil.rmtree(folder, ignore_errors=True)
    if given.base:
        with contextlib.suppress(OSError):
            sweep(Path(given.base), leaving)


async def at_hand(chosen: Chosen, places: Places) -> Chosen:
    """The same, with a root image that lies in CernVM-FS mounted, and named by where it is on this host.

    Raises `NoRepositories`.
    """
    type_ = chosen.machinetype
    made = await located(type_, chosen.config, places)
    if made is type_:
        return chosen
    config = replace(chosen.config, machinetypes={**chosen.config.machinetypes, type_.name: made})
    return replace(chosen, config=config, machinetype=made)


async def located(type_: MachineType, config: Config, places: Places) -> MachineType:
    """The type with its root image by where it is on this host, mounted if it lies in CernVM-FS.

    Raises `NoRepositories`.
    """
    name, inner = in_repository(type_.root_image)
    if not name:
        return type_
    try:
        by = provider(config.cvmfs, places)
        mount = await asyncio.to_thread(_mount, by, name)
    except NoRepositories as error:
        raise NoRepositories(f"machinetype {type_.name}: root_image: {error}") from error
    return type_.model_copy(update={"root_image": f"{mount.source}/{inner}".rstrip("/")})


def in_repository(root_image: str) -> tuple[str, str]:
    """The repository of a root image and the path in it; two empty texts if it is elsewhere."""
    parts = PurePosixPath(root_image).parts
    if parts[:2] != ("/", "cvmfs") or len(parts) < 4:
        return "", ""
    return parts[2], "/".join(parts[3:])
