"""A process that creates and destroys machines until it is killed: `python -m runtimes.conformance.victim ORDER`.

It prints `kept` when it has created the machines to be kept, then creates and destroys the others in turn for ever,
and never cleans up: the suite wants to see that done by others.
"""

import asyncio
import sys

from runtimes import registry
from runtimes.conformance.bench import plain_spec
from runtimes.conformance.order import Order


async def work(order: Order) -> None:
    """Follow an order until killed."""
    runtime = registry.load(order.runtime, order.settings)
    for machine_id in order.keep:
        await runtime.create(plain_spec(machine_id, order.image, order.payload, order.boot))
    sys.stdout.write("kept\n")
    sys.stdout.flush()
    while order.churn:
        for machine_id in order.churn:
            await runtime.create(plain_spec(machine_id, order.image, order.payload, order.boot))
            await runtime.destroy(machine_id)
    await asyncio.sleep(3600)


if __name__ == "__main__":
    asyncio.run(work(Order.load(sys.argv[1])))
