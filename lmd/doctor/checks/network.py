"""What machines' networks need: address translation, or a user-mode network for rootless ones; 169.254/16 free."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lmd.doctor.check import Asked, Check
from lmd.doctor.finding import Finding, Level, ok, problem, warning
from lmd.doctor.looking import complaint, program
from lmd.network.bridge import NetworkFault, in_the_way, netlink
from runtimes.contract import Network as Kind

USER_MODE = ("slirp4netns", "pasta")


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """`in_the_way`: who else has 169.254/16, empty for nobody. `nat`: what asking for the NAT table said, empty if it
    answers, None if there is no program to ask with. `user_mode`: installed programs for rootless networks. `wanted`:
    the configured machinetypes on the factory's own network, for which nft has to be there."""

    rootless: bool
    in_the_way: str
    nat: str | None
    nft: bool
    user_mode: Sequence[str]
    wanted: Sequence[str] = ()


def gather(asked: Asked) -> Network:
    """From the kernel's addresses and routes, and by asking for the NAT table."""
    iptables = None if asked.rootless else program("iptables")
    return Network(
        rootless=asked.rootless,
        in_the_way=_in_the_way(),
        nat=(complaint([iptables, "-w", "2", "-t", "nat", "-S", "POSTROUTING"]) or "") if iptables else None,
        nft=program("nft") is not None,
        user_mode=[name for name in USER_MODE if program(name)],
        wanted=[one.name for one in asked.config.machinetypes.values() if one.network is Kind.LMD],
    )


def _in_the_way() -> str:
    try:
        with netlink() as net:
            return in_the_way(net) or ""
    except NetworkFault as fault:
        return str(fault)


def rule(network: Network) -> Iterator[Finding]:
    """Machines with a bridge need these; others do not."""
    if network.rootless:
        yield _of_a_user(network)
        return
    yield _translation(network)
    yield from factory_s_own(network)


def _of_a_user(network: Network) -> Finding:
    if not network.user_mode:
        return warning(
            'neither slirp4netns nor pasta is installed: rootless machines have network = "none" or "host"',
            "apt-get install slirp4netns (dnf install slirp4netns)",
        )
    return ok(f"networks of an ordinary user's machines: {', '.join(network.user_mode)}")


def _translation(network: Network) -> Finding:
    if network.nat is None:
        return problem(
            "iptables is not installed: machines with a bridge network cannot start",
            "apt-get install iptables (dnf install iptables-nft)",
        )
    if network.nat:
        return problem(f"addresses cannot be translated: {network.nat}", "modprobe iptable_nat nf_nat xt_MASQUERADE")
    return ok("addresses can be translated (iptables)")


def factory_s_own(network: Network) -> Iterator[Finding]:
    """What `network = "lmd"` needs; a problem only where a machinetype wants it."""
    level = Level.PROBLEM if network.wanted else Level.NOTE
    who = f"; machinetypes {', '.join(network.wanted)} need it" if network.wanted else ""
    if network.in_the_way:
        yield Finding(
            level,
            f"169.254/16, where machines find their metadata, is taken by {network.in_the_way}:"
            f' network = "lmd" cannot be made{who}',
            "ip address; ip route; on EL: NOZEROCONF=yes in /etc/sysconfig/network",
        )
    if not network.nft:
        yield Finding(
            level,
            f'nft is not installed: network = "lmd" cannot be guarded{who}',
            "apt-get install nftables (dnf install nftables)",
        )


CHECK = Check("network", gather, rule)
