"""What the fake's machines do follows from their script and the clock, whoever looks and however often."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes.contract import End, EndReason, Image, ImageKind, Limits, Mount, Rejected, Seen, Settings, Spec, State
from runtimes.fake import Fake
from runtimes.fake.console import Console
from runtimes.fake.script import BadScript, History, Script, Step, history, parse

MakeSpec = Callable[..., Spec]
START = 1_000_000.0


class ManualClock:
    """Time that moves only when somebody sleeps or the test says so."""

    def __init__(self) -> None:
        self.now = START

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def timed(settings: Settings, clock: ManualClock) -> Fake:
    """A fake runtime on the manual clock."""
    return Fake(settings, clock)


async def only(runtime: Fake) -> Seen:
    (seen,) = await runtime.machines()
    return seen


async def test_a_machine_ends_when_its_script_says(timed: Fake, clock: ManualClock, make_spec: MakeSpec) -> None:
    await timed.create(make_spec("sleep", "10", "exit", "3"))
    clock.now += 9.9
    assert (await only(timed)).state is State.RUNNING
    clock.now += 100
    seen = await only(timed)
    assert seen.state is State.EXITED
    assert seen.end == End(reason=EndReason.FAILED, exit_code=3, at=START + 10)


@pytest.mark.parametrize(
    ("words", "end"),
    [
        ((), None),
        (("forever",), None),
        (("sleep", "1"), End(reason=EndReason.CLEAN, exit_code=0, at=START + 1)),
        (("exit", "0"), End(reason=EndReason.CLEAN, exit_code=0, at=START)),
        (("signal", "11"), End(reason=EndReason.KILLED, exit_code=139, at=START, detail="signal 11")),
        (("oom",), End(reason=EndReason.OOM, exit_code=137, at=START, detail="memory limit")),
        (("crash",), End(reason=EndReason.CRASHED, at=START, detail="the machine crashed")),
        (("exit", "1", "exit", "2"), End(reason=EndReason.FAILED, exit_code=1, at=START)),
    ],
)
async def test_each_way_to_end(
    timed: Fake, clock: ManualClock, make_spec: MakeSpec, words: tuple[str, ...], end: End | None
) -> None:
    await timed.create(make_spec(*words))
    clock.now += 50
    assert (await only(timed)).end == end


@pytest.mark.parametrize(
    ("words", "took", "reason", "code"),
    [
        (("forever",), 0.0, EndReason.KILLED, 143),
        (("deaf", "forever"), 30.0, EndReason.KILLED, 137),
        (("forever", "when-asked", "sleep", "5", "exit", "4"), 5.0, EndReason.FAILED, 4),
        (("forever", "when-asked", "sleep", "50"), 30.0, EndReason.KILLED, 137),
        (("sleep", "8"), 0.0, EndReason.KILLED, 143),
        (("deaf", "sleep", "8"), 8.0, EndReason.CLEAN, 0),
    ],
)
async def test_a_machine_that_is_asked_to_stop_ends_in_its_own_way(
    timed: Fake, make_spec: MakeSpec, words: tuple[str, ...], took: float, reason: EndReason, code: int
) -> None:
    await timed.create(make_spec(*words))
    await timed.stop("lm-1", grace=30)
    end = (await only(timed)).end
    assert end is not None
    assert (end.reason, end.exit_code) == (reason, code)
    assert end.at == pytest.approx(START + took, abs=0.05)


async def test_a_machine_that_never_started_is_stopped_as_one_that_never_ran(timed: Fake, make_spec: MakeSpec) -> None:
    spec = make_spec("forever")
    timed._insert(spec, ("forever",))
    assert (await only(timed)).state is State.CREATED
    await timed.stop("lm-1", grace=1)
    end = (await only(timed)).end
    assert end is not None
    assert end.reason is EndReason.CRASHED


async def test_a_lifetime_ends_the_deafest_machine(timed: Fake, clock: ManualClock, make_spec: MakeSpec) -> None:
    await timed.create(make_spec("deaf", "forever", lifetime_seconds=60))
    clock.now += 1000
    end = (await only(timed)).end
    assert end is not None
    assert (end.reason, end.at) == (EndReason.KILLED, START + 60)


async def test_memory_above_the_limit_ends_by_oom_and_usage_tells_the_peak(
    timed: Fake, clock: ManualClock, make_spec: MakeSpec
) -> None:
    script = ("take", "5000000", "sleep", "1", "take", "3000000", "spin", "4", "sleep", "1", "take", "20000000")
    await timed.create(make_spec(*script, limits=Limits(memory_bytes=10_000_000)))
    clock.now += 3
    used = (await timed.usage())["lm-1"]
    assert (used.memory_bytes, used.memory_peak_bytes, used.cpu_seconds) == (3_000_000, 5_000_000, 2.0)
    clock.now += 10
    end = (await only(timed)).end
    assert end is not None
    assert (end.reason, end.at) == (EndReason.OOM, START + 6)
    assert await timed.usage() == {}


async def test_a_script_writes_into_bound_directories_when_its_time_has_come(
    timed: Fake, clock: ManualClock, make_spec: MakeSpec, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    mount = Mount(source=out, target=PurePosixPath("/var/spool/joboutputs"), read_only=False)
    path = "/var/spool/joboutputs/shutdown_message"
    await timed.create(make_spec("forever", "when-asked", "sleep", "2", "write", path, "200 Done", mounts=(mount,)))
    await timed.machines()
    assert not (out / "shutdown_message").exists()
    await timed.stop("lm-1", grace=10)
    assert (out / "shutdown_message").read_text() == "200 Done"


@pytest.mark.parametrize("path", ["/in/x", "/in/../out/x", "/elsewhere", "/out/../../x"])
async def test_a_script_cannot_write_where_its_machine_could_not(
    timed: Fake, make_spec: MakeSpec, tmp_path: Path, path: str
) -> None:
    mounts = []
    for name, read_only in (("in", True), ("out", False)):
        (tmp_path / name).mkdir()
        mounts.append(Mount(source=tmp_path / name, target=PurePosixPath(f"/{name}"), read_only=read_only))
    await timed.create(make_spec("write", path, "never", mounts=tuple(mounts)))
    assert (await only(timed)).state is State.EXITED
    assert not [found for found in tmp_path.rglob("x")]
    (chunk,) = [chunk async for chunk in timed.console("lm-1", follow=False)]
    assert chunk.data.startswith(b"write: ")


async def test_a_file_that_is_bound_and_named_as_entrypoint_is_the_script(
    timed: Fake, make_spec: MakeSpec, tmp_path: Path
) -> None:
    program = tmp_path / "user_data"
    program.write_text("#!/bin/fake\n# a comment\nprint 'two words'\nprintenv JOBOUTPUTS\nexit 3\n")
    mount = Mount(source=program, target=PurePosixPath("/user_data"))
    spec = make_spec(args=None, entrypoint=("/user_data",), mounts=(mount,), environment={"JOBOUTPUTS": "/var"})
    await timed.create(spec)
    end = (await only(timed)).end
    assert end is not None
    assert end.exit_code == 3
    assert b"".join([c.data async for c in timed.console("lm-1", follow=False)]) == b"two words\n/var\n"


@pytest.mark.parametrize(
    "words", [("dance",), ("exit",), ("exit", "soon"), ("sleep", "-1"), ("write", "/x"), ("spin", "inf")]
)
async def test_a_script_that_is_none_is_rejected(timed: Fake, make_spec: MakeSpec, words: tuple[str, ...]) -> None:
    with pytest.raises(BadScript):
        parse(words)
    with pytest.raises(Rejected, match="lm-1"):
        await timed.create(make_spec(*words))


async def test_an_option_takes_capabilities_away(settings: Settings, make_spec: MakeSpec) -> None:
    poor = Fake(replace(settings, options={"lacks": "scratch"}))
    with pytest.raises(Rejected, match=r"scratch directories .the fake runtime was told"):
        await poor.create(make_spec("forever", scratch=(PurePosixPath("/scratch"),)))


async def test_an_image_that_is_missing_is_rejected_and_others_are_kept(fake: Fake) -> None:
    with pytest.raises(Rejected):
        await fake.ensure(Image(kind=ImageKind.REFERENCE, location="localhost/missing"))
    await fake.ensure(Image(kind=ImageKind.REFERENCE, location="localhost/there"))
    [name] = await fake.images()
    assert name.startswith("localhost/there:")  # and the first digits of its id, as in the engines' stores
    await fake.remove_image(name)
    assert await fake.images() == {}


STEPS = st.one_of(
    st.builds(lambda s: Step("sleep", (str(s),)), st.integers(0, 20)),
    st.builds(lambda s: Step("spin", (str(s),)), st.integers(0, 20)),
    st.builds(lambda t: Step("print", (t,)), st.sampled_from("abc")),
    st.sampled_from([Step("deaf"), Step("forever"), Step("exit", ("1",)), Step("oom")]),
)
SCRIPTS = st.lists(STEPS, max_size=8).map(tuple)


def done_by(runs: History, now: float) -> list[object]:
    return [effect for effect in runs.effects if effect.at <= now]


@hypothesis.settings(deadline=None)  # the host may be busy
@given(SCRIPTS, st.none() | SCRIPTS, st.floats(0, 60), st.floats(0, 60))
def test_what_a_machine_has_done_cannot_be_undone_by_asking_or_forcing_it(
    main: tuple[Step, ...], asked_steps: tuple[Step, ...] | None, asked: float, longer: float
) -> None:
    script = Script(main, asked_steps)
    free = history(script, START, None, None, None)
    at_asked = START + asked
    told = history(script, START, at_asked, None, None)
    at_cut = at_asked + longer
    forced = history(script, START, at_asked, End(reason=EndReason.KILLED, exit_code=137, at=at_cut), None)
    # Just before each interference nothing differs yet, so that effects can be counted off one by one.
    assert done_by(told, at_asked - 0.001) == done_by(free, at_asked - 0.001)
    assert done_by(forced, at_cut - 0.001) == done_by(told, at_cut - 0.001)
    assert forced.end is not None
    assert forced.end.at is not None
    assert forced.end.at <= at_cut
    assert sum(until - begin for begin, until in forced.spinning) <= asked + longer + 0.001


@hypothesis.settings(deadline=None)  # the host may be busy
@given(st.lists(st.binary(max_size=300), max_size=30), st.integers(2, 1000))
def test_a_console_keeps_its_beginning_and_its_end(pieces: list[bytes], cap: int) -> None:
    console = Console()
    for piece in pieces:
        console = console.add(piece, cap)
    whole = b"".join(pieces)
    assert console.total == len(whole)
    assert whole.startswith(console.head)
    assert whole.endswith(console.tail)
    assert len(console.head) + len(console.tail) <= cap
    assert console.skipped == max(0, len(whole) - cap)
    assert len(console.tail) >= min(cap // 2, len(whole) - len(console.head))


def test_a_shout_of_a_terabyte_takes_no_terabyte() -> None:
    console = Console().add(b"first\n", 1000).repeated(b"x", 10**12, 1000).add(b"last\n", 1000)
    assert console.total == 10**12 + 11
    assert (console.head[:7], console.tail[-6:]) == (b"first\nx", b"xlast\n")
    assert len(console.head) + len(console.tail) == 1000
