"""What a container may not do: privileges, user ids, networks, and namespaces of its own unless asked for."""

import os
import re
from pathlib import Path, PurePosixPath

from runtimes.conformance.bench import Bench
from runtimes.conformance.check import Violation, check, expect, needs
from runtimes.contract import Network, Seen, Spec, Tmpfs, UserNamespace

STATUS = "cat /proc/self/status"
NEST = """
command -v unshare >/dev/null || { echo no-unshare; exit 0; }
unshare -Urmpf /bin/sh -c '
    echo user-namespace
    mount -t proc proc /proc && read pid rest < /proc/self/stat && [ "$pid" -lt 20 ] && echo fresh-proc
    mkdir /lmc/fuse
    exec 3<>/dev/fuse && mount -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0 lmc /lmc/fuse && echo fuse
'
exit 0
"""
NESTED = {"user-namespace", "fresh-proc", "fuse"}


@check("the payload has no Linux capability at all")
async def no_capability_is_left(bench: Bench) -> None:
    await _container(bench)
    status = _status(await bench.inside(STATUS))
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        expect(int(status[name], 16) == 0, f"{name} is {status[name]}, not 0")


@check("the payload has the Linux capabilities that were asked for, and no other")
async def only_named_capabilities_are_left(bench: Bench) -> None:
    await _container(bench)
    status = _status(await bench.inside(STATUS, capabilities=frozenset({"CHOWN"})))
    expect(int(status["CapEff"], 16) == 1, f"CapEff is {status['CapEff']}, not 1 (CHOWN)")
    expect(int(status["CapBnd"], 16) == 1, f"CapBnd is {status['CapBnd']}, not 1 (CHOWN)")


@check("no new privileges can be gained, and a seccomp filter is in force")
async def privileges_cannot_be_gained(bench: Bench) -> None:
    await _container(bench)
    status = _status(await bench.inside(STATUS))
    expect(status.get("NoNewPrivs") == "1", f"NoNewPrivs is {status.get('NoNewPrivs')}, not 1")
    expect(status.get("Seccomp") == "2", f"Seccomp is {status.get('Seccomp')}, not 2 (a filter)")


@check("each machine has a range of user ids of its own, without the host's root")
async def user_ids_are_the_machines_own(bench: Bench) -> str:
    can = await bench.can()
    needs(can.user_namespace, can.absent.get("user_namespace", "user_namespace is not claimed"))
    await _container(bench)
    script = "cat /proc/self/uid_map; echo --; cat /proc/self/gid_map; echo --; sleep 60"
    specs = [bench.shell(script, user_namespace=UserNamespace.REQUIRED) for _ in range(2)]
    for spec in specs:
        await bench.runtime.create(spec)
    taken: list[range] = []
    for spec in specs:
        uids, gids = await _maps(bench, spec)
        for ids in (*uids, *gids):
            expect(0 not in ids, f"the map of machine {spec.id} holds the host's root: {ids}")
        expect(sum(map(len, uids)) > 1000, f"machine {spec.id} has only {sum(map(len, uids))} user ids")
        for ids in uids:
            crossed = [other for other in taken if max(ids.start, other.start) < min(ids.stop, other.stop)]
            expect(not crossed, f"machine {spec.id} shares user ids with another: {ids} and {crossed}")
        taken += uids
        seen = await bench.get(spec.id)
        expect(bool(seen.first_uid), f"machines tells first_uid {seen.first_uid}")
        if os.geteuid() == 0:  # the map is relative to the namespace above, which for others is not the host's
            expect(any(seen.first_uid in ids for ids in uids), f"first_uid {seen.first_uid} is not in {uids}")
    return ", ".join(f"{ids.start}-{ids.stop - 1}" for ids in taken)


@check("network none is the loopback alone")
async def network_none_is_loopback(bench: Bench) -> None:
    await _network(bench, Network.NONE)
    names = _interfaces(await bench.inside("cat /proc/net/dev", network=Network.NONE))
    expect(names <= {"lo"}, f"interfaces are {sorted(names)}, not lo alone")


@check("network bridge has an interface, in a namespace that is not the host's")
async def network_bridge_is_its_own(bench: Bench) -> None:
    await _network(bench, Network.BRIDGE)
    said = await bench.inside("readlink /proc/self/ns/net; cat /proc/net/dev", network=Network.BRIDGE)
    expect(bool(_interfaces(said) - {"lo"}), f"there is no interface but lo: {said!r}")
    if (await bench.can()).isolation == "container":  # another kernel may give its namespaces the same numbers
        expect(await _host_network(bench) not in said, "the machine is in the host's network namespace")


@check("network host is the host's")
async def network_host_is_the_hosts(bench: Bench) -> None:
    await _network(bench, Network.HOST)
    said = await bench.inside("readlink /proc/self/ns/net", network=Network.HOST)
    host = await _host_network(bench)
    expect(host in said, f"the machine is in {said.strip()}, the host in {host}")


@check("nested containers, when asked for: user, mount and pid namespaces, a fresh /proc and FUSE")
async def nested_containers_work(bench: Bench) -> None:
    can = await bench.can()
    needs(can.nested_containers, can.absent.get("nested_containers", "nested_containers is not claimed"))
    said = await _nest(bench, nested_containers=True)
    missing = NESTED - set(said.split())
    expect(not missing, f"{', '.join(sorted(missing))}: not possible in the machine, which said {said[-300:]!r}")


@check("nested containers, when not asked for, are not possible")
async def nested_containers_are_not_given_unasked(bench: Bench) -> None:
    await _container(bench)
    given = (NESTED - {"user-namespace"}) & set((await _nest(bench)).split())
    expect(not given, f"{', '.join(sorted(given))}: possible although nested_containers was not asked for")


@check("before_start is given a process in the machine's namespaces")
async def before_start_sees_the_namespaces(bench: Bench) -> None:
    can = await bench.can()
    needs(can.before_start, can.absent.get("before_start", "before_start is not claimed"))
    seen: dict[str, str] = {}

    async def step(started: object) -> None:
        pid = getattr(started, "pid", 0)
        seen.update({name: str(Path(f"/proc/{pid}/ns/{name}").readlink()) for name in ("mnt", "pid", "net")})

    await bench.inside("exit 0", before_start=step)
    for name, link in seen.items():
        expect(link != str(Path(f"/proc/self/ns/{name}").readlink()), f"the process is in the host's {name} namespace")
    expect(bool(seen), "before_start was not called")


async def _container(bench: Bench) -> None:
    can = await bench.can()
    needs(can.isolation == "container", "only containers share the host's kernel")


async def _network(bench: Bench, network: Network) -> None:
    can = await bench.can()
    needs(network in can.networks, can.absent.get("networks", f"network {network} is not claimed"))


async def _nest(bench: Bench, **changes: object) -> str:
    said = await bench.inside(NEST, tmpfs=(Tmpfs(target=PurePosixPath("/lmc"), size_bytes=2**20),), **changes)
    needs("no-unshare" not in said, "the image has no unshare")
    return said


async def _maps(bench: Bench, spec: Spec) -> tuple[list[range], list[range]]:
    """The host's user ids and group ids of a running machine that prints its maps."""

    async def probe() -> str | None:
        said = (await bench.console(spec.id)).decode(errors="replace")
        seen: Seen = await bench.get(spec.id)
        if seen.end is not None:
            raise Violation(f"machine {spec.id} ended with {seen.end} and said {said!r}")
        return said if said.count("--") == 2 else None

    said = await bench.until(f"machine {spec.id} prints its user ids", probe)
    uids, gids, _ = said.split("--")
    return _ranges(uids), _ranges(gids)


def _ranges(text: str) -> list[range]:
    numbers = [tuple(map(int, line.split())) for line in text.strip().splitlines()]
    return [range(outside, outside + count) for _, outside, count in numbers]


def _status(text: str) -> dict[str, str]:
    return dict(re.findall(r"^(\w+):\s*(\S+)", text, flags=re.MULTILINE))


def _interfaces(text: str) -> set[str]:
    return set(re.findall(r"^\s*([^\s:|]+):", text, flags=re.MULTILINE)) - {"net"}


async def _host_network(bench: Bench) -> str:
    """The network that `host` means: the engine's, which is ours unless somebody has put it elsewhere."""
    if bench.context.host_network:
        return await bench.context.host_network()
    return str(Path("/proc/self/ns/net").readlink())


CHECKS = (
    no_capability_is_left,
    only_named_capabilities_are_left,
    privileges_cannot_be_gained,
    user_ids_are_the_machines_own,
    network_none_is_loopback,
    network_bridge_is_its_own,
    network_host_is_the_hosts,
    nested_containers_work,
    nested_containers_are_not_given_unasked,
    before_start_sees_the_namespaces,
)
