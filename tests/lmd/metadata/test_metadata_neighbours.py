"""What the kernel is asked about callers, for every connection, leaves nothing behind in the process."""

import asyncio

from network_namespace import Namespace
from pyroute2 import AsyncIPRoute

from lmd.metadata.card import Card
from lmd.metadata.neighbours import Neighbours
from lmd.network import bridge
from runtimes.containers.nic import index

ADDRESS, MAC = "169.254.7.7", "56:4d:a9:fe:07:07"


def test_a_neighbour_is_known_and_asking_again_and_again_costs_no_memory() -> None:
    space = Namespace()
    try:
        asked, kept = space.run(_asked, card("lmd0"), 300)
    finally:
        space.close()
    assert asked == [True] * 300
    assert kept <= 1  # the acknowledgement of the last one may still be on its way


def card(name: str) -> Card:
    return Card(
        id="m",
        job_id="j",
        space="s",
        machinetype="t",
        factory="f",
        address=ADDRESS,
        mac=MAC,
        bridge=name,
        variables={},
        outputs_bytes=1,
        outputs_files=1,
    )


def _asked(of: Card, times: int) -> tuple[list[bool], int]:
    with bridge.netlink() as net:
        bridge.make(net)
        net.link("set", index=index(net, of.bridge), state="up")
        net.neigh("add", dst=ADDRESS, lladdr=MAC, ifindex=index(net, of.bridge), state=0x80)

    async def ask() -> tuple[list[bool], int]:
        async with AsyncIPRoute() as netlink:
            neighbours = Neighbours(netlink)
            found = [await neighbours.right(of, ADDRESS) for _ in range(times)]
            return found, netlink.msg_queue.root.qsize()

    return asyncio.run(ask())
