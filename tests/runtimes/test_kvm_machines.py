"""Virtual machines that misbehave, and a libvirt that does: what is told, what is left behind, what goes on."""

import asyncio
import json
import os
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from images.kit import Kit
from runtimes.contract import (
    Boot,
    EndReason,
    Exhausted,
    Health,
    Image,
    ImageKind,
    Limits,
    Mount,
    Network,
    Rejected,
    Seen,
    Spec,
    State,
    Unavailable,
)
from runtimes.kvm import Kvm
from runtimes.kvm.acceleration import program

SECONDS = 300
"""How long a machine may take: an emulated one needs some seconds, and many on a busy host."""
pytestmark = pytest.mark.timeout(2 * SECONDS)


def boot_sector() -> bytes:
    """A disk whose first sector says `lmd` on the serial port and switches the machine off."""
    code = b"\xfa\x31\xc0\x8e\xd8\xba\xf8\x03" + b"".join(bytes((0xB0, letter, 0xEE)) for letter in b"lmd\n")
    code += b"\xba\x04\x06\xb8\x00\x20\xef\xf4\xeb\xfd"
    return (code.ljust(510, b"\0") + b"\x55\xaa").ljust(2**20, b"\0")


@pytest.fixture
def boot(micro_kit: Kit) -> Boot:
    return Boot(kernel=micro_kit.kernel, initramfs=micro_kit.initramfs)


@pytest.fixture
async def kvm(libvirt_engine) -> AsyncIterator[Kvm]:
    """The runtime; what tests have made is destroyed."""
    runtime = Kvm(libvirt_engine.settings)
    try:
        yield runtime
        for seen in await runtime.machines():
            if seen.id.startswith("lmt-"):
                await runtime.destroy(seen.id)
    finally:
        await runtime.aclose()


@pytest.fixture
def spec(boot: Boot, busybox_root: Path) -> Callable[..., Spec]:
    """A spec that runs a script in a direct-boot machine with a busybox root."""

    def made(name: str, script: str = "exit 0", **changes: object) -> Spec:
        plain = Spec(
            id=f"lmt-{name}",
            owner="run:0",
            space="vac.example.org",
            machinetype="test",
            image=Image(kind=ImageKind.ROOT_DIRECTORY, location=str(busybox_root)),
            boot=boot,
            entrypoint=("/bin/sh", "-c"),
            args=(script,),
            network=Network.NONE,
        )
        return replace(plain, **changes)

    return made


async def ended(kvm: Kvm, name: str) -> Seen:
    last = time.monotonic() + SECONDS
    while time.monotonic() < last:
        seen = next(m for m in await kvm.machines() if m.id == name)
        if seen.state is State.EXITED:
            return seen
        await asyncio.sleep(0.2)
    raise AssertionError(f"{name} has not ended")


async def said(kvm: Kvm, name: str) -> str:
    return b"".join([chunk.data async for chunk in kvm.console(name, follow=False)]).decode(errors="replace")


async def until_said(kvm: Kvm, name: str, words: str) -> str:
    last = time.monotonic() + SECONDS
    while words not in (text := await said(kvm, name)):
        assert time.monotonic() < last, f"{name} has said {text!r}"
        await asyncio.sleep(0.2)
    return text


async def test_how_a_guest_ends_is_told_apart(kvm: Kvm, spec, tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(boot_sector())
    kernel = tmp_path / "kernel"
    kernel.write_bytes(program())
    dead = tmp_path / "dead"
    dead.write_bytes(b"\x7fELF no kernel")
    own = {"entrypoint": None, "args": None}
    specs = [
        spec("panic", "echo c > /proc/sysrq-trigger"),
        spec("reboot", "reboot -f"),
        spec("off", "poweroff -f"),
        spec("missing", entrypoint=("/no/such/command",), args=()),
        spec("no-command", **own),
        spec("cloud", image=Image(kind=ImageKind.DISK_RAW, location=str(disk)), boot=None, **own),
        spec("foreign-kernel", boot=Boot(kernel=kernel), **own),
    ]
    for one in specs:
        await kvm.create(one)
    ends = {one.id.removeprefix("lmt-"): (await ended(kvm, one.id)).end for one in specs}
    reasons = {name: end.reason if end else None for name, end in ends.items()}
    assert reasons == {
        "panic": EndReason.CRASHED,
        "reboot": EndReason.CLEAN,
        "off": EndReason.CLEAN,
        "missing": EndReason.FAILED,
        "no-command": EndReason.CRASHED,
        "cloud": EndReason.CLEAN,
        "foreign-kernel": EndReason.CLEAN,
    }
    assert "switched itself off or rebooted" in str(ends["reboot"])
    assert ends["missing"] and ends["missing"].exit_code == 127
    assert "no command" in str(ends["no-command"])
    assert await said(kvm, "lmt-cloud") == "lmd\n"


async def test_a_guest_that_never_boots_is_ended_by_force(kvm: Kvm, spec, tmp_path: Path) -> None:
    kernel = tmp_path / "kernel"
    halts = program().replace(b"\x66\xba\x04\x06", b"\xf4\xeb\xfd\x90")  # it halts instead of switching off
    kernel.write_bytes(halts)
    one = spec("never", boot=Boot(kernel=kernel))
    assert (await kvm.create(one)).state is State.RUNNING
    await kvm.stop(one.id, grace=1)
    end = (await ended(kvm, one.id)).end
    assert end and end.reason is EndReason.KILLED


async def test_names_and_paths_with_quotes_and_brackets_are_as_good_as_others(
    kvm: Kvm, spec, tmp_path: Path, busybox_root: Path
) -> None:
    nasty = tmp_path / """it's <a> "b" & $(c)"""
    shutil.copytree(busybox_root, nasty / "root", symlinks=True)
    shared = nasty / "sh'ared"
    shared.mkdir(mode=0o755)
    (shared / 'in "it" <x>').write_text("read")
    target = PurePosixPath("""/mnt/a 'b' <c> "d" """)
    one = spec(
        "nasty",
        f"""cat "{str(target).replace('"', chr(92) + '"')}"/*; echo; cat /proc/mounts""",
        image=Image(kind=ImageKind.ROOT_DIRECTORY, location=str(nasty / "root")),
        mounts=(Mount(source=shared, target=target),),
        space='"><evil/>',
        machinetype="<![CDATA[",
    )
    seen = await kvm.create(one)
    assert (seen.space, seen.machinetype) == ('"><evil/>', "<![CDATA[")
    end = (await ended(kvm, one.id)).end
    assert end and end.reason is EndReason.CLEAN, end
    assert (await said(kvm, one.id)).startswith("read\n")


async def test_disks_are_the_machines_own(kvm: Kvm, spec, tmp_path: Path, busybox_root: Path) -> None:
    image = tmp_path / "root.ext4"
    with image.open("wb") as stream:
        stream.truncate(64 * 2**20)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-d", str(busybox_root), str(image)], check=True)
    before = image.read_bytes()
    script = "echo x > /changed; echo y > /scratch/file; df -k /scratch | tail -n 1; stat -f -c %T /scratch"
    one = spec(
        "disks",
        script,
        image=Image(kind=ImageKind.DISK_RAW, location=str(image)),
        disk_bytes=300 * 2**20,
        scratch=(PurePosixPath("/scratch"),),
        limits=Limits(memory_bytes=128 * 2**20),
    )
    await kvm.create(one)
    end = (await ended(kvm, one.id)).end
    text = await said(kvm, one.id)
    assert end and end.reason is EndReason.CLEAN, text
    assert 200_000 < int(text.split()[1]) < 300_000
    assert image.read_bytes() == before


def hostile(path: Path, header: Callable[[bytearray], None]) -> Path:
    """A qcow2 file whose header is made to lie."""
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "16M"], check=True)
    data = bytearray(path.read_bytes())
    header(data)
    path.write_bytes(data)
    return path


def names_backing(data: bytearray) -> None:
    name = b"/etc/shadow"
    data[8:20] = struct.pack(">QI", 1024, len(name))
    data[1024 : 1024 + len(name)] = name


def names_data_file(data: bytearray) -> None:
    data[72:80] = struct.pack(">Q", 4)  # incompatible feature: external data file
    name = b"/etc/shadow"
    data[104:112] = struct.pack(">II", 0x44415441, len(name))
    data[112 : 112 + len(name)] = name


async def test_images_that_are_none_or_lead_elsewhere_are_rejected(kvm: Kvm, spec, tmp_path: Path) -> None:
    text = tmp_path / "text.qcow2"
    text.write_text("no image\n")
    bad = {
        "text": text,
        "backing": hostile(tmp_path / "backing.qcow2", names_backing),
        "data": hostile(tmp_path / "data.qcow2", names_data_file),
        "gone": tmp_path / "gone.qcow2",
        "folder": tmp_path,
        "relative": Path("relative.qcow2"),
    }
    for name, path in bad.items():
        one = spec(f"bad-{name}", image=Image(kind=ImageKind.DISK_QCOW2, location=str(path)), boot=None)
        with pytest.raises(Rejected) as refused:
            await kvm.create(one)
        assert str(path) in str(refused.value) and "\n" not in str(refused.value)
        assert all(seen.id != one.id for seen in await kvm.machines())
        assert not (kvm.root / one.id).exists()


async def test_a_missing_kernel_is_rejected_and_leaves_nothing(kvm: Kvm, spec, tmp_path: Path) -> None:
    one = spec("no-kernel", boot=Boot(kernel=tmp_path / "gone"))
    with pytest.raises(Rejected, match=r"kernel .*gone: no such file"):
        await kvm.create(one)
    assert await kvm.machines() == []
    assert not (kvm.root / one.id).exists()


async def test_a_full_disk_is_told_and_leaves_nothing(libvirt_engine, spec, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(small)], check=True)
    runtime = Kvm(replace(libvirt_engine.settings, state_dir=small))
    try:
        with pytest.raises(Exhausted, match=r"(?i)no space"):
            await runtime.create(spec("full", environment={"BIG": "x" * 20_000}))
        assert await runtime.machines() == []
        assert list((small / "kvm").glob("*")) == []
    finally:
        await runtime.aclose()
        subprocess.run(["umount", "-l", str(small)], check=True)


def _processes(text: str) -> Iterator[int]:
    """Those that have it on their command line."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if text.encode() in path.read_bytes():
                yield int(path.parent.name)


def qemu(name: str) -> int:
    """The process of a machine's QEMU."""
    for pid in _processes(f"guest={name}"):
        return pid
    raise AssertionError(f"no QEMU runs {name}")


@pytest.fixture
def away(libvirt_engine) -> Iterator[Callable[[str], None]]:
    """Take libvirtd away; it is there again when the test is over."""
    told: list[str] = []

    def tell(word: str) -> None:
        libvirt_engine.tell(word)
        told.append(word)

    yield tell
    if told and told[-1] in ("end", "kill"):
        libvirt_engine.tell("start")
    if told and told[-1] == "stop":
        libvirt_engine.tell("continue")


async def again(kvm: Kvm) -> None:
    """Wait until libvirt answers."""
    last = time.monotonic() + SECONDS
    while time.monotonic() < last:
        with suppress(Unavailable):
            await kvm.machines()
            return
        await asyncio.sleep(0.2)
    raise AssertionError("libvirt does not answer")


async def test_machines_outlive_libvirtd_and_their_ends_are_known_when_it_is_back(
    kvm: Kvm, spec, away: Callable[[str], None], tmp_path: Path
) -> None:
    (tmp_path / "flag").mkdir()
    flag = Mount(source=tmp_path / "flag", target=PurePosixPath("/flag"))
    wait = "echo here; until [ -e /flag/go ]; do sleep 0.2; done; exit 7"
    lives, ends, dies = spec("lives", "echo here; sleep 1000"), spec("ends", wait, mounts=(flag,)), spec("dies", wait)
    heard: list[str] = []

    async def listen() -> None:
        async for name in kvm.watch():
            heard.append(name)

    for one in (lives, ends, dies):
        await kvm.create(one)
    listening = asyncio.create_task(listen())
    for one in (lives, ends, dies):
        await until_said(kvm, one.id, "here")
    away("kill")
    with pytest.raises(Unavailable):
        await kvm.machines()
    await asyncio.wait_for(listening, 60)  # a watcher is told that it hears nothing any more
    (tmp_path / "flag/go").touch()
    os.kill(qemu(dies.id), signal.SIGKILL)
    last = time.monotonic() + SECONDS
    while (kvm.root / ends.id / "report.raw").read_bytes()[:1] == b"\0":
        assert time.monotonic() < last
        await asyncio.sleep(0.2)
    await asyncio.sleep(1)
    away("start")
    await again(kvm)
    seen = {m.id: m for m in await kvm.machines()}
    assert seen[lives.id].state is State.RUNNING
    end = (await ended(kvm, ends.id)).end
    assert end and (end.reason, end.exit_code) == (EndReason.FAILED, 7)
    end = (await ended(kvm, dies.id)).end
    assert end and end.reason in (EndReason.CRASHED, EndReason.LOST)
    await kvm.destroy(lives.id)


@pytest.mark.parametrize(("gone", "back"), [("stop", "continue"), ("kill", "start")])
async def test_a_libvirtd_that_hangs_or_dies_in_mid_creation_is_unavailable_and_the_machine_is_explained(
    libvirt_engine, spec, away: Callable[[str], None], gone: str, back: str
) -> None:
    options = {**libvirt_engine.options, "call_seconds": "2"}
    hasty = Kvm(replace(libvirt_engine.settings, options=options))
    patient = Kvm(libvirt_engine.settings)
    try:
        await patient.probe()
        one = spec(f"{gone}s", "sleep 1000")
        creating = asyncio.create_task(patient.create(one))
        while not (patient.root / one.id).exists():
            assert not creating.done(), creating
            await asyncio.sleep(0.005)
        away(gone)
        with pytest.raises(Unavailable):
            await hasty.machines()
        away(back)
        with suppress(Unavailable):
            await creating
        await again(patient)
        assert {m.id for m in await patient.machines()} <= {one.id}
        assert (await patient.create(one)).state is State.RUNNING
        await patient.destroy(one.id)
        assert await patient.machines() == []
        assert list(_processes(f"{patient.root / one.id}/")) == []
    finally:
        await hasty.aclose()
        await patient.aclose()


async def test_what_an_end_was_is_not_changed_by_what_comes_later(kvm: Kvm, spec, tmp_path: Path) -> None:
    one = spec("fixed", "exit 3")
    leftover = {"end.json": '{"reason": "clean", "exit_code": 0}', "report.raw": "exit 0\n", "console.log": "of before"}
    for name, text in (leftover | {"event": "crashed", "started": "1.0", "root.qcow2/x": ""}).items():
        path = kvm.root / one.id / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (kvm.logs / f"{one.id}.log").write_text("2020-01-01 00:00:00.000+0000: shutting down, reason=crashed\n")
    await kvm.create(one)
    end = (await ended(kvm, one.id)).end
    assert end and (end.reason, end.exit_code) == (EndReason.FAILED, 3), (
        "what an earlier machine of this id left counts"
    )
    assert await said(kvm, one.id) == ""
    (kvm.root / one.id / "report.raw").write_bytes(b"exit 0\n")
    assert (await ended(kvm, one.id)).end == end
    assert end and json.loads((kvm.root / one.id / "end.json").read_text())["exit_code"] == 3


async def test_a_hostile_guest_changes_nothing_of_the_host_and_leaves_files_of_its_own_ids(
    kvm: Kvm, spec, tmp_path: Path, busybox_root: Path
) -> None:
    features, outputs, secret = tmp_path / "features", tmp_path / "outputs", tmp_path / "secret"
    for folder in (features, outputs):
        folder.mkdir(mode=0o755)
    (features / "key").write_text("1\n")
    secret.write_text("s3cret")
    secret.chmod(0o500)
    script = """
    mkdir /tmp/all && mount -t virtiofs lmd /tmp/all || echo cannot mount
    for place in root mounts/0; do
        mount -o remount,rw,bind /tmp/all/$place 2>/dev/null
        echo evil > /tmp/all/$place/evil 2>/dev/null && echo changed $place
    done
    echo evil > /tmp/all/description 2>/dev/null
    ls /tmp/all/../.. >/dev/null
    cat /secret; echo
    mkdir /out/folder; echo x > /out/file; cp /bin/busybox /out/suid; chmod 4755 /out/suid; chown 1000:1000 /out/folder
    ln -s /etc/passwd /out/link; ls -ln /out/file | cut -d' ' -f 1-9
    """
    mounts = (
        Mount(source=features, target=PurePosixPath("/etc/machinefeatures")),
        Mount(source=outputs, target=PurePosixPath("/out"), read_only=False, owned_by_machine=True),
        Mount(source=secret, target=PurePosixPath("/secret"), owned_by_machine=True),
    )
    one = spec("hostile", script, mounts=mounts)
    first = (await kvm.create(one)).first_uid
    end = (await ended(kvm, one.id)).end
    text = await said(kvm, one.id)
    assert end and end.reason is EndReason.CLEAN, text
    assert "changed" not in text and "cannot" not in text
    assert "s3cret" in text
    assert sorted(path.name for path in features.iterdir()) == ["key"]
    assert not (busybox_root / "evil").exists()
    owners = {path.name: (path.lstat().st_uid, path.lstat().st_gid) for path in outputs.iterdir()}
    assert first and first > 65_535
    assert owners.pop("folder") == (first + 1000, first + 1000)
    assert set(owners.values()) == {(first, first)}


async def test_a_machine_is_what_its_spec_says(kvm: Kvm, spec) -> None:
    script = (
        'id -u; id -g; pwd; hostname; cat /etc/hostname; echo "$HOME"; touch /root/x 2>&1; cat /etc/hosts | tail -n 1'
    )
    user = spec("user", script, user="1000:1000", working_directory=PurePosixPath("/srv/made/for it"))
    network = spec("network", "ip -4 -o addr show eth0; cat /etc/resolv.conf; ip route", network=Network.BRIDGE)
    bare = spec("bare", "ls /init /bin/busybox; id -u; touch /x && echo wrote", image=initramfs(user))
    for one in (user, network, bare):
        await kvm.create(one)
    ends = [(await ended(kvm, one.id)).end for one in (user, network, bare)]
    texts = [await said(kvm, one.id) for one in (user, network, bare)]
    assert [end.reason if end else None for end in ends] == [EndReason.CLEAN] * 3, texts
    assert texts[0].splitlines()[:6] == ["1000", "1000", "/srv/made/for it", "lmt-user", "lmt-user", "/tmp"]
    assert "Permission denied" in texts[0] and "127.0.1.1 lmt-user" in texts[0]
    assert "10.0.2." in texts[1] and "nameserver 10.0.2.3" in texts[1] and "default via 10.0.2.2" in texts[1]
    assert texts[2].split() == ["/bin/busybox", "/init", "0", "wrote"]


def initramfs(one: Spec) -> Image:
    assert one.boot and one.boot.initramfs
    return Image(kind=ImageKind.INITRAMFS, location=str(one.boot.initramfs))


async def test_a_terminal_shows_what_the_machine_prints(kvm: Kvm, spec) -> None:
    one = spec("terminal", "while :; do echo tick; sleep 0.3; done")
    with pytest.raises(Rejected, match="does not run"):
        await kvm.terminal(one.id)
    await kvm.create(one)
    await until_said(kvm, one.id, "tick")
    command = await kvm.terminal(one.id)
    process, terminal = os.forkpty()
    if process == 0:
        os.execvp(command[0], list(command))
    try:
        text = b""
        while b"tick" not in text:
            text += await asyncio.wait_for(asyncio.to_thread(os.read, terminal, 1000), 30)
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(terminal)
    await kvm.destroy(one.id)


async def test_acceleration_is_found_by_doing_once_and_what_is_missing_is_said(libvirt_engine, tmp_path: Path) -> None:
    options = {**libvirt_engine.options, "acceleration": "auto"}
    auto = Kvm(replace(libvirt_engine.settings, options=options, state_dir=tmp_path))
    gone = Kvm(replace(libvirt_engine.settings, options={"uri": f"qemu:///system?socket={tmp_path}/gone"}))
    only = Kvm(replace(libvirt_engine.settings, options={**options, "acceleration": "kvm"}, state_dir=tmp_path))
    try:
        first = await auto.probe()
        assert first.health is Health.HEALTHY
        assert bool(first.reason) == bool(first.remedy)
        began = time.monotonic()
        assert (await auto.probe()).reason == first.reason
        assert time.monotonic() - began < 5, "the answer was not kept"
        kept = json.loads((tmp_path / "kvm-acceleration.json").read_text())
        assert kept["works"] is not bool(first.reason)
        strict = await only.probe()
        assert strict.health is (Health.HEALTHY if kept["works"] else Health.UNHEALTHY)
        silent = await gone.probe()
        assert silent.health is Health.UNHEALTHY
        assert "Failed to connect" in silent.reason and "virsh --connect" in silent.remedy
    finally:
        for runtime in (auto, gone, only):
            await runtime.aclose()
