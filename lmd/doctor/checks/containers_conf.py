"""The host's containers.conf, which a Podman service of ours obeys where somebody has written one."""

import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmd.doctor.check import Asked, Check
from lmd.doctor.finding import Finding, note, ok, warning

SYSTEMD = Path("/run/systemd/system")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conf:
    """`path` None: nobody has written one. `wrong`: why it cannot be read. `engine` is its table of that name."""

    path: Path | None = None
    wrong: str = ""
    engine: Mapping[str, Any] = field(default_factory=dict)
    systemd: bool = True


def gather(asked: Asked) -> Conf:
    """The last of those that Podman reads, and that one alone: it wins."""
    if "podman" not in asked.runtimes:
        return Conf()
    home = Path(asked.environment.get("XDG_CONFIG_HOME") or Path(asked.environment.get("HOME") or "/") / ".config")
    named = asked.environment.get("CONTAINERS_CONF")
    own = [] if asked.uid == 0 else [home / "containers/containers.conf"]
    paths = [Path(named)] if named else [*own, Path("/etc/containers/containers.conf")]
    path = next((one for one in paths if one.is_file()), None)
    if path is None:
        return Conf()
    try:
        found = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        return Conf(path=path, wrong=str(error) if isinstance(error, ValueError) else os.strerror(error.errno or 0))
    engine = found.get("engine")
    return Conf(path=path, engine=engine if isinstance(engine, dict) else {}, systemd=SYSTEMD.is_dir())


def rule(conf: Conf) -> Iterator[Finding]:
    """lmd leaves an administrator's file as it is, so that what it would set has to stand there."""
    if conf.path is None:
        return
    if conf.wrong:
        yield warning(f"{conf.path} cannot be read, and Podman starts nothing with it: {conf.wrong}", "podman info")
        return
    if "exit_command_delay" not in conf.engine:
        yield note(
            f"{conf.path} sets no exit_command_delay: each lm exec leaves a process behind for 5 minutes",
            f"exit_command_delay = 1 in [engine] of {conf.path}",
        )
    if conf.engine.get("cgroup_manager") == "systemd" and not conf.systemd:
        yield warning(
            f"{conf.path} has systemd manage control groups, and systemd does not run here",
            f'cgroup_manager = "cgroupfs" in [engine] of {conf.path}',
        )
    yield ok(f"{conf.path} is read by Podman")


CHECK = Check("containers.conf", gather, rule)
