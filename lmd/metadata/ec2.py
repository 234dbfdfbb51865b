"""The EC2 tree: what `/latest`, `/2009-04-04` and the like answer, with Vac's spellings beside them. Pure."""

import json
import re
from collections.abc import Mapping
from typing import TypeAlias

from lmd.metadata import openstack
from lmd.metadata.card import Card
from lmd.network import addresses

Tree: TypeAlias = Mapping[str, "Tree | str"]

VERSIONS = ("1.0", "2007-01-19", "2009-04-04", "2016-09-02", "2018-09-24", "2021-03-23", "latest")
"""Those that are listed; any date is answered."""
USER_DATA = "user-data"
_VERSION = re.compile(r"latest|1\.0|[0-9]{4}-[0-9]{2}-[0-9]{2}")


def is_version(name: str) -> bool:
    """True for `latest`, `1.0` and dates."""
    return bool(_VERSION.fullmatch(name))


def tree(card: Card) -> Tree:
    """The keys of `meta-data`, those of a directory in a mapping of their own."""
    nic: dict[str, Tree | str] = {
        "device-number": "0",
        "local-hostname": card.id,
        "local-ipv4s": card.address,
        "mac": card.mac,
        "subnet-ipv4-cidr-block": str(addresses.NETWORK),
    }
    found: dict[str, Tree | str] = {
        "ami-id": card.job_id,
        "ami-launch-index": "0",
        "hostname": card.id,
        "instance-id": card.job_id,
        "instance-type": card.machinetype,
        "local-hostname": card.id,
        "local-ipv4": card.address,
        "mac": card.mac,
        "network": {"interfaces": {"macs": {card.mac: nic}}},
        "placement": {"availability-zone": card.factory},
        "reservation-id": card.job_id,
        "security-groups": "default",
    }
    if card.public_key:
        found["public-keys"] = {"0": {"openssh-key": card.public_key}}
    return found


def answer(card: Card, path: tuple[str, ...], *, has_user_data: bool) -> str | None:
    """The text below one version (`path` begins behind it); None: not there. user-data itself is the caller's to send.

    A directory answers with and without its final slash.
    """
    match [name for name in path if name]:
        case []:
            return "\n".join(["dynamic", "meta-data", *([USER_DATA] if has_user_data else [])])
        case ["meta-data.json"]:
            return openstack.vac_meta_data(card)
        case ["meta-data", *rest]:
            return _found(tree(card), rest, path[-1] == "")
        case ["dynamic"]:
            return "instance-identity/"
        case ["dynamic", "instance-identity"]:
            return "document"
        case ["dynamic", "instance-identity", "document"]:
            return json.dumps(identity(card))
    return None


def identity(card: Card) -> dict[str, str]:
    """The instance identity document, which nobody has signed here."""
    return {
        "version": "2017-09-30",
        "accountId": card.space,
        "instanceId": card.job_id,
        "imageId": card.job_id,
        "instanceType": card.machinetype,
        "privateIp": card.address,
        "availabilityZone": card.factory,
        "region": card.space,
    }


def _found(level: Tree, names: list[str], slash: bool) -> str | None:
    if not names:
        return _listing(level)
    if names[0] not in level and "=" in names[0]:  # the listing of public-keys says 0=lmd, and some ask for that
        names = [names[0].partition("=")[0], *names[1:]]
    value = level.get(names[0])
    if isinstance(value, str):
        return value if len(names) == 1 and not slash else None
    return None if value is None else _found(value, names[1:], slash)


def _listing(level: Tree) -> str:
    """A line a key; directories have a slash, keys of public-keys their name, as EC2 writes both."""
    if "0" in level:
        return "0=lmd"
    return "\n".join(name if isinstance(value, str) else f"{name}/" for name, value in sorted(level.items()))
