"""A root file system of Debian packages, made by mmdebstrap from the distribution's mirrors; no registry is asked.

As root in mode `root`, else in mode `unshare`, which needs a range of user ids for the user.
"""

import getpass
import os
import re
import shutil
import signal
import subprocess
import tarfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from images.built import Package
from images.entries import Kind, Tree, from_tar
from images.errors import ImageError
from images.kinds.source import Progress, RootTree, Work
from images.recipe import Recipe, RecipeSettings

_SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PASSED_ON = ("http_proxy", "https_proxy", "no_proxy", "ftp_proxy", "all_proxy", "HOME", "TMPDIR")
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_MERGED_USR = Path("/usr/share/mmdebstrap/hooks/merged-usr")
_STATUS = "var/lib/dpkg/status"
_STATUS_LIMIT = 100_000_000
_COMPLAINT = re.compile(r"^(E: |dpkg: error|Err:)")
_OF_THE_BUILD = ("var/cache/apt/archives/partial", "var/lib/apt/lists/partial")
"""Whose they are depends on whether apt's own user could reach the place of the build; apt makes them when needed."""
_LEFTOVERS = ("var/cache/apt/", "var/lib/apt/lists/", "var/log/")
_SECONDS_TO_CLEAN_UP = 20
_STEPS = {
    "running apt-get update": "reading the mirror's package lists",
    "downloading packages": "downloading packages",
    "extracting archives": "unpacking packages",
    "installing essential packages": "installing essential packages",
    "installing remaining packages": "installing the other packages",
    "cleaning package lists": "cleaning up",
    "creating tarball": "packing the root file system",
}
"""mmdebstrap's words for its steps, by how they begin, and ours; what is not here is not shown."""


@dataclass(frozen=True, slots=True)
class DebianSource:
    """Runs mmdebstrap, found along the PATH `search`; proxies are taken from `environ`; `uid` is the caller's."""

    environ: Mapping[str, str]
    uid: int
    subuid: Path = Path("/etc/subuid")
    keyring: Path = _KEYRING
    search: str = _SEARCH

    def missing(self) -> str | None:
        """What this host lacks, and the line to type; None if nothing."""
        packages = [] if self._which("mmdebstrap") else ["mmdebstrap"]
        if not self.keyring.exists():
            packages.append("debian-archive-keyring")
        if self.uid and not self._which("newuidmap"):
            packages.append("uidmap")
        if packages:
            return f"not installed: {', '.join(packages)}: apt-get install {' '.join(packages)}"
        if self.uid and not self._has_range():
            add = "usermod --add-subuids 100000-165535 --add-subgids 100000-165535"
            return f"{self.subuid}: no user ids are set aside for you; as root: {add} {_user(self.uid)}"
        return None

    def inputs(self) -> tuple[str, ...]:
        """None: the mirror decides, and what it gave is recorded."""
        return ()

    @contextmanager
    def root(self, recipe: Recipe, work: Work) -> Iterator[RootTree]:
        """Make the tree as a tar file in the scratch directory. Raises ImageError with mmdebstrap's own complaint."""
        if lacking := self.missing():
            raise ImageError(lacking)
        target = work.scratch / "root.tar"
        environment = {key: self.environ[key] for key in _PASSED_ON if key in self.environ}
        environment |= {"PATH": self.search, "LC_ALL": "C.UTF-8", "SOURCE_DATE_EPOCH": str(work.epoch)}
        if self.uid == 0:  # what a killed build leaves there is removed with the scratch directory
            environment["TMPDIR"] = str(work.scratch)
        _run(_command(recipe.settings, target, self.uid), environment, work, recipe.name)
        work.progress("reading the root file system")
        with tarfile.open(target, "r:") as archive:
            tree = from_tar(archive)
            packages = _packages(tree)
            yield RootTree(_without_traces(tree), packages)

    def _which(self, program: str) -> str | None:
        return shutil.which(program, path=self.search)

    def _has_range(self) -> bool:
        try:
            lines = self.subuid.read_text(errors="replace").splitlines()
        except OSError:
            return False
        return bool({line.split(":")[0] for line in lines} & {str(self.uid), _user(self.uid)})


def _user(uid: int) -> str:
    if uid == os.getuid():
        with suppress(KeyError, OSError):
            return getpass.getuser()
    return str(uid)


def _command(settings: RecipeSettings, target: Path, uid: int) -> list[str]:
    # usr-is-merged, with the hook that merges /usr first, saves usrmerge and with it the whole of Perl (50 MB).
    merged = [f"--hook-directory={_MERGED_USR}", "--include=usr-is-merged"] if _MERGED_USR.is_dir() else []
    return [
        "mmdebstrap",
        f"--mode={'unshare' if uid else 'root'}",
        "--format=tar",
        f"--variant={settings.variant}",
        *merged,
        *([f"--include={','.join(settings.packages)}"] if settings.packages else []),
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in settings.leave_out),
        *(f"--dpkgopt=path-include={pattern}" for pattern in settings.keep),
        "--",
        str(settings.suite),
        str(target),
        *settings.mirrors,
    ]


def _run(command: list[str], environment: dict[str, str], work: Work, name: str) -> None:
    """Run mmdebstrap to its end; ended early, it is told to clean up, and everything it started goes with it."""
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        pass_fds=work.held,
        cwd="/",
    )
    try:
        complaint = _follow(process, work.progress)
        if process.wait() != 0:
            raise ImageError(f"image {name}: mmdebstrap failed: {complaint or f'exit code {process.returncode}'}")
    finally:
        if process.poll() is None:
            _end(process)
        if process.stderr is not None:
            process.stderr.close()


def _follow(process: "subprocess.Popen[bytes]", progress: Progress) -> str:
    """Pass its steps on until it closes its output; what it complained of."""
    lines: deque[str] = deque(maxlen=1000)
    for raw in iter(lambda: process.stderr.readline(10_000) if process.stderr else b"", b""):
        line = "".join(c for c in raw.decode(errors="replace").strip() if c.isprintable())[:300]
        for step in (ours for theirs, ours in _STEPS.items() if line.startswith(f"I: {theirs}")):
            progress(step)
        lines.append(line)
    return complaint_of(lines)


def complaint_of(lines: Iterable[str]) -> str:
    """What to show of mmdebstrap's output: the first complaint, which the later ones follow from; else its last words.

    Warnings and steps are no last words.
    """
    said = [line for line in lines if line and not line.startswith(("I: ", "W: "))]
    complaints = (line.removeprefix("E: ") for line in said if _COMPLAINT.match(line))
    return next(complaints, said[-1] if said else "")


def _end(process: "subprocess.Popen[bytes]") -> None:
    for ending in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, ending)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_SECONDS_TO_CLEAN_UP)
            return


def _without_traces(tree: Tree) -> Tree:
    """The tree without what is in /dev, and without the lists, archives and logs that the build left."""
    return {
        name: entry
        for name, entry in tree.items()
        if not name.startswith(("dev/", *_OF_THE_BUILD))
        and (entry.kind is Kind.DIRECTORY or not name.startswith(_LEFTOVERS))
    }


def _packages(tree: Tree) -> tuple[Package, ...]:
    """The packages by dpkg's own record (deb822)."""
    status = tree.get(_STATUS)
    if status is None or status.content is None:
        raise ImageError(f"/{_STATUS}: is missing in what mmdebstrap made")
    with status.content() as stream:
        text = stream.read(_STATUS_LIMIT).decode(errors="replace")
    found = []
    for paragraph in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and line[0] != " ")
        if fields.get("Status", "").endswith(" installed"):
            found.append(Package(fields["Package"], fields["Version"], fields["Architecture"]))
    return tuple(sorted(found))
