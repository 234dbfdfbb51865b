"""The checks that look into a machine judge what they are told there: what is right passes, what is wrong fails.

The machines are the fake's, which have no shell: they print what a right or a wrong machine would have printed.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from runtimes.conformance import CHECKS, Context, Outcome, run_one
from runtimes.conformance.for_fake import FakePayloads
from runtimes.conformance.payloads import Payload
from runtimes.contract import Seen, Spec
from runtimes.fake import Fake

Words = tuple[str, ...]
FIRST_UID = 200_000


class Actor(Fake):
    """Leaves out a shell's own arguments, and tells the first user id that a machine prints."""

    async def create(self, spec: Spec) -> Seen:
        words = spec.args or ()
        return await super().create(replace(spec, args=words[: words.index("sh")] if "sh" in words else words))

    async def machines(self) -> Sequence[Seen]:
        return [replace(seen, first_uid=self._first_uid(seen.id)) for seen in await super().machines()]

    def _first_uid(self, machine_id: str) -> int | None:
        record = self.engine.get(machine_id)
        map_ = record.words[1].split() if record else []
        return int(map_[1]) if map_[3:4] == ["--"] else None


class Canned(FakePayloads):
    """Runs the next of some scripts of the fake's, whatever script for a shell is asked for."""

    def __init__(self, scripts: Sequence[Words]) -> None:
        self._left = list(scripts)

    def shell(self, script: str) -> Payload | None:
        return Payload(None, self._left.pop(0) if len(self._left) > 1 else self._left[0])

    def fork_bomb(self, bound: int) -> Payload | None:
        return self.shell("")


def says(*lines: str) -> Words:
    """A script that prints lines and ends."""
    return ("print", "\n".join(lines))


def stays(text: str) -> Words:
    """A script that prints and runs on."""
    return ("print", text, "forever")


def status(**changes: str) -> Words:
    """The lines of /proc/self/status that matter."""
    fields = dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), "0000000000000000")
    fields |= {"NoNewPrivs": "1", "Seccomp": "2"} | changes
    return says(*(f"{name}:\t{value}" for name, value in fields.items()))


def maps(first: int, count: int = 65_536) -> Words:
    """The maps of user and group ids of a machine with one range."""
    return stays(f"0 {first} {count}\n--\n0 {first} {count}\n--")


CHOWN = {"CapPrm": "0000000000000001", "CapEff": "0000000000000001", "CapBnd": "0000000000000001"}
LO = "    lo: 0 0"
HEADER = " face |bytes    packets errs"

RIGHT: tuple[tuple[str, Sequence[Words]], ...] = (
    ("read-only-root-is-read-only", [says("wrote /lmc")]),
    ("tmpfs-is-limited", [says("tmpfs /lmc tmpfs rw 0 0", "size 4194304")]),
    ("scratch-is-on-disk", [says("0", "/dev/vda /lmc ext4 rw 0 0", "type ext2/ext3")]),
    ("memory-limit-is-hard", [says("code 0"), says("code 137")]),
    ("pids-limit-holds", [says(*(f"forked {n}" for n in range(1, 40)))]),
    ("open-files-limit-holds", [says("256 256")]),
    ("processors-limit-holds", [("spin", "0.05", "sleep", "0.05") * 100]),
    ("no-capability-is-left", [status()]),
    ("only-named-capabilities-are-left", [status(**CHOWN)]),
    ("privileges-cannot-be-gained", [status()]),
    ("user-ids-are-the-machines-own", [maps(FIRST_UID), maps(FIRST_UID + 65_536)]),
    ("network-none-is-loopback", [says(HEADER, LO)]),
    ("network-bridge-is-its-own", [says("net:[1]", HEADER, LO, "  eth0: 0 0")]),
    ("nested-containers-work", [says("user-namespace", "fresh-proc", "fuse")]),
    ("nested-containers-are-not-given-unasked", [says("user-namespace")]),
)

WRONG: tuple[tuple[str, Sequence[Words], str], ...] = (
    ("command-and-environment-arrive", [says("<a b>")], "the machine saw"),
    ("read-only-root-is-read-only", [says("wrote /", "wrote /lmc")], "could write to ['/', '/lmc']"),
    ("read-only-root-is-read-only", [says("")], "could write to []"),
    ("tmpfs-is-limited", [says("tmpfs /lmc tmpfs rw 0 0", "size 16777216")], "fit into a tmpfs"),
    ("tmpfs-is-limited", [says("overlay /lmc overlay rw 0 0", "size 4194304")], "is no tmpfs"),
    ("scratch-is-on-disk", [says("0", "tmpfs /lmc tmpfs rw 0 0", "type tmpfs")], "in memory"),
    ("scratch-is-on-disk", [says("3", "/dev/vda /lmc ext4 rw 0 0", "type ext2/ext3")], "not empty"),
    ("scratch-is-on-disk", [says("0", "type overlayfs")], "no mount of its own"),
    ("memory-limit-is-hard", [says("code 0")], "were used under a limit of 64 MiB"),
    ("memory-limit-is-hard", [says("code 137")], "could not be used under a limit of 400 MiB"),
    ("pids-limit-holds", [says("forked 300", "unbounded")], "300 processes were started"),
    ("pids-limit-holds", [says("forked 2")], "2 processes were started"),
    ("open-files-limit-holds", [says("256 1048576")], "not 256"),
    ("processors-limit-holds", [("spin", "60")], "processors were used under a limit of 0.5"),
    ("processors-limit-holds", [("sleep", "60")], "uses more than 0.05 processors"),
    ("idle-machines-yield", [("spin", "60")], "that an idle one beside it leaves alone"),
    ("no-capability-is-left", [status(CapBnd="00000000a80425fb")], "CapBnd"),
    ("only-named-capabilities-are-left", [status()], "CapEff"),
    ("only-named-capabilities-are-left", [status(**(CHOWN | {"CapBnd": "00000000a80425fb"}))], "CapBnd"),
    ("privileges-cannot-be-gained", [status(NoNewPrivs="0")], "NoNewPrivs"),
    ("privileges-cannot-be-gained", [status(Seccomp="0")], "Seccomp"),
    ("user-ids-are-the-machines-own", [maps(FIRST_UID)], "shares user ids"),
    ("user-ids-are-the-machines-own", [maps(0)], "holds the host's root"),
    ("user-ids-are-the-machines-own", [maps(FIRST_UID, 1), maps(FIRST_UID + 1, 1)], "only 1 user ids"),
    ("network-none-is-loopback", [says(HEADER, LO, "  eth0: 0 0")], "not lo alone"),
    ("network-bridge-is-its-own", [says("net:[1]", HEADER, LO)], "no interface but lo"),
    ("network-host-is-the-hosts", [says("net:[1]")], "the machine is in net:[1]"),
    ("nested-containers-work", [says("user-namespace", "fuse")], "fresh-proc: not possible"),
    ("nested-containers-are-not-given-unasked", [says("user-namespace", "fuse")], "fuse: possible"),
    ("before-start-sees-the-namespaces", [says("")], "in the host's mnt namespace"),
)


def context_for(scripts: Sequence[Words], make_fake_context: Callable[..., Context]) -> Context:
    return replace(make_fake_context(Actor), payloads=Canned(scripts), deadline=9.0)


@pytest.mark.parametrize(("name", "scripts"), RIGHT, ids=[name for name, _ in RIGHT])
async def test_a_right_machine_passes(
    name: str, scripts: Sequence[Words], make_fake_context: Callable[..., Context]
) -> None:
    (check,) = [check for check in CHECKS if check.name == name]
    result = await run_one(check, context_for(scripts, make_fake_context))
    assert result.outcome is Outcome.PASSED, result.reason


@pytest.mark.parametrize(("name", "scripts", "complaint"), WRONG)
async def test_a_wrong_machine_fails(
    name: str, scripts: Sequence[Words], complaint: str, make_fake_context: Callable[..., Context]
) -> None:
    (check,) = [check for check in CHECKS if check.name == name]
    result = await run_one(check, context_for(scripts, make_fake_context))
    assert (result.outcome, complaint in result.reason) == (Outcome.FAILED, True), result


async def test_every_check_that_looks_inside_is_shown_to_fail(make_fake_context: Callable[..., Context]) -> None:
    inside = set()
    for check in CHECKS:
        result = await run_one(check, replace(make_fake_context(), deadline=0.05))
        if result.outcome is Outcome.NOT_APPLICABLE and ("no shell" in result.reason or "processes" in result.reason):
            inside.add(check.name)
    assert inside == {name for name, _, _ in WRONG}


async def test_an_image_without_unshare_makes_nesting_not_applicable(
    make_fake_context: Callable[..., Context],
) -> None:
    (check,) = [check for check in CHECKS if check.name == "nested-containers-work"]
    result = await run_one(check, context_for([says("no-unshare")], make_fake_context))
    assert result.outcome is Outcome.NOT_APPLICABLE
