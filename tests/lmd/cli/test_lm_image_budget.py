"""`image_budget`: the least recently used images go, and none that something needs."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from images.archive import ImageConfig, write_oci_archive

ROOM_FOR_TWO = "5M"
"""An image of these tests takes a little more than 2 MB."""


@pytest.fixture(scope="session")
def podman(private_podman) -> Iterator[object]:
    with private_podman("budget", "crun") as engine:
        yield engine


@pytest.fixture
def store(lm, busybox_root: Path) -> Iterator[object]:
    """`lm` with an empty store and cache, and three archives, 0.tar to 2.tar."""
    lm.environment["LMD_CACHE_DIR"] = str(lm.home / "cache")
    for number in range(3):
        write_oci_archive(busybox_root, lm.home / f"{number}.tar", ImageConfig(labels={"number": str(number)}))
    yield lm
    (lm.home / "config/conf.d/more.toml").unlink(missing_ok=True)
    assert lm("image", "prune", "--keep", "0").returncode == 0
    assert kept(lm) == {}


def configure(lm, text: str) -> None:
    (lm.home / "config/conf.d").mkdir(exist_ok=True)
    (lm.home / "config/conf.d/more.toml").write_text(text)


def pulled(lm, number: int) -> str:
    """Bring an archive into the store; returns its id's digits."""
    done = lm("image", "pull", f"oci-archive:{lm.home}/{number}.tar", "--json")
    assert done.returncode == 0, done.stderr
    time.sleep(0.02)  # so that times of use differ
    return json.loads(done.stdout)["image_id"].removeprefix("sha256:")[:12]


def kept(lm) -> dict[str, dict]:
    return {image["id"]: image for image in json.loads(lm("image", "list", "--json").stdout)["engines"]}


def test_what_is_over_the_budget_goes_the_least_recently_used_first_and_never_the_newest(store) -> None:
    configure(store, f'[settings]\nimage_budget = "{ROOM_FOR_TWO}"\n')
    first, second = pulled(store, 0), pulled(store, 1)
    assert pulled(store, 0) == first  # used again
    third = pulled(store, 2)
    assert set(kept(store)) == {first, third}
    configure(store, "[settings]\nimage_budget = 1\n")
    done = store("image", "pull", f"oci-archive:{store.home}/1.tar")
    assert set(kept(store)) == {second}
    assert f"localhost/lmd:{third} (podman)" in done.stderr


def test_what_a_configured_machinetype_refers_to_stays(store) -> None:
    types = f"""
        [machinetypes.archive]
        root_image = "oci-archive:{store.home}/0.tar"
        [machinetypes.name]
        root_image = "docker://localhost/lmd:{{}}"
    """
    first, second, third = (pulled(store, number) for number in range(3))  # without a budget nothing goes
    configure(store, f'[settings]\nimage_budget = "{ROOM_FOR_TWO}"\n' + types.format(second))
    assert {digits: image["needed_by"] for digits, image in kept(store).items()} == {
        first: ["archive"],
        second: ["name"],
        third: [],
    }
    assert store("image", "prune").returncode == 0  # down to the budget, as far as may be
    assert set(kept(store)) == {first, second}
    assert "(needed by archive)" in store("image", "list").stdout


def test_a_run_holds_to_the_budget_when_it_is_over(store) -> None:
    first = pulled(store, 0)
    configure(store, "[settings]\nimage_budget = 1\n")
    name = store.machinetype("run", "exit 0", root_image=f"oci-archive:{store.home}/1.tar")
    done = store("run", name)
    assert done.returncode == 0, done.stderr
    assert f"removed to keep within image_budget: localhost/lmd:{first} (podman)" in done.stderr


def test_an_engine_that_cannot_be_asked_is_told_and_nothing_of_it_goes(store) -> None:
    first = pulled(store, 0)
    config = store.home / "config/lmd.toml"
    working = config.read_text()
    configure(store, "[settings]\nimage_budget = 1\n")
    config.write_text('[runtimes.podman]\nsocket = "/nowhere.sock"\n')
    done = store("image", "build", "busybox")
    config.write_text(working)
    assert done.returncode == 0
    assert "image_budget: podman cannot be asked" in done.stderr
    assert first in kept(store)
