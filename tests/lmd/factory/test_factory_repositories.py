"""The daemon keeps the repositories of its types mounted, and stops only types whose repository does not answer."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from lm_left import clear, servers
from lm_repositories import NAME

READS = (
    f"cat /cvmfs/{NAME}/hello; while sleep 0.2; do cat /cvmfs/{NAME}/bin/program >/dev/null 2>&1 || echo broken; done"
)


@pytest.fixture
def lmd(make_lmd, podman, podman_image: str, repository: tuple[str, Path]) -> Iterator[object]:
    url, key = repository
    options = "\n".join(f"{name} = {json.dumps(value)}" for name, value in podman.options.items())
    types = "".join(
        f'[machinetypes.{name}]\nroot_image = "docker://{podman_image}"\npull = "never"\nruntime = "podman"\n'
        'network = "none"\ntarget_share = 1.0\nmax_processors = 1\nbackoff_seconds = 0\nfizzle_seconds = 0\n'
        f'mb_per_processor = 64\nentrypoint = ["/bin/sh", "-c", {json.dumps(script)}]\n{more}\n'
        for name, script, more in (
            ("reads", READS, f'cvmfs_repositories = ["{NAME}"]'),
            ("lacks", "sleep 100", 'cvmfs_repositories = ["none.example.org"]'),
            ("plain", "sleep 100", ""),
        )
    )
    made = make_lmd(
        '[settings]\nfactory_name = "wn1"\ntotal_processors = 2\noverload_per_processor = 1000.0\n'
        f'[cvmfs]\nprovider = "embedded"\nserver_url = ["{url}"]\npublic_key = ["{key}"]\nidle_seconds = 2\n'
        f"probe_seconds = 5\n[runtimes.podman]\n{options}\n{types}"
    )
    made.start()
    yield made
    made.empty()
    made.end()
    clear(made.home)


def test_a_repository_is_kept_alive_and_stops_only_the_types_that_need_it(lmd) -> None:
    lmd.until(lambda: {one["machinetype"] for one in lmd.machines()} >= {"reads", "plain"}, seconds=60)
    lmd.until(lambda: "none.example.org" in lmd("why", "lacks").stdout)
    said = lmd("why", "lacks").stdout
    assert "CernVM-FS repository none.example.org: manifest of none.example.org" in " ".join(said.split()), said
    assert "repository:none.example.org" in lmd("warnings").stdout
    assert {one["machinetype"] for one in lmd.machines()} == {"reads", "plain"}
    (before,) = servers(lmd.home)
    lmd.end(signal.SIGKILL)
    lmd.start()
    assert servers(lmd.home) == [before], "the mount did not outlive the daemon"
    machine = next(one for one in lmd.machines() if one["machinetype"] == "reads")
    os.kill(before, signal.SIGKILL)
    lmd.until(lambda: "repository-remounted" in lmd.log(), seconds=60)
    shown = lmd("exec", machine["id"], "cat", f"/cvmfs/{NAME}/hello")
    assert shown.stdout == "hello of revision 1\n", shown.stderr
