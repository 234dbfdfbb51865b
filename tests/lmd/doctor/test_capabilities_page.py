"""docs/capabilities.md says what the probes of private engines say.

With LMD_WRITE_PAGES in the environment the page is written anew.
"""

import asyncio
import json
import os
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path

import pytest

from lmd.config.models import Config
from lmd.doctor import Asked
from lmd.doctor.matrix import OF_THE_HOST, ROWS, Column, filled, of_host, parsed
from lmd.doctor.runtimes import gather
from lmd.places import Places
from runtimes import cgroups
from runtimes.contract import Capabilities, Delivery, EndReason, ImageKind, Limit, Network

PAGE = Path(__file__).parents[3] / "docs/capabilities.md"
LM = ("-c", "from lmd.cli.main import main; main()")


def probed(name: str, options: Mapping[str, str], directory: Path) -> Column:
    """What the runtime of this name says with these options."""
    asked = Asked(
        uid=os.geteuid(),
        user="root",
        environment={},
        config=Config(runtimes={name: options}),
        places=Places(directory / "s", directory / "r", directory / "c"),
        runtimes=(name,),
        trial=False,
    )
    [found] = of_host(asyncio.run(gather(asked)))
    return found


def podman(oci_runtime: str):
    def ask(request: pytest.FixtureRequest, directory: Path) -> Column:
        with request.getfixturevalue("private_podman")(f"page-{oci_runtime}", oci_runtime) as engine:
            return probed("podman", engine.options, directory)

    return ask


def rootless(request: pytest.FixtureRequest, directory: Path) -> Column:
    """With the devices as udev makes them."""
    user, poorer = request.getfixturevalue("ordinary_user"), request.getfixturevalue("poorer")
    devices = (("fuse", "/dev/fuse", "10 229"), ("tun", "/dev/net/tun", "10 200"))
    nodes = "; ".join(f"mknod -m 666 /mnt/{n} c {at}; mount --bind /mnt/{n} {path}" for n, path, at in devices)
    through = poorer(f"mount -t tmpfs none /mnt; {nodes}")
    done = user.run(str(user.python), *LM, "doctor", "--matrix", "--json", through=through)
    [told] = [one for one in json.loads(done.stdout) if one["engine"].startswith("podman ")]
    return Column(told["engine"], told["can"], told["missing"])


def of(name: str, fixture: str):
    def ask(request: pytest.FixtureRequest, directory: Path) -> Column:
        return probed(name, request.getfixturevalue(fixture).options, directory)

    return ask


ENGINES = {
    "Podman, crun": podman("crun"),
    "Podman, runc": podman("runc"),
    "Podman, rootless": rootless,
    "Docker": of("docker", "docker"),
    "Docker, remapped": of("docker", "remapped_docker"),
    "KVM": of("kvm", "libvirt_engine"),
}
"""The columns: a title, and how to ask a private engine of this kind."""


def test_the_page_says_what_the_probes_say(request: pytest.FixtureRequest, short_tmp: Path) -> None:
    columns = []
    for number, (title, ask) in enumerate(ENGINES.items()):
        directory = short_tmp / f"page{number}"
        directory.mkdir()
        columns.append(ask(request, directory).named(title))
    page = PAGE.read_text()
    if os.environ.get("LMD_WRITE_PAGES"):
        PAGE.write_text(filled(page, columns))
        return
    if cgroups.mounts().v1 and Path("/dev/fuse").stat().st_mode & 0o006 == 0o006:
        assert page == filled(page, columns), f"write it anew: LMD_WRITE_PAGES=1 pytest {Path(__file__).name}"
        return
    said = {title: _apart_from_the_host(cells) for title, cells in parsed(page).items()}
    assert said == {one.title: _apart_from_the_host(one.cells) for one in columns}


def _apart_from_the_host(cells: Mapping[str, str]) -> dict[str, str]:
    return {name: cell for name, cell in cells.items() if name not in OF_THE_HOST}


def test_the_page_can_be_read_back() -> None:
    table = parsed(PAGE.read_text())
    assert set(table) == set(ENGINES)
    assert table["Podman, rootless"]["user ids of its own"] == "–"
    assert table["Podman, crun"]["user ids of its own"] == "yes"


def test_each_capability_has_a_row() -> None:
    bare = replace(Capabilities(isolation="container"), usage=False)
    before = {name: tell(bare, frozenset()) for name, tell in ROWS.items()}
    whole = {
        "isolation": "vm",
        "images": frozenset(ImageKind),
        "delivery": frozenset(Delivery),
        "limits": frozenset(Limit),
        "networks": frozenset(Network),
        "end_reasons": frozenset(EndReason),
    }
    for field in fields(Capabilities):
        if field.name in ("absent", "architectures"):  # told below the table, and by lm doctor TYPE
            continue
        one = replace(bare, **{field.name: whole.get(field.name, True)})
        assert {name: tell(one, frozenset()) for name, tell in ROWS.items()} != before, field.name
