"""The contract's conformance suite on virtual machines, emulated by QEMU under a libvirt of the tests' own."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from kvm_suites import selected

from images.kit import Kit
from runtimes.conformance.check import Check, Outcome, Result
from runtimes.conformance.checks import CHECKS
from runtimes.conformance.for_kvm import DEADLINE, kvm_context
from runtimes.conformance.runner import run_one
from runtimes.contract import Boot, Image, ImageKind

ROWS = 3
"""How many checks are made at the same time: much of their time is waiting for a machine to boot."""
SECONDS = 1200
NOT_FOR_MACHINES = frozenset(
    {
        "before-start-comes-before-the-payload",
        "before-start-sees-the-namespaces",
        "cancelled-create-leaves-what-is-explained",
        "command-runs-inside",
        "created-machine-can-be-destroyed",
        "failing-before-start-leaves-nothing",
        "hopeless-command-is-rejected",
        "idle-machines-yield",
        "images-are-ensured",
        "lifetime-is-a-backstop",
        "nested-containers-are-not-given-unasked",
        "network-host-is-the-hosts",
        "no-capability-is-left",
        "only-named-capabilities-are-left",
        "privileges-cannot-be-gained",
        "signal-is-told-as-killed",
        "user-ids-are-the-machines-own",
    }
)
"""A machine has a kernel of its own, no namespaces of the host's, and nobody inside who would run commands for us."""


@pytest.fixture(scope="module")
def told(
    request: pytest.FixtureRequest, libvirt_engine, micro_kit: Kit, busybox_root: Path
) -> Iterator[Callable[[str], Result]]:
    """Ask for a check by name; waits until it has been made. Only those are made that this run of the tests wants."""
    wanted = selected(request)
    results: dict[str, Future[Result]] = {check.name: Future() for check in wanted}
    over = threading.Event()
    image = Image(kind=ImageKind.ROOT_DIRECTORY, location=str(busybox_root))
    boot = Boot(kernel=micro_kit.kernel, initramfs=micro_kit.initramfs)

    waiting = iter(wanted)

    async def row(number: int) -> None:
        directory = libvirt_engine.directory / f"bench{number}"
        directory.mkdir(exist_ok=True)
        context = kvm_context(libvirt_engine.settings, directory, image, boot)
        for check in waiting:  # whoever is free takes the next: some take ten times as long as others
            if over.is_set():  # a check that has begun removes what it has made
                return
            results[check.name].set_result(await run_one(check, context))

    async def rows() -> None:
        await asyncio.gather(*(row(number) for number in range(ROWS)))

    loop = asyncio.new_event_loop()
    suite = loop.create_task(rows())
    thread = threading.Thread(target=lambda: loop.run_until_complete(asyncio.wait([suite])))
    thread.start()
    try:
        yield lambda name: results[name].result(timeout=SECONDS)
    finally:
        over.set()
        thread.join(2 * DEADLINE)
        loop.close()


@pytest.mark.timeout(SECONDS + 60)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_kvm_keeps_the_contract(check: Check, told: Callable[[str], Result]) -> None:
    result = told(check.name)
    if result.outcome is Outcome.NOT_APPLICABLE:
        assert check.name in NOT_FOR_MACHINES, result.reason
    else:
        assert result.outcome is Outcome.PASSED, result.reason
