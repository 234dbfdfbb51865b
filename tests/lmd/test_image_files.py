"""Images that virtual machines start from: listed, kept while in use, removed."""

import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest

from images.described import Described
from lmd.config.models import Config
from lmd.image_files import ROOT_FILE, UNPACKED, in_use, unpacked
from lmd.image_store import remove, stored, surplus
from lmd.places import Places

ID = "ab" * 32
NOW = 2e9


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """With one unpacked image and one file made of it, both last used long ago."""
    made = Places(tmp_path / "state", tmp_path / "run", tmp_path / "cache")
    home = made.cache / "roots" / ID
    (home / "root").mkdir(parents=True)
    described = Described(image_id=f"sha256:{ID}", architecture="amd64", diff_ids=())
    (home / "image.json").write_text(json.dumps({"described": asdict(described), "bytes": 1000, "entries": 3}))
    file = made.cache / "rootfiles" / f"{ID}.ext4"
    file.parent.mkdir()
    file.write_bytes(b"x" * 5000)
    for path in (home / "image.json", file):
        os.utime(path, (1e9, 1e9))
    return made


def test_both_are_listed_with_what_they_take_and_their_last_use(places: Places) -> None:
    found = {one.where: one for one in unpacked(places)}
    assert set(found) == {UNPACKED, ROOT_FILE}
    assert {one.id for one in found.values()} == {ID}
    assert found[UNPACKED].bytes == 1000
    assert found[ROOT_FILE].bytes >= 5000
    assert {one.used for one in found.values()} == {1e9}


@pytest.mark.parametrize(
    ("of_machines", "now", "kept"),
    [
        (set(), NOW, False),
        ({ID[:12]}, NOW, True),
        (None, NOW, True),  # an engine could not be asked
        (set(), 1e9 + 60, True),  # a machine may just be started with it
    ],
)
def test_what_a_machine_has_or_may_have_is_in_use(places: Places, of_machines, now: float, kept: bool) -> None:
    assert {one.in_use for one in in_use(unpacked(places), of_machines, now)} == {kept}


async def test_what_nobody_uses_is_removed(places: Places) -> None:
    store = await stored(Config(), places, ())
    going = surplus(store.images, 0)
    assert len(going) == 2
    assert await remove(going, Config(), places) == []
    assert unpacked(places) == []
    assert await remove(going, Config(), places) == []  # absent is success


async def test_an_engine_that_cannot_be_asked_keeps_them(places: Places) -> None:
    config = Config(runtimes={"podman": {"socket": "/nowhere.sock"}})
    store = await stored(config, places, ("podman",))
    assert len(store.problems) == 1
    assert surplus(store.images, 0) == []
