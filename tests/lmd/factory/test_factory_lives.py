"""Machines of a factory from the decision to their end, on the fake engine."""

import asyncio
import time
from dataclasses import replace

from factory_ground import config, machinetype, rows, running, until

from lmd.config.models import Cvmfs
from lmd.environment.outcome import Why
from lmd.factory.rows import Phase
from runtimes.contract import EndReason
from runtimes.fake import Faults


async def test_free_processors_are_filled_in_one_pass_and_never_more(site) -> None:
    async with site.running(config(machinetype("work", max_processors=1), total=4)) as factory:
        await until(lambda: len(rows(factory, Phase.RUNNING)) == 4)
        for _ in range(5):
            factory.wake()
            await asyncio.sleep(0.02)
        assert len(factory.ledger.rows) == 4
        assert len(site.alive()) == 4
    assert len(site.alive()) == 4


async def test_a_machine_that_ends_is_judged_written_down_and_replaced(site) -> None:
    words = ("print", "hello", "write", "/var/spool/joboutputs/shutdown_message", "200 all done", "sleep", "0.2")
    async with site.running(config(machinetype("work", *words), total=1)) as factory:
        done = (await until(lambda: [row for row in rows(factory, Phase.FINISHED) if row.cleaned]))[0]
        assert done.outcome["message"] == "200 all done"
        directory = factory.acts.directory(done.id)
        assert directory.load().outcome["outcome"]["message"] == "200 all done"
        assert b"hello" in directory.console.read_bytes()
        assert not site.engine.leftovers(done.id)
        await until(lambda: [row for row in rows(factory, Phase.RUNNING)])
    kinds = [kind for kind in site.kinds(done.id) if kind.startswith("machine-")]
    assert kinds == ["machine-preparing", "machine-starting", "machine-running", "machine-finished"]


async def test_the_next_daemon_adopts_what_runs_with_its_limits(site) -> None:
    configured = config(machinetype("work", max_wallclock_seconds=1000), total=3)
    async with site.running(configured) as factory:
        before = await running(factory, 3)
    async with site.running(configured) as factory:
        await until(lambda: all(engine.complete for engine in factory.engines.values()))
        await asyncio.sleep(0.1)
        after = {row.id: row for row in rows(factory)}
        assert set(after) == set(before) == set(site.alive())
        assert {row.deadline for row in after.values()} == {row.deadline for row in before.values()}
        assert all(row.phase is Phase.RUNNING for row in after.values())


async def test_without_its_database_a_daemon_makes_the_rows_again(site) -> None:
    configured = config(
        machinetype("work", max_wallclock_seconds=1000, heartbeat_file="beat", fizzle_seconds=5000), total=3
    )
    async with site.running(configured) as factory:
        before = await running(factory, 3)
    for path in site.places.state.glob("factory.sqlite*"):
        path.unlink()
    async with site.running(config(total=3)) as factory:  # and its type is gone
        await until(lambda: len(rows(factory, Phase.RUNNING)) == 3)
        for row in rows(factory):
            assert abs(row.deadline - before[row.id].deadline) < 1.5  # features have whole seconds
            assert row.conditions == before[row.id].conditions
            assert row.processors == before[row.id].processors
    assert len(site.alive()) == 3


async def test_without_database_and_directory_the_engine_s_word_is_enough(site) -> None:
    async with site.running(config(machinetype("work"), total=2)) as factory:
        before = set(await running(factory, 2))
        for name in before:
            factory.acts.directory(name).remove()
    for path in site.places.state.glob("factory.sqlite*"):
        path.unlink()
    async with site.running(config(machinetype("work"), total=2)) as factory:
        await until(lambda: {row.id for row in rows(factory, Phase.RUNNING)} == before)
        await asyncio.sleep(0.1)
        assert {row.id for row in rows(factory)} == before


async def test_a_machine_whose_time_is_over_is_ended(site) -> None:
    type_ = machinetype("work", "forever", max_wallclock_seconds=1)
    async with site.running(config(type_, total=1)) as factory:
        row = (await until(lambda: rows(factory, Phase.FINISHED)))[0]
        assert row.why[0] == Why.TIMED_OUT
        assert row.outcome["message"] == "700 Passed shutdowntime"


async def test_a_machine_without_heartbeat_is_ended(site) -> None:
    type_ = machinetype("work", "forever", heartbeat_file="beat")
    async with site.running(config(type_, total=1)) as factory:
        row = (await until(lambda: rows(factory, Phase.FINISHED)))[0]
        assert row.outcome["message"] == "700 Heartbeat file not created"


async def test_a_machine_that_leaves_too_much_is_ended_at_once(site) -> None:
    words = ("deaf", "write", "/var/spool/joboutputs/big", "x" * 50_000, "forever")
    async with site.running(config(machinetype("work", *words, joboutputs_bytes=10_000), total=1)) as factory:
        row = (await until(lambda: rows(factory, Phase.FINISHED)))[0]
        assert row.outcome["message"] == "700 Joboutputs quota exceeded"


async def test_the_end_moves_earlier_while_machines_run_and_they_are_told(site) -> None:
    type_ = machinetype("work", "forever", "when-asked", "exit", "0", grace_secs=1)
    async with site.running(config(type_, total=1)) as factory:
        row = (await until(lambda: rows(factory, Phase.RUNNING)))[0]
        ends = int(time.time()) + 3
        factory.reconfigure(config(type_, total=1, shutdown_time=ends))
        directory = factory.acts.directory(row.id)
        await until(lambda: directory.shutdown_time() == ends)
        await until(lambda: not factory.ledger.live())
        ended = factory.ledger.rows[row.id]
        assert ended.why[0] == Why.EARLIER
        assert ended.outcome["message"] == "100 Ended because the host asked"
        assert not site.alive()


async def test_a_command_tells_a_machine_that_is_deaf_to_features(site) -> None:
    type_ = machinetype("work", notice=["print", "the end is near"], grace_secs=1000)
    async with site.running(config(type_, total=1)) as factory:
        await until(lambda: rows(factory, Phase.RUNNING))
        factory.reconfigure(config(type_, total=1, shutdown_time=int(time.time()) + 500))
        event = await until(lambda: [e for e in site.events if e.kind == "notice-given"])
        assert event[0].data == {"command": "print", "exit_code": 0}
        assert rows(factory, Phase.RUNNING)


async def test_an_operator_s_stop_wins_and_no_other_takes_its_reason(site) -> None:
    type_ = machinetype("work", "deaf", "forever", heartbeat_file="beat", fizzle_seconds=5000)
    async with site.running(config(type_, total=1)) as factory:
        row = (await until(lambda: rows(factory, Phase.RUNNING)))[0]
        factory.ledger.intend("drain", {"reason": "test"})
        factory.condemn(row, Why.STOPPED, "somebody", 0.3)
    async with site.running(config(type_, total=1)) as factory:  # what was ordered holds for the next daemon
        await until(lambda: not factory.ledger.live())
        assert factory.ledger.rows[row.id].why == (Why.STOPPED, "somebody")
        assert len(factory.ledger.rows) == 1  # drained: no other took its place


async def test_an_engine_that_does_not_answer_ends_nothing_and_gets_nothing(site) -> None:
    async with site.running(config(machinetype("work"), total=3)) as factory:
        await until(lambda: len(rows(factory, Phase.RUNNING)) == 3)
        engine = factory.engines["fake"]
        site.engine.faults = Faults(unavailable=frozenset({"machines", "probe"}))
        for name in site.alive()[:2]:
            site.engine.cut(name, EndReason.KILLED)
        engine.look()
        await until(lambda: engine.observation.machines is None)
        await asyncio.sleep(0.2)
        assert len(rows(factory, Phase.RUNNING)) == 3 == len(factory.ledger.rows)
        assert [w.key for w in factory.ledger.warnings.open()] == ["runtime:fake"]
        site.engine.faults = Faults()
        engine.look()
        await until(lambda: len(rows(factory, Phase.FINISHED)) == 2)
        await until(lambda: len(rows(factory, Phase.RUNNING)) == 3)
        assert not factory.ledger.warnings.open()


async def test_a_lost_reply_to_create_neither_doubles_nor_loses(site) -> None:
    site.engine.faults = Faults(lose_reply=frozenset({"create.show"}))
    async with site.running(config(machinetype("work"), total=2)) as factory:
        await until(lambda: len(site.alive()) == 2)
        await until(lambda: len(rows(factory, Phase.RUNNING)) == 2)
        await asyncio.sleep(0.2)
        assert {row.id for row in rows(factory)} == set(site.alive())


async def test_a_refused_type_waits_and_says_why(site) -> None:
    site.engine.faults = Faults(reject="this will never do")
    async with site.running(config(machinetype("work"), total=2)) as factory:
        await until(lambda: len(rows(factory, Phase.FINISHED)) == 2)
        await asyncio.sleep(0.2)
        assert len(factory.ledger.rows) == 2
        assert factory.ledger.warnings.open()[0].key == "start:work"
        await until(lambda: factory.decision.refusals)
        assert "this will never do" in factory.decision.refusals[0].sentence


async def test_machines_of_lm_run_are_booked_and_left_alone(site, make_spec) -> None:
    from runtimes.contract import Limits
    from runtimes.fake import Fake

    fake = Fake(site.settings)
    spec = make_spec("sleep", "1", owner="run:1000", limits=Limits(processors=3), id="theirs-1")
    await fake.create(spec)
    async with site.running(config(machinetype("work"), total=4)) as factory:
        await until(lambda: rows(factory, Phase.RUNNING))
        await asyncio.sleep(0.3)
        assert len(rows(factory)) == 1
        await until(lambda: len(rows(factory, Phase.RUNNING)) == 4)  # its end frees what it held
        assert site.engine.get("theirs-1") is not None


async def test_what_somebody_else_destroys_is_written_down_as_gone(site) -> None:
    async with site.running(config(machinetype("work"), total=1)) as factory:
        row = (await until(lambda: rows(factory, Phase.RUNNING)))[0]
        site.engine.remove(row.id)
        factory.engines["fake"].look()
        await until(lambda: not factory.ledger.rows[row.id].live)
        assert factory.ledger.rows[row.id].outcome["detail"] == "another has destroyed it"


async def test_another_boot_without_the_machine_is_its_end(site) -> None:
    configured = config(machinetype("work"), total=1)
    async with site.running(configured) as factory:
        row = (await until(lambda: rows(factory, Phase.RUNNING)))[0]
        factory.ledger.set(replace(row, boot_id="an-earlier-boot"))
    site.engine.remove(row.id)
    async with site.running(configured) as factory:
        await until(lambda: rows(factory, Phase.FINISHED) and rows(factory, Phase.RUNNING))
        gone = next(event for event in site.events if event.kind == "machine-gone")
        assert gone.data["why"] == "the host was started anew"


async def test_a_zombie_of_a_finished_machine_is_cleaned_up(site) -> None:
    configured = config(machinetype("work", "sleep", "0.1"), total=1)
    async with site.running(configured) as factory:
        row = (await until(lambda: [row for row in rows(factory, Phase.FINISHED) if row.cleaned]))[0]
        from lmd.machine.saved import load
        from runtimes.fake import Fake

        await Fake(site.settings).create(load(factory.acts.directory(row.id)))
        factory.engines["fake"].look()
        await until(lambda: site.engine.get(row.id) is None)
        assert factory.ledger.rows[row.id].phase is Phase.FINISHED


async def test_a_repository_that_cannot_be_had_stops_only_the_types_that_name_it(site) -> None:
    broken = machinetype("needs-it", max_processors=1, cvmfs_repositories=("none.example.org",))
    configured = config(broken, machinetype("plain", max_processors=1), total=2)
    cvmfs = Cvmfs(provider="embedded", server_url=("http://127.0.0.1:9/@fqrn@",), public_key=("/none.pub",))
    async with site.running(replace(configured, cvmfs=cvmfs)) as factory:
        waits = await until(lambda: factory.ledger.backoffs.get("needs-it"))
        assert "CernVM-FS repository none.example.org: public key /none.pub" in waits["reason"]
        await until(lambda: [row for row in rows(factory, Phase.RUNNING) if row.machinetype == "plain"])
        assert not [row for row in rows(factory, Phase.RUNNING) if row.machinetype == "needs-it"]


async def test_a_stop_is_not_repeated_before_its_engine_was_looked_at(site) -> None:
    async with site.running(config(machinetype("work", "deaf", "forever"), total=1)) as factory:
        row = next(iter((await running(factory, 1)).values()))
        factory.ledger.intend("drain", {"reason": "test"})
        await until(lambda: not factory._actors.busy)
        site.engine.faults = Faults(late_seconds=0.03)  # a listing takes longer than the time between two passes
        factory.condemn(row, Why.STOPPED, "test", 0.0)

        def woken() -> bool:
            factory.wake()
            return not factory.ledger.live()

        await until(woken)
        assert len([call for call in site.engine.calls() if call[0] == "stop.ask"]) < 4
