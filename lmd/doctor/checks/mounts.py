"""Whether file systems that are mounted later reach machines: the propagation of `/` and of /cvmfs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lmd.doctor.check import Asked, Check
from lmd.doctor.finding import Finding, note, ok, warning

CVMFS = "/cvmfs"


@dataclass(frozen=True, slots=True)
class Mounted:
    """One row of mountinfo: where, what kind, and whether mounts below it are passed on to peers."""

    point: str
    kind: str
    shared: bool


@dataclass(frozen=True, slots=True)
class Mounts:
    """`rows` are `/`, /cvmfs and what lies below that; `directory`: whether /cvmfs is there at all."""

    rows: Sequence[Mounted]
    directory: bool


def gather(asked: Asked) -> Mounts:
    """From mountinfo alone: a hung /cvmfs is not touched, its directory is looked for in its parent."""
    return Mounts(parsed(Path("/proc/self/mountinfo").read_text()), CVMFS in {str(p) for p in Path("/").iterdir()})


def parsed(mountinfo: str) -> list[Mounted]:
    """The rows that matter here (proc(5))."""
    rows = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        words = before.split()
        if words[4] in ("/", CVMFS) or words[4].startswith(f"{CVMFS}/"):
            rows.append(Mounted(words[4], after.split()[0], any(word.startswith("shared:") for word in words[6:])))
    return rows


def rule(mounts: Mounts) -> Iterator[Finding]:
    """The mount that holds /cvmfs has to be shared, or what autofs mounts later stays outside."""
    root = [row for row in mounts.rows if row.point == "/"]
    top = [row for row in mounts.rows if row.point == CVMFS]
    below = [row for row in mounts.rows if row.point.startswith(f"{CVMFS}/")]
    if not mounts.directory:
        if root and not root[-1].shared:
            yield note(
                "there is no /cvmfs on this host; `/` is not a shared mount, so one made here has to be shared itself",
                f"mkdir /cvmfs && {_share(bind=True)}",
            )
        else:
            yield note("there is no /cvmfs on this host")
        return
    holder = (top or root)[-1] if top or root else None
    if holder and holder.shared:
        autofs = " by autofs" if any(row.kind == "autofs" for row in top) else ""
        yield ok(f"/cvmfs is passed on to machines{autofs}; {len(below)} repositories are mounted now")
    elif top or below:
        yield warning(
            "/cvmfs is not a shared mount: repositories that are mounted later do not appear in machines, and Docker"
            " refuses the bind",
            _share(bind=not top),
        )
    else:
        yield note("/cvmfs is an empty directory on a mount that is not shared", _share(bind=True))


def _share(*, bind: bool) -> str:
    return ("mount --bind /cvmfs /cvmfs && " if bind else "") + "mount --make-rshared /cvmfs"


CHECK = Check("mounts", gather, rule)
