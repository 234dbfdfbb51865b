"""Whatever happens to the database, the daemon starts, says so, and knows its machines."""

import asyncio
import random
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from factory_ground import Site, config, machinetype, rows, running, until

from lmd.factory.rows import Phase
from lmd.factory.schema import STEPS, VERSION
from lmd.factory.store import Store, StoreFault, put

TYPE = machinetype("work")
DATA = Path(__file__).parent / "data"


def _missing(path: Path) -> None:
    path.unlink()


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _text(path: Path) -> None:
    path.write_text("this is no database\n" * 1000)


def _truncated(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])


def _flipped(path: Path) -> None:
    content, moments = bytearray(path.read_bytes()), random.Random(5)
    for _ in range(2000):
        content[moments.randrange(100, len(content))] ^= 1 << moments.randrange(8)
    path.write_bytes(content)


def _newer(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {VERSION + 1}")
    db.close()


def _without_a_table(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE machine")
    db.close()


def _a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _rows_of_nonsense(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("""UPDATE machine SET body = '{"id": 7}'""")
        db.execute("INSERT INTO warning VALUES ('x', 'nonsense'), ('y', '{}')")
        db.execute("INSERT INTO intent VALUES ('drain-x', '7')")
    db.close()


DAMAGES = [_missing, _empty, _text, _truncated, _flipped, _newer, _without_a_table, _a_directory, _rows_of_nonsense]


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_database_loses_no_machine(site: Site, damage: Callable[[Path], None]) -> None:
    async with site.running(config(TYPE, total=2)) as factory:
        before = await running(factory, 2)
    path = site.places.state / "factory.sqlite"
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    damage(path)
    async with site.running(config(TYPE, total=2)) as factory:
        after = await running(factory, 2)
        assert set(after) == set(before) == set(site.alive())
        assert [abs(after[name].deadline - before[name].deadline) < 1.5 for name in before] == [True, True]
        told = [w.key for w in factory.ledger.warnings.open()]
        assert told == ([] if damage in (_missing, _empty) else ["store:"])
        assert factory.ledger.writable
        site.engine.cut(next(iter(before)), "killed", 137)
        await until(lambda: rows(factory, Phase.FINISHED))
    with sqlite3.connect(path) as db:  # and it is a good one again
        assert db.execute("SELECT count(*) FROM machine WHERE phase = 'finished'").fetchone() == (1,)
    db.close()


@pytest.mark.parametrize("damage", [_missing, _text, _without_a_table])
async def test_a_database_that_is_damaged_under_the_daemon_is_written_anew(
    site: Site, damage: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmd.factory.factory.TICK_SECONDS", 0.1)
    async with site.running(config(TYPE, total=2)) as factory:
        before = await running(factory, 2)
        damage(site.places.state / "factory.sqlite")
        for number in range(3):
            factory.ledger.intend(f"test-{number}", {"number": number})
            await factory.ledger.flush()
        site.engine.cut(next(iter(before)), "killed", 137)
        await until(lambda: len(rows(factory, Phase.FINISHED)) == 1 and len(rows(factory, Phase.RUNNING)) == 2)
        await until(lambda: factory.ledger.writable)
        await until(lambda: "store:" in [w.key for w in factory.ledger.warnings.all()])
        names = set(factory.ledger.rows)
    again = Store(site.places.state / "factory.sqlite", site.places.run)
    content = await again.open()
    await again.aclose()
    assert set(content.rows) == names
    assert "test-2" in content.intents


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file system of two megabytes, which the decision takes for a large one."""
    monkeypatch.setattr("lmd.factory.facts.shutil.disk_usage", lambda _: SimpleNamespace(free=10**12))
    path = tmp_path / "small"
    path.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(path)], check=True)
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


async def test_a_full_disk_starts_nothing_ends_nothing_and_passes(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmd.factory.factory.TICK_SECONDS", 0.2)
    site = Site(small_disk, engine=small_disk.parent / "engine")
    async with site.running(config(TYPE, total=2)) as factory:
        before = await running(factory, 2)
        ballast = small_disk / "ballast"
        _fill(ballast)
        site.engine.cut(min(before), "killed", 137)
        factory.engines["fake"].look()
        await until(lambda: "store:" in [w.key for w in factory.ledger.warnings.open()])
        await until(lambda: factory.draining())
        assert max(before) in site.alive()
        assert len(site.alive()) == 1
        ballast.unlink()
        await until(lambda: len(site.alive()) == 2)
        await until(lambda: not factory.draining())
        assert factory.ledger.rows[min(before)].outcome["reason"] == "killed"


@pytest.mark.parametrize("room", [0, 4096, 40_000, 100_000, 200_000])
async def test_a_start_on_a_full_disk_looks_after_its_machines(small_disk: Path, room: int) -> None:
    site = Site(small_disk, engine=small_disk.parent / "engine")
    async with site.running(config(TYPE, total=2)) as factory:
        before = await running(factory, 2)
    ballast = small_disk / "ballast"
    _fill(ballast)
    with ballast.open("r+b") as file:
        file.truncate(max(0, ballast.stat().st_size - room))
    async with site.running(config(TYPE, total=2)) as factory:
        after = await running(factory, 2)
        assert set(after) == set(before)
        site.engine.cut(min(before), "killed", 137)
        await until(lambda: not factory.ledger.rows[min(before)].live or factory.ledger.warnings.open())
        assert max(before) in site.alive()
        ballast.unlink()


@pytest.mark.parametrize(
    "pages", [0, 5, 17, 29, 37, 51, *(pytest.param(pages, marks=pytest.mark.soak) for pages in range(1, 120))]
)
async def test_whichever_write_finds_no_room_costs_no_machine(
    small_disk: Path, pages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many pages as that may still be written, from the first row of a new database to the outcome of a machine."""
    monkeypatch.setattr("lmd.factory.factory.TICK_SECONDS", 0.2)
    monkeypatch.setattr("lmd.factory.acts.FIRST_BACKOFF", 0.2)
    site = Site(small_disk, engine=small_disk.parent / "engine")
    ballast = small_disk / "ballast"
    _fill(ballast)
    with ballast.open("r+b") as file:
        file.truncate(max(0, ballast.stat().st_size - 4096 * pages))
    type_ = machinetype("work", "sleep", "0.05", "exit", "0", backoff_seconds=0)
    async with site.running(config(type_, total=2)) as factory:
        for _ in range(10):
            factory.wake()
            await asyncio.sleep(0.03)
        ballast.unlink()
        factory.wake()
        await until(lambda: [row for row in rows(factory, Phase.FINISHED) if row.outcome.get("reason") == "clean"], 60)
        factory.ledger.intend("drain", {"reason": "enough"})
        await until(lambda: not factory.ledger.live() and all(row.cleaned for row in rows(factory)))
        ended = {row.id: row.outcome.get("reason") for row in rows(factory)}
    made = {name for call, name in site.engine.calls() if call == "create.insert"}
    assert not site.engine.listing().records
    assert {name for name, reason in ended.items() if reason == "clean"} == made
    assert {path.name for path in site.places.machines.iterdir()} <= set(ended)


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (65_536, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


async def test_a_place_that_cannot_be_written_is_worked_around_with_a_copy(small_disk: Path) -> None:
    site = Site(small_disk, engine=small_disk.parent / "engine", run=small_disk.parent / "run")
    async with site.running(config(TYPE, total=2)) as factory:
        before = await running(factory, 2)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    async with site.running(config(TYPE, total=2)) as factory:
        after = await running(factory, 2)
        assert set(after) == set(before)
        assert not factory.store.in_place
        assert "working on a copy" in factory.ledger.warnings.open()[0].text
        site.engine.cut(min(before), "killed", 137)
        await until(lambda: not factory.ledger.rows[min(before)].live)


async def test_history_goes_by_age_and_by_size(site: Site) -> None:
    type_ = machinetype("work", "exit", "0")
    async with site.running(config(type_, total=4)) as factory:
        await until(lambda: len(rows(factory, Phase.FINISHED)) > 12)
        factory.ledger.intend("drain", {"reason": "enough"})
        await until(lambda: not factory.ledger.live())
        await factory.ledger.flush()
        count = len(await factory.store.read("SELECT id FROM machine"))
        await factory.ledger.prune(days=1, most_bytes=10**9)
        assert len(await factory.store.read("SELECT id FROM machine")) == count
        await factory.ledger.prune(days=1, most_bytes=60_000)
        kept = len(await factory.store.read("SELECT id FROM machine"))
        assert 0 < kept < count
        await factory.ledger.prune(days=0, most_bytes=10**9)
        assert not await factory.store.read("SELECT id FROM machine")


@pytest.mark.parametrize("file", sorted(DATA.glob("schema-*.sqlite")), ids=lambda path: path.stem)
async def test_a_database_of_an_earlier_version_is_brought_up_to_date(tmp_path: Path, file: Path) -> None:
    shutil.copy(file, tmp_path / "factory.sqlite")
    store = Store(tmp_path / "factory.sqlite", tmp_path / "refuge")
    content = await store.open()
    assert content.damage == []
    assert {row.phase for row in content.rows.values()} == {Phase.RUNNING, Phase.FINISHED}
    assert content.intents["drain"]["reason"] == "drained by user 0: stored"
    assert content.seq > 0
    assert await store.read("PRAGMA user_version") == [(VERSION,)]
    await store.aclose()


async def test_a_step_to_a_later_version_keeps_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way by which every later version will come, tried with a step that changes a table."""
    shutil.copy(DATA / "schema-1.sqlite", tmp_path / "factory.sqlite")
    with sqlite3.connect(tmp_path / "factory.sqlite") as db:
        before = db.execute("SELECT id, body FROM machine ORDER BY id").fetchall()
    db.close()
    step = "ALTER TABLE event ADD COLUMN level TEXT NOT NULL DEFAULT 'info'"
    monkeypatch.setattr("lmd.factory.store.STEPS", (*STEPS, step))
    monkeypatch.setattr("lmd.factory.store.VERSION", VERSION + 1)
    for _ in ("upgraded", "opened again"):
        store = Store(tmp_path / "factory.sqlite", tmp_path / "refuge")
        content = await store.open()
        assert content.damage == []
        assert set(content.rows) == {name for name, _ in before}
        assert await store.read("SELECT id, body FROM machine ORDER BY id") == before
        assert set(await store.read("SELECT level FROM event")) == {("info",)}
        assert await store.read("PRAGMA user_version") == [(VERSION + 1,)]
        await store.aclose()


async def test_a_step_that_fails_leaves_the_old_file_whole_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(DATA / "schema-1.sqlite", tmp_path / "factory.sqlite")
    monkeypatch.setattr(
        "lmd.factory.store.STEPS", (*STEPS, "CREATE TABLE new (a); INSERT INTO machine SELECT * FROM machine")
    )
    monkeypatch.setattr("lmd.factory.store.VERSION", VERSION + 1)
    store = Store(tmp_path / "factory.sqlite", tmp_path / "refuge")
    content = await store.open()  # never raises: the machines need looking after
    assert "moved to factory.sqlite.broken-1" in content.damage[0]
    assert await store.read("PRAGMA user_version") == [(VERSION + 1,)]
    await store.aclose()
    with sqlite3.connect(tmp_path / "factory.sqlite.broken-1") as db:
        assert db.execute("PRAGMA user_version").fetchone() == (VERSION,)
        assert db.execute("SELECT count(*) FROM machine").fetchone()[0] > 0
        assert not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'new'").fetchall()
    db.close()


async def test_one_write_or_none(tmp_path: Path) -> None:
    store = Store(tmp_path / "factory.sqlite", tmp_path / "refuge")
    await store.open()
    with pytest.raises(StoreFault):
        await store.write([put("intent", "a", {"x": 1}), ("INSERT INTO nothing VALUES (1)", ())])
    assert await store.read("SELECT key FROM intent WHERE key <> ''") == []
    await store.aclose()
