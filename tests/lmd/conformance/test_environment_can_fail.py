"""The environment's suite fails on a runtime that forgets, adds or breaks something: the suite can fail."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from lmd.config.models import Policy
from lmd.conformance import CHECKS, Ground, Outcome, run_one
from runtimes import registry
from runtimes.contract import ConsoleChunk, Mount, Seen, Settings, Spec
from runtimes.podman import Podman

pytestmark = pytest.mark.parametrize("podman", ["runc"], indirect=True, scope="session")


class Changes(Podman):
    """Creates what `changed` makes of a spec."""

    def changed(self, spec: Spec) -> Spec:
        raise NotImplementedError

    async def create(self, spec: Spec) -> Seen:
        return await super().create(self.changed(spec))


class DropsAMount(Changes):
    def changed(self, spec: Spec) -> Spec:
        return replace(spec, mounts=tuple(m for m in spec.mounts if m.source.name != "machinefeatures"))


class MountsWritable(Changes):
    def changed(self, spec: Spec) -> Spec:
        return replace(spec, mounts=tuple(replace(m, read_only=False) for m in spec.mounts))


class MountsMore(Changes):
    def changed(self, spec: Spec) -> Spec:
        return replace(spec, mounts=(*spec.mounts, Mount(source=Path("/usr"), target=PurePosixPath("/mnt"))))


class LeavesOwnersAlone(Changes):
    def changed(self, spec: Spec) -> Spec:
        outputs = "joboutputs"
        return replace(
            spec,
            mounts=tuple(
                replace(m, owned_by_machine=m.source.name != outputs and m.owned_by_machine) for m in spec.mounts
            ),
        )


class ForgetsAVariable(Changes):
    def changed(self, spec: Spec) -> Spec:
        return replace(spec, environment={k: v for k, v in spec.environment.items() if k != "LM_ALLOCATED_CPU"})


class TellsTheSecret(Changes):
    def changed(self, spec: Spec) -> Spec:
        secrets = [m.source.read_text() for m in spec.mounts if m.source.parent.name == "secrets"]
        return replace(spec, environment={**spec.environment, "LMC_TOKEN": "".join(secrets)})


class ForgetsTheArguments(Changes):
    def changed(self, spec: Spec) -> Spec:
        return replace(spec, args=())


class CopiesTheFeatures(Changes):
    """Hands over features as they were at the start."""

    def changed(self, spec: Spec) -> Spec:
        return replace(spec, mounts=tuple(self._copied(m) for m in spec.mounts))

    def _copied(self, mount: Mount) -> Mount:
        if mount.source.name not in ("machinefeatures", "jobfeatures"):
            return mount
        copy = mount.source.with_name(f"{mount.source.name}.copy")
        copy.mkdir(mode=0o755)
        for path in mount.source.iterdir():
            (copy / path.name).write_bytes(path.read_bytes())
        return replace(mount, source=copy)


class StopsAtOnce(Podman):
    async def stop(self, machine_id: str, *, grace: float) -> None:
        await super().stop(machine_id, grace=0)


class LosesExitCodes(Podman):
    async def machines(self) -> Sequence[Seen]:
        return [replace(m, end=m.end and replace(m.end, exit_code=None)) for m in await super().machines()]


class KeepsNoConsole(Podman):
    async def console(self, machine_id: str, *, follow: bool) -> AsyncIterator[ConsoleChunk]:
        for chunk in ():
            yield chunk


class DestroysAtTheSecondTime(Podman):
    asked: set[str] = set()  # noqa: RUF012  shared by the instances on purpose

    async def destroy(self, machine_id: str) -> None:
        if machine_id in self.asked:
            await super().destroy(machine_id)
        self.asked.add(machine_id)


BROKEN = (
    (DropsAMount, "features-have-every-key", "machinefeatures/grace_secs is missing"),
    (MountsWritable, "features-are-read-only", "not mounted read-only"),
    (MountsMore, "nothing-else-of-the-host-is-mounted", "on /mnt"),
    (LeavesOwnersAlone, "joboutputs-are-for-every-user", "not a directory 1777 0:0"),
    (ForgetsAVariable, "twins-equal-the-features", "LM_ALLOCATED_CPU is None"),
    (TellsTheSecret, "secrets-are-shown-nowhere", "shows the content of a secret file"),
    (ForgetsTheArguments, "user-data-is-the-command", "the arguments are []"),
    (CopiesTheFeatures, "shutdown-time-moves-earlier-at-once", "has not seen the shutdown time"),
    (StopsAtOnce, "asked-machine-ends-by-itself", "100 Stopped by the operator"),
    (LosesExitCodes, "exit-codes-are-mapped", "the message is '700"),
    (KeepsNoConsole, "console-is-kept", "[] is kept"),
    (DestroysAtTheSecondTime, "nothing-stays", "was left behind"),
)
"""A runtime with one fault, the check that has to find it, and what it says."""


@pytest.mark.parametrize(("broken", "name", "words"), BROKEN, ids=lambda v: getattr(v, "__name__", None))
async def test_a_broken_runtime_fails(
    broken: type[Podman], name: str, words: str, ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(_: str, settings: Settings) -> Podman:
        return broken(settings)

    monkeypatch.setattr(registry, "load", load)
    (check,) = [check for check in CHECKS if check.name == name]
    result = await run_one(check, replace(ground, kept={}))
    assert result.outcome is Outcome.FAILED
    assert words in result.reason


async def test_a_machine_that_does_not_end_fails_its_check_at_the_deadline(ground: Ground) -> None:
    (check,) = [check for check in CHECKS if check.name == "steady-heartbeat-keeps-it"]
    result = await run_one(check, replace(ground, deadline=1.0))
    assert (result.outcome, result.reason) == (Outcome.FAILED, "the machine has not ended within 1 s")


async def test_what_the_site_forbids_is_not_applicable(ground: Ground) -> None:
    (check,) = [check for check in CHECKS if check.name == "nested-containers-see-the-environment"]
    config = replace(ground.config, policy=Policy(nested_containers=False))
    result = await run_one(check, replace(ground, config=config))
    assert result.outcome is Outcome.NOT_APPLICABLE
    assert "[policy] nested_containers is false" in result.reason
