"""Docker's words in the contract's: capabilities, versions, console lines, mounts, the filter of system calls."""

import json
from pathlib import Path

import pytest

from runtimes.containers.console import Reader, kept
from runtimes.contract import Exhausted, ImageKind, Mount, Network, Rejected, Spec, Tmpfs, Unavailable
from runtimes.contract import Image as TheImage
from runtimes.docker import body, capabilities, host, network, service, waiting
from runtimes.docker.capabilities import Beside
from runtimes.docker.console import plain
from runtimes.docker.engine import DockerAnswer

INFO = {"MemoryLimit": True, "CpuCfsQuota": True, "PidsLimit": True, "DockerRootDir": "/var/lib/docker"}
MAPPED = INFO | {
    "DockerRootDir": "/var/lib/docker/165536.165536",
    "SecurityOptions": ["name=seccomp,profile=default", "name=userns"],
}
ALL = Beside(fuse_mode=0o20666, skopeo=True, static_busybox=True)


def test_mapped_ids_are_one_range_for_all_machines_and_make_nested_containers_safe() -> None:
    can = capabilities.capabilities(MAPPED, "amd64", ALL)
    assert (capabilities.mapped_root(MAPPED), capabilities.mapped_root(INFO)) == (165536, 0)
    assert (can.user_namespace, can.nested_containers, Network.HOST in can.networks) == (False, True, False)
    assert "165536" in can.absent["user_namespace"]


def test_without_mapped_ids_nested_containers_are_absent_and_why_is_said() -> None:
    can = capabilities.capabilities(INFO, "amd64", ALL)
    assert (can.nested_containers, can.fuse, Network.HOST in can.networks) == (False, False, True)
    assert "userns-remap" in can.absent["nested_containers"]


@pytest.mark.parametrize(
    ("beside", "field", "said"),
    [
        (Beside(fuse_mode=0o20666, skopeo=False, static_busybox=True), "images", "skopeo"),
        (Beside(fuse_mode=0o20666, skopeo=True, static_busybox=False), "before_start", "busybox-static"),
        (Beside(fuse_mode=0o20666, skopeo=True, static_busybox=False), "networks", "busybox-static"),
        (Beside(fuse_mode=None, skopeo=True, static_busybox=True), "fuse", "no /dev/fuse"),
        (Beside(fuse_mode=0o20600, skopeo=True, static_busybox=True), "fuse", "chmod 666"),
    ],
)
def test_what_the_host_lacks_beside_docker_is_absent(beside: Beside, field: str, said: str) -> None:
    can = capabilities.capabilities(MAPPED, "amd64", beside)
    assert said in can.absent[field]
    assert ImageKind.ROOT_DIRECTORY not in can.images
    assert (ImageKind.OCI_ARCHIVE in can.images) is beside.skopeo
    assert can.before_start is (Network.LMD in can.networks) is beside.static_busybox


def test_a_limit_that_the_kernel_lacks_is_absent() -> None:
    can = capabilities.capabilities(INFO | {"PidsLimit": False}, "amd64", ALL)
    assert "pids" not in can.limits
    assert "pids" in can.absent["limits"]


@pytest.mark.parametrize(
    ("newest", "oldest", "chosen"), [("1.41", "1.12", "1.41"), ("1.52", "1.44", "1.44"), ("1.47", "1.24", "1.41")]
)
def test_the_interface_of_20_10_is_spoken_or_the_oldest_there_is(newest: str, oldest: str, chosen: str) -> None:
    assert service.chosen({"ApiVersion": newest, "MinAPIVersion": oldest}) == chosen


@pytest.mark.parametrize("newest", ["1.40", "1.6", "", "x"])
def test_a_docker_that_is_too_old_is_refused(newest: str) -> None:
    with pytest.raises(Unavailable, match=r"20\.10"):
        service.chosen({"Version": "19.03", "ApiVersion": newest})


@pytest.mark.parametrize(
    ("options", "environment", "path"),
    [
        ({}, {}, "/run/docker.sock"),
        ({}, {"DOCKER_HOST": "unix:///x/d.sock"}, "/x/d.sock"),
        ({}, {"DOCKER_HOST": "tcp://elsewhere:2375"}, "/run/docker.sock"),
        ({"socket": "/s"}, {"DOCKER_HOST": "unix:///x/d.sock"}, "/s"),
    ],
)
def test_the_daemon_is_where_it_is_said_to_be_on_this_host(options, environment, path: str) -> None:
    assert service.socket(options, environment) == Path(path)


def test_mounts_propagate_only_where_the_nearest_mount_is_shared_or_a_slave() -> None:
    table = "\n".join(
        [
            "22 1 8:1 / / rw - ext4 /dev/sda rw",
            "30 22 0:40 / /cvmfs rw shared:7 - autofs auto rw",
            "31 22 0:41 / /with\\040blank rw master:3 - tmpfs none rw",
            "32 30 0:42 / /cvmfs/private rw - fuse x rw",
        ]
    )
    assert host.propagates(table, "/cvmfs")
    assert host.propagates(table, "/cvmfs/atlas.cern.ch")
    assert host.propagates(table, "/with blank/below")
    assert not host.propagates(table, "/cvmfs/private/x")
    assert not host.propagates(table, "/cvmfsx")


def test_a_console_is_read_across_docker_s_rotation_and_odd_lines_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "c.log"
    older = path.with_name("c.log.1")
    older.write_bytes(b'{"log":"one\\n"}\n{"log":"part "}\n')
    path.write_bytes(b'{"log":"of two\\u20ac\\n"}\nno json\n')
    reader = Reader(path, plain, most=10**6, older=older)
    try:
        head, tail = kept(reader, 1000)
    finally:
        reader.close()
    assert head.data == "one\npart of two€\nno json\n".encode()
    assert (tail.data, tail.skipped) == (b"", 0)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("write /var/lib/docker/x: no space left on device", Exhausted),
        ("could not find an available, all predefined address pools have been fully subnetted", Exhausted),
        ("connection error: dial unix /run/containerd/containerd.sock", Unavailable),
        ("invalid reference format", Rejected),
    ],
)
def test_an_error_is_one_of_the_contract_s_four(said: str, kind: type[Exception]) -> None:
    assert type(DockerAnswer(500, {"message": said}).fault("do it")) is kind


def test_the_filter_for_nested_containers_lets_namespaces_and_mounts_through_and_no_way_into_the_kernel() -> None:
    profile = json.loads(body.nested_profile())
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    whole = {name for rule in profile["syscalls"] if "args" not in rule for name in rule["names"]}
    assert {"unshare", "clone", "clone3", "setns", "mount", "umount2", "pivot_root", "fsopen", "move_mount"} <= whole
    kernel = {"bpf", "kexec_load", "init_module", "finit_module", "delete_module", "perf_event_open", "userfaultfd"}
    host_wide = {"reboot", "swapon", "settimeofday", "clock_settime", "acct", "syslog", "ioperm", "iopl", "quotactl"}
    around = {"open_by_handle_at", "keyctl", "add_key", "request_key", "io_uring_setup", "vm86", "personality"}
    assert not whole & (kernel | host_wide | around)


def spec(**changes: object) -> Spec:
    image = TheImage(kind=ImageKind.REFERENCE, location="i")
    return Spec(id="m", owner="run:0", space="s", machinetype="t", image=image, **changes)  # type: ignore[arg-type]


def ground(**changes: object) -> body.Ground:
    plain = {"image": {"Id": "sha256:1", "Config": {"Entrypoint": ["/e"], "Cmd": ["c"]}}, "first_uid": 5}
    plain |= {"nofile": 100, "nproc": 50, "fuse": True, "apparmor": False, "wait": None}
    return body.Ground(**(plain | changes))  # type: ignore[arg-type]


def test_a_request_is_never_privileged_or_unfiltered() -> None:
    for nested in (False, True):
        config = body.create_body(spec(nested_containers=nested), ground())["HostConfig"]
        assert config["CapDrop"] == ["ALL"]
        assert config["CapAdd"] == (["SETFCAP"] if nested else [])
        assert "no-new-privileges" in config["SecurityOpt"]
        assert not [word for word in config["SecurityOpt"] if "seccomp=unconfined" in word]
        assert not config.get("Privileged")
        assert ("MaskedPaths" in config) is nested


def test_a_machine_that_waits_becomes_what_it_would_have_been() -> None:
    wait = waiting.Wait(Path("/bin/busybox"), Path("/run/go"))
    made = body.create_body(spec(), ground(wait=wait))
    assert made["Entrypoint"] == list(waiting.COMMAND)
    assert made["Cmd"] == ["/e", "c"]
    assert body.create_body(spec(entrypoint=("/x",)), ground(wait=wait))["Cmd"] == ["/x"]
    assert body.create_body(spec(args=("a",)), ground(wait=wait))["Cmd"] == ["/e", "a"]
    assert "Entrypoint" not in body.create_body(spec(), ground())


def test_a_read_only_root_has_places_to_write_unless_something_is_mounted_there() -> None:
    changes = {"tmpfs": (Tmpfs(target=Path("/mine"), size_bytes=7),), "scratch": (Path("/run"),)}
    config = body.create_body(spec(read_only_root=True, **changes), ground())["HostConfig"]
    assert set(config["Tmpfs"]) == {"/mine", "/tmp", "/var/tmp"}
    assert "size=7" in config["Tmpfs"]["/mine"]
    mount = Mount(source=Path("/s"), target=Path("/t"), propagate=True)  # type: ignore[arg-type]
    [bound] = body.create_body(spec(mounts=(mount,)), ground())["HostConfig"]["Mounts"]
    assert (bound["ReadOnly"], bound["BindOptions"]["Propagation"]) == (True, "rslave")


def test_a_busybox_that_needs_a_loader_is_not_waited_with(tmp_path: Path) -> None:
    assert waiting.static_busybox() is not None
    assert not waiting._static(Path("/bin/ls"))
    (tmp_path / "text").write_text("#!/bin/sh\n")
    assert not waiting._static(tmp_path / "text")
    assert not waiting._static(tmp_path / "none")


def test_ipv6_is_given_from_the_docker_on_that_leads_it_outside() -> None:
    assert network.masquerades("27.0.1")
    assert not network.masquerades("20.10.24+dfsg1")
    assert not network.masquerades("")


def test_scratch_belongs_to_the_machine_s_user_or_where_that_is_a_name_to_all(tmp_path: Path) -> None:
    for user, expected in (("1000:50", (6000, 5050, 0o755)), (None, (5000, 5000, 0o755)), ("dirac", (0, 0, 0o1777))):
        folder = tmp_path / str(user)
        folder.mkdir()
        host.hand_over(folder, user, 5000)
        found = folder.stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == expected
