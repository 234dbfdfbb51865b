"""What the KVM runtime says to libvirt and to guests, and what it makes of their answers. No engine."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtimes.contract import (
    Boot,
    EndReason,
    Health,
    Image,
    ImageKind,
    Limits,
    Mount,
    Network,
    Nic,
    Placement,
    Rejected,
    Settings,
    Spec,
    Tmpfs,
    unmet,
)
from runtimes.kvm import Kvm, acceleration, domain, making, plan
from runtimes.kvm.acceleration import Acceleration, judged, kept
from runtimes.kvm.capabilities import capabilities
from runtimes.kvm.description import description
from runtimes.kvm.ends import Facts, began, end, over
from runtimes.kvm.place import Place

GOLDEN = Path(__file__).parent / "golden"
BOOT = Boot(kernel=Path("/boot/kernel"), initramfs=Path("/boot/initramfs"))
ROOT = Image(kind=ImageKind.ROOT_DIRECTORY, location="/srv/root")
DIRECT = Spec(
    id="lm-1",
    owner="run:0",
    space="vac.example.org",
    machinetype="example",
    image=ROOT,
    boot=BOOT,
    entrypoint=("/bin/sh",),
    network=Network.NONE,
)
DISK = replace(DIRECT, image=Image(kind=ImageKind.DISK_QCOW2, location="/srv/cloud.qcow2"), boot=None, entrypoint=None)
NIC = Nic(
    address="169.254.0.5", prefix=16, gateway="169.254.169.254", mac="52:54:00:00:00:05", port="lmd5", bridge="lmd0"
)
SPECS = {
    "direct": DIRECT,
    "direct-network": replace(DIRECT, network=Network.BRIDGE, disk_bytes=10**9, limits=Limits(processors=2.5)),
    "cloud-image": replace(
        DISK, network=Network.LMD, nic=NIC, disk_bytes=4 * 10**10, limits=Limits(processors=4, memory_bytes=2**33)
    ),
    "boot-iso": replace(
        DISK, image=Image(kind=ImageKind.BOOT_ISO, location="/srv/cernvm.iso"), disk_bytes=2 * 10**10, graphics=True
    ),
    "placed": replace(
        DIRECT,
        limits=Limits(processors=2, memory_bytes=2**30),
        placement=Placement(cpus=(4, 5), numa_node=1, hugepage_bytes=2**21),
        architecture="amd64",
    ),
    "seeded": replace(DISK, seed=Path("/srv/seed.iso"), network=Network.BRIDGE),
}


def document(spec: Spec, *, accelerated: bool = False) -> str:
    place = Place(Path("/var/lib/lmd/kvm"), spec.id)
    return domain.xml(
        plan.domain(
            spec, place, created=1_700_000_000.0, first_uid=70_000, accelerated=accelerated, architecture="x86_64"
        )
    )


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("accelerated", [False, True], ids=["emulated", "kvm"])
def test_the_domain_of_a_spec_is_the_golden_one(name: str, accelerated: bool) -> None:
    """After a change that is meant: write the new documents with `LMD_GOLDEN=write`, and read the difference."""
    path = GOLDEN / f"{name}-{'kvm' if accelerated else 'emulated'}.xml"
    made = document(SPECS[name], accelerated=accelerated)
    if os.environ.get("LMD_GOLDEN") == "write":
        path.write_text(made)
    assert made == path.read_text()


@settings(deadline=None)
@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=0x2FFF), min_size=1, max_size=40))
def test_no_text_of_a_spec_becomes_markup(text: str) -> None:
    hostile = f"</domain>'\"<&]]>{text}"
    spec = replace(DISK, space=hostile, machinetype=hostile, image=replace(DISK.image, location=f"/srv/{hostile}"))
    root = ET.fromstring(document(spec))
    stamp = root.find("metadata/{urn:lmd:machine:1}machine")
    assert stamp is not None
    assert stamp.findtext("{urn:lmd:machine:1}space") == hostile
    assert {element.tag for element in root.iter()} == {element.tag for element in ET.fromstring(document(DISK)).iter()}


@pytest.mark.parametrize(
    ("name", "told"), [("ab" * 32, True), (f"{'ab' * 32}.ext4", True), ("ab" * 33, False), ("root", False)]
)
def test_an_image_that_is_named_by_its_digest_is_stamped(name: str, told: bool) -> None:
    spec = replace(DIRECT, image=Image(kind=ImageKind.ROOT_DIRECTORY, location=f"/srv/{name}"))
    assert plan.stamp(spec, 0, 70_000).get("image") == (f"sha256:{'ab' * 32}" if told else None)


def test_the_stamp_is_read_from_what_libvirt_gives_back() -> None:
    element = ET.fromstring(document(DIRECT)).find("metadata/{urn:lmd:machine:1}machine")
    assert element is not None
    assert domain.stamp_of(ET.tostring(element, encoding="unicode")) == plan.stamp(DIRECT, 1_700_000_000.0, 70_000) | {}
    assert domain.stamp_of("<other/>") == {} == domain.stamp_of("no xml")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"boot": None}, "lm image build micro"),
        ({"limits": Limits(memory_bytes=1)}, "memory_bytes is 1"),
        ({"disk_bytes": 5}, "disk_bytes is 5"),
        ({"image": Image(kind=ImageKind.BOOT_ISO, location="/x.iso")}, "brings its own kernel"),
    ],
)
def test_what_no_virtual_machine_can_be_is_rejected(changes: dict[str, object], said: str) -> None:
    with pytest.raises(Rejected, match=said):
        document(replace(DIRECT, **changes))


def test_mounts_need_a_guest_that_knows_them() -> None:
    with pytest.raises(Rejected, match="by HTTP"):
        document(replace(DISK, mounts=(Mount(source=Path("/srv"), target=PurePosixPath("/srv")),)))


def words(spec: Spec, kinds: dict[int, str] | None = None) -> list[str]:
    return description(spec, kinds or {}).decode().split("\0")[:-1]


def test_a_guest_is_told_its_command_word_by_word() -> None:
    said = words(replace(DIRECT, args=("-c", "echo 'a'\n; $(id)", ""), environment={"A": "", "B": "x\ny"}))
    assert said[-8:] == ["argument", "/bin/sh", "argument", "-c", "argument", "echo 'a'\n; $(id)", "argument", ""]
    assert [said[at + 1] for at, word in enumerate(said) if word == "environment"][1:] == ["A=", "B=x\ny"]


def test_outer_mounts_come_before_inner_ones() -> None:
    spec = replace(
        DIRECT,
        mounts=(
            Mount(source=Path("/a"), target=PurePosixPath("/tmp/deep/er")),
            Mount(source=Path("/b"), target=PurePosixPath("/srv"), read_only=False),
        ),
        tmpfs=(Tmpfs(target=PurePosixPath("/tmp"), size_bytes=5),),
    )
    said = words(spec, {0: "dir", 1: "file"})
    assert said.index("/tmp") < said.index("/tmp/deep/er")
    assert said[said.index("/srv") - 4 : said.index("/srv")] == ["mount", "file", "rw", "mounts/1"]


@pytest.mark.parametrize("bad", ["relative", "/", "/a/../b"])
def test_a_place_that_is_none_is_rejected(bad: str) -> None:
    with pytest.raises(Rejected, match="no place in a machine"):
        words(replace(DIRECT, scratch=(PurePosixPath(bad),)))


def test_a_word_with_a_nul_byte_is_rejected() -> None:
    with pytest.raises(Rejected, match="NUL"):
        words(replace(DIRECT, args=("a\0b",)))


LOG = """2026-11-24 12:05:23.731+0000: starting up libvirt version: 9.0.0
LC_ALL=C \\
2026-11-24 12:05:30.239+0000: shutting down, reason={reason}
"""
AT = 1_795_521_930.239


@pytest.mark.parametrize(
    ("report", "reason", "logged", "direct", "by", "told", "code"),
    [
        ("exit 0", "shutdown", "shutdown", True, "", EndReason.CLEAN, 0),
        ("exit 7\n", None, "shutdown", True, "", EndReason.FAILED, 7),
        ("exit 143", None, "shutdown", True, "", EndReason.KILLED, 143),
        ("oom 137", "shutdown", "shutdown", True, "", EndReason.OOM, 137),
        ("failed the disk lmd-root is not there", None, "shutdown", True, "", EndReason.CRASHED, None),
        ("exit 999", None, "shutdown", True, "", EndReason.LOST, None),
        ("exit \x1b[31m0", None, "shutdown", True, "", EndReason.LOST, None),
        ("\0" * 400, None, "shutdown", True, "", EndReason.LOST, None),
        ("", "destroyed", "destroyed", True, "", EndReason.KILLED, None),
        ("", None, "destroyed", True, "", EndReason.KILLED, None),
        ("", "crashed", "", True, "", EndReason.CRASHED, None),
        ("", None, "crashed", False, "", EndReason.CRASHED, None),
        ("", "shutdown", "shutdown", False, "", EndReason.CLEAN, None),
        ("", "shutdown", "shutdown", True, "", EndReason.LOST, None),
        ("", "shutdown", "shutdown", True, "guest", EndReason.CLEAN, None),
        ("", None, "shutdown", True, "guest", EndReason.CLEAN, None),
        ("", "shutdown", "shutdown", False, "host", EndReason.KILLED, None),
        ("exit 3", "shutdown", "shutdown", True, "host", EndReason.FAILED, 3),
        ("", "crashed", "crashed", True, "guest", EndReason.CRASHED, None),
        ("", None, "", False, "", EndReason.LOST, None),
    ],
)
def test_an_end_is_told_by_its_best_witness(
    report: str, reason: str | None, logged: str, direct: bool, by: str, told: EndReason, code: int | None
) -> None:
    log = LOG.format(reason=logged) if logged else ""
    seen = end(Facts(reason=reason, log=log, direct=direct, report=report, by=by))
    assert (seen.reason, seen.exit_code) == (told, code)
    assert seen.detail.isprintable()
    if logged:
        assert seen.at == pytest.approx(AT)


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_no_report_of_a_guest_is_too_much(report: bytes) -> None:
    seen = end(Facts(reason="shutdown", log="", direct=True, report=report.decode(errors="replace")))
    assert seen.detail.isprintable()
    assert seen.exit_code is None or 0 <= seen.exit_code <= 255


def test_the_last_start_in_the_log_counts() -> None:
    assert began("") is None
    assert began(LOG.format(reason="x") + LOG.format(reason="y").replace("12:05:23", "13:05:23")) == pytest.approx(
        1_795_525_523.731
    )


def test_what_starts_anew_is_not_over() -> None:
    starting = LOG.partition("2026-11-24 12:05:30")[0]
    assert not over("")
    assert not over(starting)
    assert over(LOG.format(reason="shutdown"))
    assert not over(LOG.format(reason="failed") + starting)


@pytest.mark.parametrize(
    ("emulated", "accelerated", "works", "said"),
    [
        (0.4, 0.2, True, ""),
        (0.4, 0.9, True, ""),
        (2.0, 5.0, True, ""),
        (0.1, 3.0, False, "took 3.0 s with it and 0.1 s without"),
        (0.1, None, False, "hangs"),
        (0.1, "failed to initialize kvm", False, "failed to initialize kvm"),
    ],
)
def test_kvm_works_if_a_test_machine_ends_in_time(
    emulated: float, accelerated: float | str | None, works: bool, said: str
) -> None:
    found = judged(emulated, accelerated)
    assert found.works is works
    assert said in found.reason
    assert works or found.remedy


def test_the_answer_is_kept_for_this_boot_and_this_qemu(tmp_path: Path) -> None:
    path, found = tmp_path / "state/answer.json", Acceleration(False, "no luck", "buy one")
    acceleration.keep(path, "QEMU 7.2", found)
    assert kept(path, "QEMU 7.2") == found
    assert kept(path, "QEMU 8.0") is None
    path.write_text(path.read_text().replace(acceleration.BOOT_ID.read_text().strip(), "another"))
    assert kept(path, "QEMU 7.2") is None
    path.write_text("[]")
    assert kept(path, "QEMU 7.2") is None


def test_a_host_without_user_namespaces_refuses_machines_that_share_its_files(tmp_path: Path) -> None:
    limit = tmp_path / "max_user_namespaces"
    limit.write_text("0\n")
    can = capabilities(frozenset({"amd64"}), virtiofsd=not making.no_ids(limit), without=making.no_ids(limit))
    (lacking, *_) = unmet(DIRECT, can)
    assert "sysctl -w user.max_user_namespaces=15000" in lacking
    limit.write_text("95000\n")
    assert not making.no_ids(limit)
    assert not making.no_ids(tmp_path / "absent")


@pytest.mark.parametrize("bad", ["../up", "", "a/b", "UPPER", "a\n"])
def test_no_machine_has_a_place_outside(bad: str) -> None:
    with pytest.raises(ValueError, match="no machine id"):
        Place(Path("/var/lib/lmd/kvm"), bad)


@pytest.mark.parametrize(
    ("programs", "said", "typed"),
    [
        ((), "libvirt is not installed", "apt-get install libvirt-daemon-system"),
        (("libvirtd",), "libvirtd does not run", "systemctl start libvirtd"),
        (("virtqemud",), "virtqemud does not run", "systemctl start virtqemud.socket"),
    ],
)
async def test_a_host_without_a_running_libvirt_is_told_what_to_type(
    programs: tuple[str, ...], said: str, typed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in programs:
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr(making, "DAEMONS", str(tmp_path))
    monkeypatch.setattr(making, "SOCKETS", (tmp_path / "libvirt-sock",))
    monkeypatch.setattr("runtimes.kvm.runtime.DEFAULT_URI", uri := f"qemu:///system?socket={tmp_path}/gone")
    runtime = Kvm(Settings(state_dir=tmp_path, run_dir=tmp_path, cache_dir=tmp_path, options={"uri": uri}))
    monkeypatch.setattr(making, "remedy", lambda _, remedy=making.remedy: remedy("qemu:///system"))
    try:
        probe = await runtime.probe()
    finally:
        await runtime.aclose()
    assert (probe.health, probe.reason) == (Health.MISSING, said)
    assert probe.remedy.startswith(typed)


def test_a_process_ends_although_a_libvirt_hangs_while_it_is_opened(short_tmp: Path) -> None:
    path = short_tmp / "hangs.sock"
    script = f"""
import asyncio
from runtimes.contract import Unavailable
from runtimes.kvm.engine import Engine

async def main():
    engine = Engine("qemu:///system?socket={path}", workers=2, seconds=0.3)
    said = []
    for _ in range(3):
        try:
            await engine.call(lambda connection: None, "do something")
        except Unavailable as error:
            said.append(str(error))
    assert "within 0.3 s" in said[0] and "2 calls hang" in said[2], said

asyncio.run(main())
"""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(16)
        subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    path.unlink()
