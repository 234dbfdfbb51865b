"""What may pass on the factory's network, as rules for nft: nobody's address but one's own, nobody's neighbour, and of
the factory only what it offers. Pure but for `load`.

Two tables of our own, replaced as a whole in one transaction, so that a repeat changes nothing and a crash leaves the
old or the new:

- `bridge lmd`: what enters by a machine's port must bear the addresses that the port's number stands for. The names of
  the ports are those of `Place`, so the rules are the same for a container and for a virtual machine, and a port that
  is not in the list passes nothing.
- `inet lmd`: what machines may ask of the factory; who may ask the addresses of ours; NAT.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from ipaddress import IPv6Network
from typing import Any

from lmd.network.addresses import BRIDGE, GATEWAY, METADATA, METADATA6, NETWORK, PORT, Place, gateway6
from lmd.network.bridge import NetworkFault

SECONDS = 20.0
FULL = frozenset({("bridge", "from"), ("bridge", "machine"), ("inet", "machine"), ("inet", "through")})
"""Chains, by family, without whose rules a machine could do what it may not."""
OFFERED_TCP = (53, 80)
OFFERED_UDP = (53, 67)
ZONE = "trusted"
"""firewalld's zone that drops nothing: what is dropped is our rules' to say."""
NEW_CONNECTIONS = (100, 300)
"""New connections to the server that a machine may make: a second, and at once."""


def rules(places: Iterable[Place], prefix6: IPv6Network | None, *, offered: Iterable[str] = ()) -> str:
    """The script for nft. `offered`: more services of the factory, such as `tcp 3128`. Raises ValueError for one that
    is none."""
    listed = sorted(places, key=lambda place: place.number)
    return "\n".join([*_bridge(listed, prefix6), *_inet(prefix6, [_service(text) for text in offered]), ""])


def load(script: str) -> None:
    """Give the rules to the kernel, all or none. Raises `NetworkFault`. Blocks: use a thread."""
    try:
        done = subprocess.run(
            ["nft", "--file", "-"], input=script, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except FileNotFoundError as error:
        raise NetworkFault("nft is not installed: apt-get install nftables") from error
    except subprocess.TimeoutExpired as error:
        raise NetworkFault(f"nft did not end within {SECONDS:g} s") from error
    if done.returncode:
        raise NetworkFault(f"nft refuses the rules: {(done.stderr.strip().splitlines() or ['no reason given'])[0]}")


def listed() -> frozenset[str]:
    """The ports that the kernel's rules let pass; empty if the rules are not there. Raises `NetworkFault`. Blocks."""
    items: list[dict[str, Any]] = []
    # Not the whole ruleset, which on a host of many containers is long, nor the sets that every caller is counted in.
    for words in (["list", "table", "bridge", "lmd"], ["--terse", "list", "table", "inet", "lmd"]):
        try:
            run = ["nft", "--json", *words]
            done = subprocess.run(run, capture_output=True, text=True, timeout=SECONDS, check=False)
            items += json.loads(done.stdout)["nftables"] if done.returncode == 0 else []
        except (OSError, subprocess.TimeoutExpired, ValueError, KeyError) as error:
            raise NetworkFault(f"nft does not list the rules: {error}") from error
    full = {(item["rule"]["family"], item["rule"]["chain"]) for item in items if "rule" in item}
    if not full >= FULL:
        return frozenset()
    sets = [item["set"] for item in items if item.get("set", {}).get("name") == "four"]
    return frozenset(element["concat"][0] for each in sets for element in each.get("elem", []))


def let_through() -> None:
    """Let the bridge through chains that drop what is forwarded: Docker sets such a policy, and a drop anywhere is a
    drop. Where there is no iptables there is no such chain. firewalld is told to leave the bridge to us.

    Raises `NetworkFault`. Blocks.
    """
    for tool, rule in _passes():
        if not _done(tool, "-C", "FORWARD", *rule) and not _done(tool, "-I", "FORWARD", *rule):
            raise NetworkFault(f"{tool} cannot let {BRIDGE} through the chain FORWARD")
    if shutil.which("firewall-cmd") and _done("firewall-cmd", "--state"):
        zone = f"--zone={ZONE}"
        if not _done("firewall-cmd", zone, f"--query-interface={BRIDGE}") and not _done(
            "firewall-cmd", zone, f"--change-interface={BRIDGE}"
        ):
            raise NetworkFault(f"firewalld cannot put {BRIDGE} into its zone {ZONE}")


def keep_out() -> None:
    """Undo `let_through`. Blocks."""
    for tool, rule in _passes():
        while _done(tool, "-C", "FORWARD", *rule) and _done(tool, "-D", "FORWARD", *rule):
            pass


def _passes() -> Iterator[tuple[str, tuple[str, ...]]]:
    for tool in filter(shutil.which, ("iptables", "ip6tables")):
        yield tool, ("-i", BRIDGE, "-j", "ACCEPT")
        yield tool, ("-o", BRIDGE, "-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED", "-j", "ACCEPT")


def _done(*command: str) -> bool:
    wait = ["-w", "5"] if command[0] in ("iptables", "ip6tables") else []
    try:
        run = [command[0], *wait, *command[1:]]
        return subprocess.run(run, capture_output=True, check=False, timeout=SECONDS).returncode == 0
    except subprocess.TimeoutExpired as error:
        raise NetworkFault(f"{command[0]} did not end within {SECONDS:g} s") from error


REMOVE = "table bridge lmd\ndelete table bridge lmd\ntable inet lmd\ndelete table inet lmd\n"
"""The script that removes the rules; not there is success."""


def _bridge(places: list[Place], prefix6: IPv6Network | None) -> list[str]:
    four = _elements(f'"{p.port}" . {p.mac} . {p.address}' for p in places)
    mac = _elements(f'"{p.port}" . {p.mac}' for p in places)
    six = _elements(
        f'"{p.port}" . {p.mac} . {address}'
        for p in places
        for address in [p.link_local, *([p.address6(prefix6)] if prefix6 else [])]
    )
    return [
        "table bridge lmd",
        "delete table bridge lmd",
        "table bridge lmd {",
        f"  set mac {{ typeof iifname . ether saddr; {mac} }}",
        f"  set four {{ typeof iifname . ether saddr . ip saddr; {four} }}",
        f"  set six {{ typeof iifname . ether saddr . ip6 saddr; {six} }}",
        "  chain from {",
        "    type filter hook prerouting priority -250; policy accept;",
        f'    iifname "{PORT}*" jump machine',
        "  }",
        "  chain machine {",
        "    iifname . ether saddr != @mac drop",
        "    ether type arp arp htype 1 arp ptype 0x0800 arp hlen 6 arp plen 4 jump arp_",
        # What a machine says before it has an address, and nothing else without one.
        "    ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 accept",
        "    ether type ip iifname . ether saddr . ip saddr @four accept",
        "    ip6 saddr :: icmpv6 type { nd-neighbor-solicit, nd-router-solicit, mld-listener-report,"
        " mld2-listener-report } accept",
        # Who claims to be a router takes the others' traffic.
        "    icmpv6 type { nd-router-advert, nd-redirect } drop",
        "    ether type ip6 iifname . ether saddr . ip6 saddr @six accept",
        "    drop",
        "  }",
        "  chain arp_ {",
        "    arp saddr ip 0.0.0.0 iifname . arp saddr ether @mac accept",
        "    iifname . arp saddr ether . arp saddr ip @four accept",
        "    drop",
        "  }",
        # Ports are isolated; this holds where something has put one back without that.
        "  chain between {",
        "    type filter hook forward priority -250; policy accept;",
        f'    iifname "{PORT}*" oifname "{PORT}*" drop',
        "  }",
        "}",
    ]


def _inet(prefix6: IPv6Network | None, offered: list[tuple[str, int]]) -> list[str]:
    own6 = ", ".join(str(a) for a in [METADATA6, *([gateway6(prefix6)] if prefix6 else [])])
    rate, burst = NEW_CONNECTIONS
    more = [f"    {protocol} dport {port} accept" for protocol, port in offered]
    masquerade = [
        "  chain out {",
        "    type nat hook postrouting priority 100; policy accept;",
        f'    ip saddr {NETWORK} ip daddr != {NETWORK} oifname != "{BRIDGE}" masquerade',
        *([f'    ip6 saddr {prefix6} oifname != "{BRIDGE}" masquerade'] if prefix6 else []),
        "  }",
    ]
    return [
        "table inet lmd",
        "delete table inet lmd",
        "table inet lmd {",
        "  set busy4 { typeof ip saddr; size 65536; flags dynamic; timeout 10s; }",
        "  set busy6 { typeof ip6 saddr; size 65536; flags dynamic; timeout 10s; }",
        "  chain to_factory {",
        "    type filter hook input priority -10; policy accept;",
        f'    iifname "{BRIDGE}" jump machine',
        # Ours alone: what comes from elsewhere to these addresses is no machine.
        f'    iifname != {{ "{BRIDGE}", "lo" }} ip daddr {{ {GATEWAY}, {METADATA} }} drop',
        f'    iifname != {{ "{BRIDGE}", "lo" }} ip6 daddr {{ {own6} }} drop',
        "  }",
        "  chain machine {",
        "    ct state established,related accept",
        f"    tcp dport 80 update @busy4 {{ ip saddr limit rate over {rate}/second burst {burst} packets }} drop",
        f"    tcp dport 80 update @busy6 {{ ip6 saddr limit rate over {rate}/second burst {burst} packets }} drop",
        f"    ip daddr {METADATA} tcp dport 80 accept",
        f"    ip daddr {GATEWAY} tcp dport {{ {', '.join(map(str, OFFERED_TCP))} }} accept",
        f"    ip6 daddr {{ {own6} }} tcp dport {{ {', '.join(map(str, OFFERED_TCP))} }} accept",
        f"    udp dport {{ {', '.join(map(str, OFFERED_UDP))} }} accept",
        "    icmp type echo-request limit rate 100/second accept",
        "    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, mld-listener-report,"
        " mld2-listener-report } accept",
        "    icmpv6 type echo-request limit rate 100/second accept",
        *more,
        "    drop",
        "  }",
        "  chain through {",
        "    type filter hook forward priority -10; policy accept;",
        f'    iifname "{BRIDGE}" oifname "{BRIDGE}" drop',
        # Nobody outside starts a conversation with a machine.
        f'    oifname "{BRIDGE}" ct state established,related accept',
        f'    oifname "{BRIDGE}" drop',
        "  }",
        *masquerade,
        "}",
    ]


def _elements(items: Iterable[str]) -> str:
    listed = ", ".join(items)
    return f"elements = {{ {listed} }}" if listed else ""


def _service(text: str) -> tuple[str, int]:
    found = re.fullmatch(r"(tcp|udp) ([0-9]{1,5})", text)
    if not found or not 1 <= int(found[2]) <= 65535:
        raise ValueError(f"expected a service such as 'tcp 3128', got {text!r}")
    return found[1], int(found[2])
