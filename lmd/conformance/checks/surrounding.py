"""What is around the payload: its name, its disks, nothing of the host, and namespaces of its own where it asks."""

import re

from lmd.conformance.check import check, expect, needs
from lmd.conformance.trial import SECRETS, Trial
from runtimes.contract import Network

OURS = (
    "/etc/machinefeatures",
    "/etc/jobfeatures",
    "/var/spool/joboutputs",
    "/user_data",
    "/lmc-memory",
    "/lmc-scratch",
)
ENGINES = re.compile(
    r"/|/(proc|sys|dev)(/.*)?|/etc/(hosts|hostname|resolv\.conf|mtab)"
    r"|/run/\.containerenv|/run/secrets(/.*)?|/\.dockerenv"
)
"""Where engines mount things of their own."""

NEST = """#!/bin/sh
command -v unshare >/dev/null || { echo no-unshare >"$JOBOUTPUTS/nest"; exit 0; }
unshare -Urmpf /bin/sh -c '
    echo user-namespace
    mount -t proc proc /proc && read pid rest </proc/self/stat && [ "$pid" -lt 20 ] && echo fresh-proc
    cat "$MACHINEFEATURES/total_cpu" >/dev/null && echo features
    echo x >"$JOBOUTPUTS/from-inside" && echo joboutputs
' >"$JOBOUTPUTS/nest" 2>"$JOBOUTPUTS/errors"
exit 0
"""
NESTED = {"user-namespace", "fresh-proc", "features", "joboutputs"}

READ_ONLY = """#!/bin/sh
for path in /etc /root /usr /tmp "$JOBOUTPUTS"; do
    test -d "$path" || continue
    if (: >"$path/lmc-probe") 2>/dev/null; then echo "$path yes"; else echo "$path no"; fi
done >"$JOBOUTPUTS/writable"
"""

DISKS = """#!/bin/sh
for path in /lmc-memory /lmc-scratch; do
    ls -A "$path" | wc -l
    echo x >"$path/left" && cat "$path/left"
done >"$JOBOUTPUTS/disks" 2>&1
head -c 2000000 /dev/zero >/lmc-memory/large 2>/dev/null && echo unlimited >>"$JOBOUTPUTS/disks"
exit 0
"""


@check("the machine's host name is its id")
async def host_name_is_the_id(trial: Trial) -> None:
    left = await trial.portrait()
    name = left.report().text("hostname")
    expect(name == left.record.id, f"the host name is {name!r}, the id {left.record.id!r}")


@check("nothing of the host is mounted but the environment and what the engine needs itself")
async def nothing_else_of_the_host_is_mounted(trial: Trial) -> None:
    report = (await trial.portrait()).report()
    known = {*OURS, *(f"/lmc/{name}" for name in SECRETS)}
    foreign = [
        f"{mount.root} on {mount.target}"
        for mount in report.mounts()
        if mount.target not in known and not ENGINES.fullmatch(mount.target)
    ]
    expect(not foreign, f"the machine has {', '.join(foreign)}")


@check("the root file system can be written, and with read_only it cannot; joboutputs and /tmp can in either case")
async def read_only_is_read_only(trial: Trial) -> None:
    needs(trial.ground.can.read_only_root, trial.ground.can.absent.get("read_only_root", "not claimed"))
    for read_only, root in ((False, "yes"), (True, "no")):
        left = await trial.run(READ_ONLY, read_only=read_only)
        found = dict(line.split() for line in left.file("writable").decode().splitlines())
        for path in ({"/root", "/usr"} & set(found)) | {"/etc"}:  # not every image has the first two
            expect(found.get(path) == root, f"read_only = {read_only}: {path} is writable: {found.get(path)}")
        for path in ("/tmp", "/var/spool/joboutputs"):  # noqa: S108  the machine's
            expect(found.get(path) == "yes", f"read_only = {read_only}: {path} is writable: {found.get(path)}")


@check(
    "tmpfs and tmp_binds are there, writable for every user, and empty again in the next machine; tmpfs keeps its size"
)
async def disks_are_there_and_go(trial: Trial) -> None:
    needs(trial.ground.can.scratch, trial.ground.can.absent.get("scratch", "scratch is not claimed"))
    for user in ("0:0", "1000:1000"):
        left = await trial.run(
            entrypoint=["/bin/sh", "-c", DISKS],
            user=user,
            tmpfs={"/lmc-memory": 1_000_000},
            tmp_binds=["/lmc-scratch"],
        )
        said = left.file("disks").decode().split()
        expect(said == ["0", "x"] * 2, f"user {user}: the disks said {said}, not empty and writable twice, then full")


@check("with nested_containers the payload makes user, mount and pid namespaces and a fresh /proc, and sees all inside")
async def nested_containers_see_the_environment(trial: Trial) -> None:
    can = trial.ground.can
    needs(can.nested_containers, can.absent.get("nested_containers", "nested_containers is not claimed"))
    left = await trial.run(NEST, nested_containers=True)
    said = left.file("nest").decode()
    needs("no-unshare" not in said, "the image has no unshare")
    missing = NESTED - set(said.split())
    expect(not missing, f"{', '.join(sorted(missing))}: not possible inside: {left.file('errors')[-300:]!r}")


@check("network none is the loopback alone; with bridge there is an interface more")
async def network_is_what_the_type_asks(trial: Trial) -> str:
    script = '#!/bin/sh\nls /sys/class/net >"$JOBOUTPUTS/interfaces"\n'
    tried = [network for network in (Network.NONE, Network.BRIDGE) if network in trial.ground.can.networks]
    needs(bool(tried), trial.ground.can.absent.get("networks", "neither none nor bridge is claimed"))
    for network in tried:
        found = set((await trial.run(script, network=network.value)).file("interfaces").decode().split())
        expect("lo" in found, f"network {network} has no loopback, only {sorted(found)}")
        more = bool(found - {"lo"})
        expect(more is (network is Network.BRIDGE), f"network {network} has the interfaces {sorted(found)}")
    return f"tried: {', '.join(tried)}"


CHECKS = (
    host_name_is_the_id,
    nothing_else_of_the_host_is_mounted,
    read_only_is_read_only,
    disks_are_there_and_go,
    nested_containers_see_the_environment,
    network_is_what_the_type_asks,
)
