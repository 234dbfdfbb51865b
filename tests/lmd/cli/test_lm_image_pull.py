"""`lm image pull`, `list` and `prune` with a registry on loopback that can also misbehave."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_registry import Registry

from images import cache, recipe
from images.archive import ImageConfig, host_architecture, write_oci_archive, write_oci_layout


@pytest.fixture(scope="module")
def registry(tmp_path_factory, busybox_root: Path) -> Iterator[Registry]:
    layout = tmp_path_factory.mktemp("registry") / "layout"
    write_oci_layout(busybox_root, layout, ImageConfig(labels={"from": "registry"}))
    made = Registry(layout)
    yield made
    made.close()


@pytest.fixture(scope="module")
def podman(private_podman, registry: Registry, tmp_path_factory) -> Iterator[object]:
    """A Podman that takes the registry without TLS."""
    conf = tmp_path_factory.mktemp("conf") / "registries.conf"
    location = registry.name.partition("/")[0]
    conf.write_text(f'[[registry]]\nlocation = "{location}"\ninsecure = true\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONTAINERS_REGISTRIES_CONF", str(conf))
        with private_podman("registry", "crun") as engine:
            yield engine


@pytest.fixture
def store(lm, registry: Registry) -> Iterator[object]:
    """`lm` with empty stores before and after, and a registry that behaves."""
    lm.environment["LMD_CACHE_DIR"] = str(lm.home / "cache")
    registry.fault = ""
    registry.pulls = 0
    yield lm
    registry.fault = ""
    if left := podman_s(lm, "images", "--all", "--quiet").split():
        podman_s(lm, "rmi", "--force", *set(left))


def kept(lm) -> list[dict]:
    return json.loads(lm("image", "list", "--json").stdout)["engines"]


def podman_s(lm, *words: str) -> str:
    """What the private Podman's own client says."""
    options = lm.podman_options
    flags = [f"--{name.replace('_', '-')}={options[name]}" for name in ("root", "runroot", "tmpdir")]
    return subprocess.run(["podman", *flags, *words], capture_output=True, text=True, check=True).stdout


def test_a_pulled_image_is_listed_as_ours_run_and_pruned(store, registry: Registry) -> None:
    done = store("image", "pull", f"{registry.name}:1")
    assert done.returncode == 0, done.stderr
    assert registry.image_id in done.stdout
    [image] = kept(store)
    assert image["id"] == registry.image_id.removeprefix("sha256:")[:12]
    assert image["used"] == pytest.approx(time.time(), abs=30)
    name = store.machinetype("pulled", "echo runs", root_image=f"docker://{registry.name}:1", pull="never")
    assert "runs" in store("run", name).stdout
    assert store("image", "prune", "--keep", "0").returncode == 0
    assert podman_s(store, "images", "--all", "--quiet") == ""


def test_a_name_pinned_to_its_digest_is_pulled(store, registry: Registry) -> None:
    done = store("image", "pull", f"docker://{registry.name}@{registry.digest}", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["image_id"] == registry.image_id


def test_a_registry_that_misbehaves_is_told_in_one_line_and_nothing_stays(store, registry: Registry) -> None:
    pinned = f"{registry.name}@{registry.digest}"
    for fault, name, said in (
        ("lies", pinned, "digest"),
        ("spoils", f"{registry.name}:1", "digest"),
        ("refuses", f"{registry.name}:1", "denied"),
        ("", f"{registry.name}@sha256:{'0' * 64}", "404"),
    ):
        registry.fault = fault
        done = store("image", "pull", name)
        assert done.returncode == 1
        [line] = done.stderr.splitlines()
        assert line.startswith(f"lm: podman could not pull {name}: ")
        assert said in line.lower()
    assert podman_s(store, "images", "--all", "--quiet") == ""


def test_an_image_for_other_processors_is_refused_and_does_not_stay(store, registry: Registry, busybox_root) -> None:
    other = "s390x" if host_architecture() != "s390x" else "amd64"
    write_oci_layout(busybox_root, store.home / "other", ImageConfig(architecture=other))
    name = f"{registry.name}@{registry.add(store.home / 'other')}"
    done = store("image", "pull", name)
    assert done.returncode == 1
    assert f"{name}: is for {other}, machines here have {host_architecture()}" in done.stderr
    assert podman_s(store, "images", "--all", "--quiet") == ""


def test_a_registry_that_hangs_is_given_up_after_the_timeout(store, registry: Registry) -> None:
    registry.fault = "hangs"
    began = time.monotonic()
    done = store("image", "pull", f"{registry.name}:1", "--timeout", "2")
    assert done.returncode == 1
    assert "not there after 2 s" in done.stderr
    assert time.monotonic() - began < 15


def test_ctrl_c_ends_a_pull_that_hangs(store, registry: Registry) -> None:
    registry.fault = "hangs"
    running = store.start("image", "pull", f"{registry.name}:1")
    time.sleep(2)
    running.signal(signal.SIGINT)
    assert running.wait(15) == 130


def test_two_runs_that_need_one_image_pull_it_once(store, registry: Registry) -> None:
    name = store.machinetype("both", "exit 0", root_image=f"docker://{registry.name}:1")
    first, second = store.start("run", name, "-o", "one"), store.start("run", name, "-o", "two")
    assert [first.wait(), second.wait()] == [0, 0], first.said() + second.said()
    assert registry.pulls <= 2  # of one pull: HEAD or GET by the tag


def test_an_image_in_use_stays_and_so_does_what_is_not_ours(store, registry: Registry) -> None:
    podman_s(store, "pull", "--quiet", f"{registry.name}:theirs")
    name = store.machinetype(
        "use", "trap 'exit 0' TERM; echo up; while :; do sleep 0.1; done", root_image="lmd:busybox"
    )
    running = store.start("run", name)
    running.until("up")
    assert store("image", "prune", "--keep", "0").returncode == 0
    assert [image["in_use"] for image in kept(store)] == [True]
    running.signal(signal.SIGINT)
    assert running.wait() == 15
    assert store("image", "prune", "--keep", "0").returncode == 0
    assert podman_s(store, "images", "--format", "{{.Repository}}").split() == [registry.name]
    podman_s(store, "rmi", f"{registry.name}:theirs")


def test_the_least_recently_used_go_first_and_only_as_many_as_need_be(store, busybox_root: Path) -> None:
    ids = []
    for number in range(2):
        path = store.home / f"{number}.tar"
        ids.append(write_oci_archive(busybox_root, path, ImageConfig(labels={"number": str(number)})))
        assert store("image", "pull", f"oci-archive:{path}").returncode == 0
        time.sleep(0.05)
    assert store("image", "pull", f"oci-archive:{store.home}/0.tar").returncode == 0
    first, second = (each.removeprefix("sha256:") for each in ids)
    shown = json.loads(store("image", "prune", "--keep", "3M", "--dry-run", "--json").stdout)
    assert [image["id"] for image in shown["removed"]] == [second[:12]]
    assert store("image", "prune", "--keep", "3M").returncode == 0
    assert podman_s(store, "images", "--quiet", "--no-trunc").split() == [f"sha256:{first}"]


def test_built_images_are_pruned_too_and_their_names_go_to_what_is_left(store) -> None:
    folder = store.home / "cache/images"
    older, newer = (cache.ensure(folder, recipe.find_recipe("busybox"), epoch) for epoch in (0, 1))
    os.utime(older.path, (0, 0))
    half = str(older.size_bytes + newer.size_bytes - 1)
    [gone] = json.loads(store("image", "prune", "--keep", half, "--json").stdout)["removed"]
    assert (gone["where"], gone["id"]) == ("built", older.image_id.removeprefix("sha256:")[:12])
    assert (folder / "busybox.tar").resolve() == newer.path
    assert store("image", "prune", "--keep", "0").returncode == 0
    assert cache.find("busybox", (folder,)) is None
    assert cache.listed(folder) == []


def test_an_archive_s_own_name_is_not_left_in_the_store_nor_taken_from_another_image(store, busybox_root: Path) -> None:
    for number in range(2):
        config = ImageConfig(reference="localhost/somebody/s:1", labels={"number": f"name {number}"})
        write_oci_archive(busybox_root, store.home / f"{number}.tar", config)
    assert store("image", "pull", f"oci-archive:{store.home}/0.tar").returncode == 0
    assert "somebody" not in podman_s(store, "images", "--format", "{{.Repository}}")
    [theirs] = podman_s(store, "images", "--quiet", "--no-trunc").split()
    podman_s(store, "tag", theirs, "localhost/somebody/s:1")
    assert store("image", "pull", f"oci-archive:{store.home}/1.tar").returncode == 0
    assert podman_s(store, "image", "inspect", "--format", "{{.Id}}", "localhost/somebody/s:1").strip() in theirs
    assert store("image", "prune", "--keep", "0").returncode == 0
    assert podman_s(store, "images", "--format", "{{.Repository}}").split() == ["localhost/somebody/s"]
    podman_s(store, "rmi", "localhost/somebody/s:1")


def test_what_is_no_image_and_no_size_is_told(store) -> None:
    for words, code, said in (
        (["pull", "oci-archive:/nowhere.tar"], 2, "/nowhere.tar"),
        (["pull", "/"], 2, "used in place"),
        (["pull", "oci-archive:/etc/passwd"], 1, "not a readable oci-archive"),
        (["pull", "localhost/x", "--runtime", "nope"], 1, "no runtime 'nope'"),
        (["prune", "--keep", "lots"], 2, "expected a size"),
    ):
        done = store("image", *words)
        assert (done.returncode, said in done.stderr, "Traceback" in done.stderr) == (code, True, False), done.stderr


def test_an_engine_that_cannot_be_asked_is_told_and_keeps_its_images(store, registry: Registry) -> None:
    assert store("image", "pull", f"{registry.name}:1").returncode == 0
    config = store.home / "config/lmd.toml"
    working = config.read_text()
    config.write_text('[runtimes.podman]\nsocket = "/nowhere.sock"\n')
    listed, pruned = store("image", "list"), store("image", "prune", "--keep", "0")
    config.write_text(working)
    assert (listed.returncode, "podman cannot be asked" in listed.stderr) == (0, True)
    assert (pruned.returncode, "podman cannot be asked" in pruned.stderr) == (1, True)
    assert len(kept(store)) == 1
