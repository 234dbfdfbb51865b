"""Control groups: the three layouts, limits and use as version 1 and 2 write them."""

from pathlib import Path

import pytest

from runtimes.cgroups import InForce, Layout, limits_in, mounts, used_in

V2 = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate"
MEMORY = "31 24 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
CPU = "32 24 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"
UNIFIED = "33 24 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"


@pytest.mark.parametrize(
    ("lines", "layout"),
    [
        ([V2], Layout.V2),
        ([MEMORY, CPU], Layout.V1),
        ([MEMORY, CPU, UNIFIED], Layout.HYBRID),
        ([], Layout.NONE),
    ],
)
def test_the_layout_is_told_from_the_mounts(lines: list[str], layout: Layout) -> None:
    assert mounts("\n".join(lines)).layout is layout


def test_controllers_that_share_a_hierarchy_share_its_mount() -> None:
    found = mounts("\n".join([MEMORY, CPU]))
    assert found.v1["cpu"] == found.v1["cpuacct"] == Path("/sys/fs/cgroup/cpu,cpuacct")
    assert "rw" not in found.v1


def _files(directory: Path, **values: str) -> Path:
    directory.mkdir(exist_ok=True)
    for name, value in values.items():
        (directory / name.replace("__", ".")).write_text(value + "\n")
    return directory


def test_version_2_limits_and_use(tmp_path: Path) -> None:
    at = {
        "": _files(
            tmp_path,
            cpu__max="150000 100000",
            memory__max="67108864",
            pids__max="100",
            cpu__stat="usage_usec 2500000\nuser_usec 1",
            memory__current="4096",
            memory__peak="8192",
            memory__events="low 0\nhigh 0\nmax 3\noom 1\noom_kill 2",
        )
    }
    assert limits_in(at) == InForce(processors=1.5, memory_bytes=67108864, pids=100)
    used = used_in(at)
    assert (used.cpu_seconds, used.memory_bytes, used.memory_peak_bytes, used.oom_kills) == (2.5, 4096, 8192, 2)


def test_version_2_without_limits(tmp_path: Path) -> None:
    at = {"": _files(tmp_path, cpu__max="max 100000", memory__max="max", pids__max="max")}
    assert limits_in(at) == InForce()


def test_version_1_limits_and_use(tmp_path: Path) -> None:
    at = {
        "cpu": _files(tmp_path / "cpu", cpu__cfs_quota_us="50000", cpu__cfs_period_us="100000"),
        "cpuacct": _files(tmp_path / "acct", cpuacct__usage="1500000000"),
        "memory": _files(
            tmp_path / "memory",
            memory__limit_in_bytes="1048576",
            memory__usage_in_bytes="4096",
            memory__max_usage_in_bytes="8192",
            memory__oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 1",
        ),
        "pids": _files(tmp_path / "pids", pids__max="7"),
    }
    assert limits_in(at) == InForce(processors=0.5, memory_bytes=1048576, pids=7)
    used = used_in(at)
    assert (used.cpu_seconds, used.memory_peak_bytes, used.oom_kills) == (1.5, 8192, 1)


def test_version_1_without_limits(tmp_path: Path) -> None:
    at = {
        "cpu": _files(tmp_path / "cpu", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000"),
        "memory": _files(tmp_path / "memory", memory__limit_in_bytes=str(2**63 - 4096)),
    }
    assert limits_in(at) == InForce()
