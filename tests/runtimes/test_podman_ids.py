"""Ranges of user ids, given to machines that are made at the same time by several processes."""

import asyncio
from dataclasses import replace

from runtimes.contract import Exhausted, Network, Seen, Spec
from runtimes.idranges import MACHINE_IDS
from runtimes.podman import Podman

FIRST = 1_900_019_712
ROOM = 5


async def test_each_gets_a_range_of_its_own_until_none_is_left_and_one_that_is_freed_is_given_again(
    podmans, busybox_root
) -> None:
    engine = podmans("crun")
    image = await asyncio.to_thread(engine.import_image, busybox_root, "localhost/lmd-test/ids:1")
    options = {**engine.options, "first_uid": str(FIRST), "uid_count": str(ROOM * MACHINE_IDS)}
    runtimes = [Podman(replace(engine.settings, options=options)) for _ in range(3)]

    def machine(number: int) -> Spec:
        fields = {"id": f"ids-{number}", "owner": "run:0", "space": "s", "machinetype": "t", "image": image}
        return Spec(entrypoint=("/bin/sleep", "1000"), network=Network.NONE, **fields)

    made = [(runtimes[number % 3], machine(number)) for number in range(ROOM)]
    try:
        got = await asyncio.gather(*(runtime.create(spec) for runtime, spec in made))
        assert {seen.first_uid for seen in got} == {FIRST + number * MACHINE_IDS for number in range(ROOM)}
        for runtime in runtimes:
            answer = (await asyncio.gather(runtime.create(machine(ROOM)), return_exceptions=True))[0]
            assert isinstance(answer, Exhausted), answer
        await runtimes[0].destroy("ids-2")
        again = await runtimes[1].create(machine(ROOM))
        assert isinstance(again, Seen)
        assert again.first_uid == next(seen.first_uid for seen in got if seen.id == "ids-2")
    finally:
        for number in range(ROOM + 1):
            await runtimes[0].destroy(f"ids-{number}")
        for runtime in runtimes:
            await runtime.aclose()
