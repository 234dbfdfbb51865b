"""The OpenStack tree: `/openstack` and what is below it, with Vac's spellings beside it. Pure but for `seed`."""

import base64
import json
from typing import Any

from lmd.metadata.card import Card
from lmd.network import addresses

VERSIONS = (
    "2012-08-10",
    "2013-04-04",
    "2013-10-17",
    "2015-10-15",
    "2016-06-30",
    "2016-10-06",
    "2017-02-22",
    "2018-08-27",
    "2020-10-14",
    "latest",
)
"""Nova's own names. Any date is answered."""
USER_DATA = "user_data"
SEED_BYTES = 512


def answer(card: Card, path: tuple[str, ...], *, has_user_data: bool, seed: bytes) -> str | None:
    """The text below one version (`path` begins behind it); None: not there. user_data is the caller's to send."""
    names = [name for name in path if name]
    if not names:
        listed = ["meta_data.json", "network_data.json", "vendor_data.json", "vendor_data2.json"]
        return "\n".join(sorted([*listed, *([USER_DATA] if has_user_data else [])])) + "\n"
    if names[0] == "meta-data":
        return _vac_listing(card, names[1:])
    if len(names) > 1 or path[-1] == "":
        return None
    match names[0]:
        case "meta_data.json":
            return json.dumps(meta_data(card, seed))
        case "meta-data.json":
            return vac_meta_data(card)
        case "network_data.json":
            return json.dumps(network_data(card))
        case "vendor_data.json" | "vendor_data2.json":
            return "{}"
    return None


def meta_data(card: Card, seed: bytes) -> dict[str, Any]:
    """The content of meta_data.json; `seed` are random bytes for the machine's entropy."""
    keys = [{"name": "lmd", "type": "ssh", "data": card.public_key}] if card.public_key else []
    return _named(card) | {
        "launch_index": 0,
        "project_id": card.space,
        "random_seed": base64.b64encode(seed).decode(),
        "keys": keys,
        "devices": [],
        "dedicated_cpus": [],
    }


def vac_meta_data(card: Card) -> str:
    """The content of Vac's meta-data.json (vacuum platform, HTTP paths)."""
    return json.dumps(_named(card))


def network_data(card: Card) -> dict[str, Any]:
    """The content of network_data.json: IPv4 by DHCP, which gives the one address; IPv6 as it has to be."""
    link = {"id": "lmd", "type": "phy", "ethernet_mac_address": card.mac, "mtu": card.mtu}
    networks: list[dict[str, Any]] = [{"id": "lmd-ipv4", "link": "lmd", "type": "ipv4_dhcp", "network_id": "lmd-ipv4"}]
    if card.address6:
        route = {"network": "::", "netmask": "::", "gateway": card.gateway6}
        networks.append(
            {
                "id": "lmd-ipv6",
                "link": "lmd",
                "type": "ipv6",
                "network_id": "lmd-ipv6",
                "ip_address": card.address6,
                "netmask": addresses.netmask6(card.prefix6),
                "routes": [route] if card.gateway6 else [],
            }
        )
    services = [{"type": "dns", "address": card.gateway}] if card.gateway else []
    return {"links": [link], "networks": networks, "services": services}


def _named(card: Card) -> dict[str, Any]:
    keys = {"public_keys": {"0": card.public_key}} if card.public_key else {}
    cvmfs = {"cvmfs": card.cvmfs} if card.cvmfs else {}
    return {
        "uuid": card.job_id,
        "name": card.id,
        "hostname": card.id,
        "availability_zone": card.factory,
        "meta": {
            "machinefeatures": card.variables.get("MACHINEFEATURES", ""),
            "jobfeatures": card.variables.get("JOBFEATURES", ""),
            "joboutputs": card.variables.get("JOBOUTPUTS", ""),
            "machinetype": card.machinetype,
        },
        **keys,
        **cvmfs,
    }


def _vac_listing(card: Card, names: list[str]) -> str | None:
    """Vac's three keys below /openstack/DATE/meta-data."""
    values = {"ami-id": card.job_id, "instance-id": card.job_id}
    if card.public_key:
        values = {"public-keys/0/openssh-key": card.public_key} | values
    return values.get("/".join(names)) if names else "\n".join(values)
