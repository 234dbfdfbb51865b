"""Running machines looked after: how they are told of an earlier end, what is done about those that pause or crash, who
may ask, what is kept and for how long."""

import asyncio
import grp
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from factory_ground import Site, config, machinetype, rows, running, until

from lmd.config.models import Config
from lmd.environment.outcome import Why
from lmd.factory.api.server import Api
from lmd.factory.rows import Phase
from lmd.factory.tidy import remove_old
from runtimes.contract import Seen, State
from runtimes.fake import Fake


async def test_a_type_that_reads_features_is_told_by_them_alone(site: Site) -> None:
    type_ = machinetype("work", notice="features", grace_secs=1000)
    async with site.running(config(type_, total=1)) as factory:
        name = next(iter(await running(factory, 1)))
        ends = int(time.time()) + 500
        factory.reconfigure(config(type_, total=1, shutdown_time=ends))
        await until(lambda: factory.ledger.rows[name].noticed)
        assert factory.acts.directory(name).shutdown_time() == ends
        factory.wake()
        await asyncio.sleep(0.2)
        assert factory.ledger.rows[name].phase is Phase.RUNNING
        assert site.engine.get(name).asked is None
        assert not [call for call in site.engine.calls() if call[0] in ("stop.ask", "execute.run")]


async def test_a_type_that_wants_a_signal_gets_it_its_grace_before_the_new_end(site: Site) -> None:
    words = ("forever", "when-asked", "sleep", "0.1", "exit", "0")
    type_ = machinetype("work", *words, notice="sigterm", grace_secs=1000)
    async with site.running(config(type_, total=1)) as factory:
        name = next(iter(await running(factory, 1)))
        factory.reconfigure(config(type_, total=1, shutdown_time=int(time.time()) + 500))
        await until(lambda: not factory.ledger.rows[name].live)
        ended = factory.ledger.rows[name]
        assert ended.why[0] == Why.EARLIER
        assert (ended.outcome["reason"], ended.outcome["exit_code"]) == ("clean", 0)
        assert factory.acts.directory(name).shutdown_time() <= time.time() + 500


async def test_a_paused_machine_is_ended_and_replaced(site: Site) -> None:
    paused: set[str] = set()

    class Pauses(Fake):
        async def machines(self) -> Sequence[Seen]:
            found = await super().machines()
            return [replace(s, state=State.PAUSED) if s.id in paused and s.end is None else s for s in found]

    site.load = lambda name, configured: Pauses(site.settings) if name == "fake" else _no(name)
    async with site.running(config(machinetype("work", "deaf", "forever"), total=1)) as factory:
        name = next(iter(await running(factory, 1)))
        paused.add(name)
        factory.engines["fake"].look()
        await until(lambda: not factory.ledger.rows[name].live)
        assert factory.ledger.rows[name].why == (Why.PAUSED, "its engine shows it as paused")
        await running(factory, 1)
        assert name not in site.alive()


def _no(name: str) -> Fake:
    raise LookupError(f"no runtime {name} in this test")


async def test_a_machine_that_crashes_is_written_down_as_crashed(site: Site) -> None:
    type_ = machinetype("work", "sleep", "0.1", "crash", backoff_seconds=600)
    async with site.running(config(type_, total=1)) as factory:
        ended = (await until(lambda: [row for row in rows(factory, Phase.FINISHED) if row.cleaned]))[0]
        assert ended.outcome["reason"] == "crashed"
        assert not site.engine.leftovers(ended.id)


async def test_a_runtime_without_its_client_is_a_warning_as_long_as_a_type_wants_it(site: Site) -> None:
    needed, fake = machinetype("vm", runtime="kvm"), machinetype("work")

    def load(name: str, _: Config) -> Fake:
        if name == "kvm":
            raise ImportError("runtime kvm: No module named 'libvirt': pip install libvirt-python")
        return Fake(site.settings)

    site.load = load
    async with site.running(config(needed, fake, total=1)) as factory:
        await running(factory, 1)
        warnings = factory.ledger.warnings
        told = "No module named 'libvirt': pip install libvirt-python"
        assert [(one.key, one.text) for one in warnings.open()] == [("runtime:kvm", told)]
        why = next(one for one in factory.decision.refusals if one.machinetype == "vm")
        assert why.sentence == f"no runtime for it is available: kvm: {told}"
        factory.reconfigure(config(fake, total=1))
        await until(lambda: not warnings.open())


async def test_processors_come_from_a_command_that_is_asked_again(site: Site, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("lmd.factory.factory.READ_SECONDS", 0.05)
    monkeypatch.setattr("lmd.factory.factory.TICK_SECONDS", 0.05)
    free = tmp_path / "free"
    free.write_text("1\n")
    async with site.running(config(machinetype("work", max_processors=1), total=("/bin/cat", str(free)))) as factory:
        await running(factory, 1)
        free.write_text("2\n")
        await running(factory, 2)
        free.unlink()
        warnings = factory.ledger.warnings
        await until(lambda: [warning.key for warning in warnings.open()] == ["processors:"])
        free.write_text("0\n")  # what sinks ends nothing
        await until(lambda: factory.total == 0 and not warnings.open())
        assert len(rows(factory, Phase.RUNNING)) == 2 == len(factory.ledger.rows)


async def test_directories_are_kept_for_their_days_and_then_go(site: Site) -> None:
    type_ = machinetype("work", "sleep", "0.05", "exit", "0", machines_dir_days=2.0)
    async with site.running(config(type_, total=2)) as factory:
        await until(lambda: len([row for row in rows(factory, Phase.FINISHED) if row.cleaned]) >= 2)
        factory.ledger.intend("drain", {"reason": "enough"})
        await until(lambda: not factory.ledger.live())
        old, young = sorted(row.id for row in rows(factory, Phase.FINISHED) if row.cleaned)[:2]
        now = time.time()
        for name, days in ((old, 2.1), (young, 1.9)):
            os.utime(factory.acts.directory(name).path / "machine.json", (now - days * 86_400,) * 2)
        ledger = dict(factory.ledger.rows)
        assert remove_old(site.places.machines, "factory:another", ledger, now) == {}
        assert factory.acts.directory(old).path.exists()  # not of this factory
        assert remove_old(site.places.machines, factory.owner, ledger, now) == {}
        assert not factory.acts.directory(old).path.exists()
        assert factory.acts.directory(young).path.exists()


ASK = """
import socket, sys
with socket.socket(socket.AF_UNIX) as connection:
    try:
        connection.connect(sys.argv[1])
    except PermissionError:
        sys.exit("not allowed")
    body = sys.argv[2].encode()
    method = "POST" if body else "GET"
    head = [f"{method} /v1/machines HTTP/1.1", "Host: lmd", "Connection: close", "Content-Type: application/json"]
    head += [f"Content-Length: {len(body)}", "", ""]
    connection.sendall("\\r\\n".join(head).encode() + body)
    print(b"".join(iter(lambda: connection.recv(65536), b"")).decode())
"""


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that any user may enter, as /run/lmd is."""
    with tempfile.TemporaryDirectory(prefix="lmd-g.", dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
async def test_members_of_the_group_may_use_the_socket_and_others_not(
    site: Site, open_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = grp.getgrnam("daemon")
    monkeypatch.setattr("lmd.factory.api.server.GROUP", group.gr_name)

    async def asked(groups: list[int], body: str = "") -> tuple[str, str]:
        def ask() -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-I", "-c", ASK, str(open_directory / "s"), body]
            return subprocess.run(
                command, user=65534, group=65534, extra_groups=groups, capture_output=True, text=True, check=False
            )

        done = await asyncio.to_thread(ask)
        return done.stdout, done.stderr

    async def reload() -> list[str]:
        return []

    async with site.running(config(machinetype("work"), total=1)) as factory:
        name = next(iter(await running(factory, 1)))
        api = Api(factory, open_directory / "s", reload)
        await api.open()
        try:
            assert name in (await asked([group.gr_gid]))[0]
            assert "not allowed" in (await asked([]))[1]
            refused = (await asked([group.gr_gid], '{"target": "docker://other"}'))[0]
            assert "only root may run what is not a configured machinetype" in refused
        finally:
            await api.aclose()
