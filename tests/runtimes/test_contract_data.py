"""The contract's own data: which specs are the same, which ids are ids, and what a runtime lacks for a spec."""

from dataclasses import fields, replace
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes.contract import (
    CONTAINER_IMAGES,
    MACHINE_ID,
    Boot,
    Capabilities,
    Delivery,
    Image,
    ImageKind,
    Limit,
    Limits,
    Mount,
    Network,
    Nic,
    Placement,
    Spec,
    Tmpfs,
    UserNamespace,
    unmet,
)

IMAGE = Image(kind=ImageKind.REFERENCE, location="localhost/example")
PLAIN = Spec(id="lm-1", owner="run:0", space="vac.example.org", machinetype="example", image=IMAGE)
MOUNT = Mount(source=Path("/srv"), target=PurePosixPath("/srv"))

OTHER = {
    "id": "lm-2",
    "owner": "run:1",
    "space": "vac.example.com",
    "machinetype": "other",
    "image": replace(IMAGE, location="localhost/other"),
    "entrypoint": ("sh",),
    "args": ("-c",),
    "environment": {"A": "1"},
    "mounts": (MOUNT,),
    "tmpfs": (Tmpfs(target=PurePosixPath("/tmp"), size_bytes=1),),
    "scratch": (PurePosixPath("/scratch"),),
    "limits": Limits(pids=1),
    "required_limits": frozenset({Limit.PIDS}),
    "network": Network.NONE,
    "nic": Nic(
        address="169.254.1.1", prefix=16, gateway="169.254.169.253", mac="56:4d:a9:fe:01:01", port="p", bridge="b"
    ),
    "read_only_root": True,
    "user_namespace": UserNamespace.REQUIRED,
    "nested_containers": True,
    "capabilities": frozenset({"CHOWN"}),
    "devices": ("/dev/null",),
    "architecture": "arm64",
    "user": "1000",
    "console_bytes": 1,
    "lifetime_seconds": 1,
    "boot": Boot(kernel=Path("/boot/vmlinuz")),
    "disk_bytes": 1,
    "seed": Path("/seed.iso"),
    "uuid": "7f5d8e0c-3a40-4b53-9b5e-5a2f6c0f4c11",
    "working_directory": PurePosixPath("/work"),
    "graphics": True,
    "placement": Placement(numa_node=1),
    "idle": True,
}


def test_a_digest_is_sha256_in_hex_and_the_same_each_time() -> None:
    again = Spec(id="lm-1", owner="run:0", space="vac.example.org", machinetype="example", image=IMAGE)
    assert PLAIN.digest() == again.digest()
    assert len(bytes.fromhex(PLAIN.digest())) == 32


def test_a_digest_does_not_change_from_release_to_release() -> None:
    """Machines are adopted by it: whoever changes this number makes running machines conflicts of themselves."""
    assert PLAIN.digest() == "c0cb471e6ab09bf1ca6eee528ef4daebd1dd2cf202189825699b178975323c57"


@pytest.mark.parametrize("name", [f.name for f in fields(Spec) if f.name != "before_start"])
def test_a_digest_changes_with_every_field(name: str) -> None:
    assert replace(PLAIN, **{name: OTHER[name]}).digest() != PLAIN.digest()


@pytest.mark.parametrize(
    ("field", "one", "other"),
    [
        ("image", IMAGE, replace(IMAGE, kind=ImageKind.OCI_ARCHIVE)),
        ("image", IMAGE, replace(IMAGE, pull="always")),
        ("mounts", (MOUNT,), (replace(MOUNT, read_only=False),)),
        ("mounts", (MOUNT,), (replace(MOUNT, target=PurePosixPath("/other")),)),
        ("mounts", (MOUNT,), (replace(MOUNT, source=Path("/other")),)),
        ("mounts", (MOUNT,), (replace(MOUNT, owned_by_machine=True),)),
        ("mounts", (MOUNT,), (replace(MOUNT, propagate=True),)),
        ("limits", Limits(memory_bytes=1), Limits(memory_bytes=2)),
        ("limits", Limits(pids=1), Limits(open_files=1)),
        ("args", ("a", "b"), ("a b",)),
        ("args", None, ()),
        ("environment", {"A": "1", "B": "2"}, {"A": "2", "B": "1"}),
        ("boot", Boot(kernel=Path("/k")), Boot(kernel=Path("/k"), initramfs=Path("/i"))),
        ("boot", Boot(kernel=Path("/k")), Boot(kernel=Path("/k"), command_line="debug")),
        ("placement", Placement(cpus=(1, 2)), Placement(cpus=(1,))),
        ("scratch", (PurePosixPath("/a"), PurePosixPath("/b")), (PurePosixPath("/a"),)),
    ],
)
def test_a_digest_changes_with_what_is_inside_a_field(field: str, one: object, other: object) -> None:
    assert replace(PLAIN, **{field: one}).digest() != replace(PLAIN, **{field: other}).digest()


def test_a_digest_does_not_depend_on_the_order_of_what_has_none() -> None:
    names = [f"CAP{number}" for number in range(20)]
    forward = replace(PLAIN, environment=dict.fromkeys(names, "x"), capabilities=frozenset(names))
    backward = replace(PLAIN, environment=dict.fromkeys(reversed(names), "x"), capabilities=frozenset(reversed(names)))
    assert forward.digest() == backward.digest()


def test_a_digest_does_not_depend_on_the_step_before_the_start() -> None:
    async def step(started: object) -> None:
        """Nothing."""

    assert replace(PLAIN, before_start=step).digest() == PLAIN.digest()


@given(st.from_regex(MACHINE_ID, fullmatch=True))
def test_every_dns_label_is_an_id(label: str) -> None:
    assert 1 <= len(label) <= 63
    assert replace(PLAIN, id=label).id == label


@pytest.mark.parametrize("bad", ["", "-a", "a-", "A", "a.b", "a_b", "a\n", " a", "a" * 64, "ä", "a/b", ".."])
def test_what_is_no_dns_label_is_refused_by_name(bad: str) -> None:
    with pytest.raises(ValueError, match="is not a DNS label"):
        replace(PLAIN, id=bad)


ABLE = Capabilities(
    isolation="container",
    images=CONTAINER_IMAGES,
    delivery=frozenset(Delivery),
    limits=frozenset(Limit),
    networks=frozenset(Network),
    user_namespace=True,
    nested_containers=True,
    read_only_root=True,
    scratch=True,
    devices=True,
    before_start=True,
    boot=True,
    disks=True,
    graphics=True,
    placement=True,
    architectures=frozenset({"amd64"}),
)


async def step(started: object) -> None:
    """Nothing."""


@pytest.mark.parametrize(
    ("lost", "asked", "said"),
    [
        ({"images": frozenset()}, {}, "image kind reference"),
        ({"networks": frozenset()}, {}, "network bridge"),
        ({"scratch": False}, {"scratch": (PurePosixPath("/s"),)}, "scratch"),
        ({"devices": False}, {"devices": ("/dev/kvm",)}, "devices"),
        ({"read_only_root": False}, {"read_only_root": True}, "read-only root"),
        ({"nested_containers": False}, {"nested_containers": True}, "nested containers"),
        ({"boot": False}, {"boot": Boot(kernel=Path("/vmlinuz"))}, "a kernel"),
        ({"disks": False}, {"disk_bytes": 1}, "disks of its own"),
        ({"disks": False}, {"seed": Path("/seed.iso")}, "disks of its own"),
        ({"graphics": False}, {"graphics": True}, "graphics"),
        ({"placement": False}, {"placement": Placement(cpus=(1,))}, "placement"),
        ({"before_start": False}, {"before_start": step}, "before the payload"),
        ({"user_namespace": False}, {"user_namespace": UserNamespace.REQUIRED}, "user namespace"),
        ({"architectures": frozenset()}, {"architecture": "amd64"}, "architecture amd64"),
        ({"limits": frozenset()}, {"limits": Limits(processors=1)}, "limit on processors"),
        ({"limits": frozenset()}, {"limits": Limits(memory_bytes=1)}, "limit on memory"),
        ({"limits": frozenset()}, {"limits": Limits(pids=1)}, "limit on pids"),
        ({"limits": frozenset()}, {"limits": Limits(open_files=1)}, "limit on open_files"),
    ],
)
def test_each_thing_that_is_lacking_is_named_with_its_reason(
    lost: dict[str, object], asked: dict[str, object], said: str
) -> None:
    spec = replace(PLAIN, **asked)
    assert unmet(spec, ABLE) == []
    (why,) = lost
    (sentence,) = unmet(spec, replace(ABLE, **lost, absent={why: "the kernel is old"}))
    assert said in sentence
    assert sentence.endswith("(the kernel is old)")


def test_what_is_not_asked_for_is_not_missed() -> None:
    bare = Capabilities(
        isolation="container", images=frozenset({ImageKind.REFERENCE}), networks=frozenset({Network.BRIDGE})
    )
    assert unmet(PLAIN, bare) == []


def test_a_limit_that_need_not_be_enforced_is_not_missed() -> None:
    spec = replace(PLAIN, limits=Limits(memory_bytes=1, pids=1), required_limits=frozenset({Limit.PIDS}))
    (sentence,) = unmet(spec, replace(ABLE, limits=frozenset()))
    assert "pids" in sentence


def test_all_that_is_lacking_is_named_at_once() -> None:
    spec = replace(PLAIN, scratch=(PurePosixPath("/s"),), read_only_root=True, devices=("/dev/kvm",))
    assert len(unmet(spec, Capabilities(isolation="vm"))) == 5
