"""Whether a caller is the machine whose address it uses: by what the kernel knows of its neighbours."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from socket import AF_BRIDGE, AF_INET, AF_INET6, if_nametoindex
from typing import Any, Protocol

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from lmd.metadata.card import Card


class Checks(Protocol):
    """Says whether the machine of a card is the one that calls from `address`."""

    async def right(self, card: Card, address: str) -> bool:
        """False if the kernel knows better."""


class Neighbours:
    """Asks the kernel by netlink: the MAC behind the address, and the bridge's port behind the MAC."""

    def __init__(self, netlink: Any) -> None:
        self._netlink = netlink

    async def right(self, card: Card, address: str) -> bool:
        """True if the address is resolved to the card's MAC on the card's bridge, and that MAC is not seen on another
        port than the card's. A card without a MAC is of a network that is not ours to check."""
        if not card.mac:
            return True
        bridge = _index(card.bridge)
        if bridge is None:
            return False
        family = AF_INET6 if ip_address(address).version == 6 else AF_INET
        known = await self._get(family=family, dst=address, ifindex=bridge)
        if known is None or known.get("lladdr") != card.mac:
            return False
        if not card.port:
            return True
        port = _index(card.port)
        learnt = await self._get(family=AF_BRIDGE, lladdr=card.mac, master=bridge)
        return port is not None and (learnt is None or learnt["ifindex"] == port)

    async def _get(self, **words: Any) -> Any:
        try:
            found = await self._netlink.neigh("get", **words)
        except NetlinkError:
            return None
        finally:
            self._drop_acknowledgements()
        return next(iter(found), None)

    def _drop_acknowledgements(self) -> None:
        """The kernel acknowledges each answer; pyroute2 has done with the request by then and keeps it for ever."""
        kept = self._netlink.msg_queue.root
        while not kept.empty():
            kept.get_nowait()
            kept.task_done()


def _index(name: str) -> int | None:
    try:
        return if_nametoindex(name)
    except OSError:
        return None


@asynccontextmanager
async def neighbours() -> AsyncIterator[Neighbours]:
    """The kernel's own answers."""
    async with AsyncIPRoute() as netlink:
        yield Neighbours(netlink)
