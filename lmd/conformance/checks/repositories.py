"""CernVM-FS in machines: the repositories that a type names, and no others, wherever they are mounted.

They need a repository that this host can read: the first of `cvmfs_repositories` in [policy].
"""

from lmd.conformance.check import Check, check, expect, needs
from lmd.conformance.trial import Left, Trial

LOOK = """#!/bin/sh
cd /cvmfs || exit 1
ls -A >"$JOBOUTPUTS/names"
cd "$1" && ls -A | wc -l >"$JOBOUTPUTS/entries"
(: >"$1/lmc-probe") 2>/dev/null || (: >lmc-probe) 2>/dev/null || echo refused >"$JOBOUTPUTS/writing"
find . -type f | head -1 | while read -r file; do cat "$file" >/dev/null && echo read >"$JOBOUTPUTS/content"; done
grep -c " /cvmfs/$1 " /proc/self/mounts >"$JOBOUTPUTS/mounts"
exit 0
"""


def _named(trial: Trial) -> str:
    known = trial.ground.config.policy.cvmfs_repositories or ()
    needs(bool(known), "no repository is named in cvmfs_repositories of [policy], so none can be tried")
    return known[0]


async def _seen(trial: Trial, where: str) -> None:
    name = _named(trial)
    for user in ("0:0", "1000:1000"):
        left = await trial.run(
            entrypoint=["/bin/sh", "-c", LOOK, "sh", name],
            user=user,
            cvmfs_repositories=[name],
            cvmfs={"where": where},
            mb_per_processor=256,
        )
        _expect(left, name, user)


def _expect(left: Left, name: str, user: str) -> None:
    names = left.file("names").decode().split()
    expect(names == [name], f"user {user}: below /cvmfs is {names}, not {name} alone")
    expect(int(left.file("entries")) > 0, f"user {user}: {name} is empty")
    expect(left.file("writing") == b"refused\n", f"user {user}: {name} can be written")
    expect(left.file("content") == b"read\n", f"user {user}: no file of {name} could be read")


@check("a repository mounted on the host is seen by every user of the machine, read-only, and it alone")
async def repositories_of_the_host_are_seen(trial: Trial) -> None:
    await _seen(trial, "factory")


@check("a repository mounted inside the machine is seen by every user of it, read-only, and it alone")
async def repositories_inside_are_seen(trial: Trial) -> None:
    can = trial.ground.can
    needs(can.isolation == "container", "a virtual machine gets what the host has mounted")
    needs(can.before_start, can.absent.get("before_start", "there is no step before the payload"))
    await _seen(trial, "machine")


@check("a machine whose type names no repository has none")
async def no_repositories_unasked(trial: Trial) -> None:
    _named(trial)
    script = '#!/bin/sh\nls -A /cvmfs >"$JOBOUTPUTS/names" 2>/dev/null\nexit 0\n'
    expect(not (await trial.run(script)).file("names"), "there is something below /cvmfs")


CHECKS: tuple[Check, ...] = (
    repositories_of_the_host_are_seen,
    repositories_inside_are_seen,
    no_repositories_unasked,
)
