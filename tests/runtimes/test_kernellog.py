"""What the kernel's log says of groups whose memory limit has killed, in the words of each layout."""

from pathlib import Path

import pytest

from runtimes.kernellog import groups_killed_by_memory_limit

ID = "ac0a0b66a1517a97bc0aed74c68b86545a8b1051de925210ba78f6c5290ef3ea"
KILL = "6,1179,860661889,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=c,mems_allowed=0,"


@pytest.mark.parametrize(
    "group",
    [
        pytest.param(f"/machine.slice/libpod-{ID}.scope/container", id="podman-v2-systemd-crun"),
        pytest.param(f"/machine.slice/libpod-{ID}.scope", id="podman-v2-systemd-runc"),
        pytest.param(f"/libpod_parent/libpod-{ID}", id="podman-cgroupfs"),
        pytest.param(f"/system.slice/docker-{ID}.scope", id="docker-systemd"),
        pytest.param(f"/docker/{ID}", id="docker-cgroupfs"),
    ],
)
def test_a_machine_is_known_by_its_id_in_the_group_that_killed(tmp_path: Path, group: str) -> None:
    log = tmp_path / "kmsg"
    log.write_text(f"{KILL}oom_memcg={group},task_memcg={group},task=sh,pid=2148,uid=0\n")
    assert any(ID in found for found in groups_killed_by_memory_limit(log))


def test_a_kill_for_want_of_the_hosts_memory_names_no_group(tmp_path: Path) -> None:
    log = tmp_path / "kmsg"
    log.write_text(
        f"6,1,1,-;oom-kill:constraint=CONSTRAINT_NONE,global_oom,task_memcg=/docker/{ID},task=sh,pid=1,uid=0\n"
    )
    assert groups_killed_by_memory_limit(log) == frozenset()


def test_a_log_that_may_not_be_read_names_none(tmp_path: Path) -> None:
    assert groups_killed_by_memory_limit(tmp_path / "none") == frozenset()
