"""What machines' networks need: address translation, or a user-mode network for rootless ones; 169.254/16 free."""

import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lmd.doctor.check import Asked, Check
from lmd.doctor.finding import Finding, ok, problem, warning
from lmd.doctor.looking import complaint, program, text

LINK_LOCAL = ipaddress.ip_network("169.254.0.0/16")
OURS = ("lmd", "lm-")
"""How the names of our own interfaces begin."""
USER_MODE = ("slirp4netns", "pasta")


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """`link_local`: interfaces with a route into 169.254.0.0/16. `nat`: what asking for the NAT table said, empty if
    it answers, None if there is no program to ask with. `user_mode`: installed programs for rootless networks."""

    rootless: bool
    link_local: Sequence[str]
    nat: str | None
    user_mode: Sequence[str]


def gather(asked: Asked) -> Network:
    """From the kernel's routes, and by asking for the NAT table."""
    iptables = program("iptables")
    return Network(
        rootless=asked.rootless,
        link_local=sorted(set(link_local(text("/proc/net/route") or ""))),
        nat=(complaint([iptables, "-w", "2", "-t", "nat", "-S", "POSTROUTING"]) or "")
        if iptables and not asked.rootless
        else None,
        user_mode=[name for name in USER_MODE if program(name)],
    )


def link_local(routes: str) -> Iterator[str]:
    """The interfaces of the rows of /proc/net/route (addresses in hex, low byte first) that lie in 169.254.0.0/16."""
    for line in routes.splitlines()[1:]:
        words = line.split()
        address = ipaddress.ip_address(int.from_bytes(bytes.fromhex(words[1]), "little"))
        if address in LINK_LOCAL:
            yield words[0]


def rule(network: Network) -> Iterator[Finding]:
    """Machines with a bridge need these; others do not."""
    for name in network.link_local:
        if not name.startswith(OURS):
            yield warning(
                f"{name} has a route into 169.254.0.0/16, where machines look for their metadata",
                f"ip route show dev {name}; on EL: NOZEROCONF=yes in /etc/sysconfig/network",
            )
    if network.rootless:
        if not network.user_mode:
            yield warning(
                'neither slirp4netns nor pasta is installed: rootless machines have network = "none" or "host"',
                "apt-get install slirp4netns (dnf install slirp4netns)",
            )
        else:
            yield ok(f"networks of an ordinary user's machines: {', '.join(network.user_mode)}")
    elif network.nat is None:
        yield problem(
            "iptables is not installed: machines with a bridge network cannot start",
            "apt-get install iptables (dnf install iptables-nft)",
        )
    elif network.nat:
        yield problem(f"addresses cannot be translated: {network.nat}", "modprobe iptable_nat nf_nat xt_MASQUERADE")
    else:
        yield ok("addresses can be translated (iptables)")


CHECK = Check("network", gather, rule)
