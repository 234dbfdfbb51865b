"""Find the Podman service to talk to, or start one of our own that ends by itself.

Order: the socket that the configuration names; the host's own service, if it answers and no option asks for another
OCI runtime or storage; else `podman system service` on a private socket, which ends after a minute without a caller.
Nothing depends on that process: each container is kept by its own conmon.
"""

import asyncio
import json
import os
import shutil
import stat
import subprocess
import zlib
from collections.abc import Mapping
from pathlib import Path

from runtimes import cgroups
from runtimes.containers.engine import listening
from runtimes.contract import Unavailable
from runtimes.locks import held
from runtimes.podman.engine import PodmanEngine

IDLE_SECONDS = 60
START_SECONDS = 20.0
PING_SECONDS = 5.0
PRIVATE = ("oci_runtime", "root", "runroot", "tmpdir", "network_config_dir")


class Missing(Exception):
    """Podman is not installed; the text is the line to type."""


def host_socket(uid: int, environment: Mapping[str, str]) -> Path:
    """The socket of the host's or the user's own Podman service (podman-system-service(1))."""
    if uid == 0:
        return Path("/run/podman/podman.sock")
    return Path(environment.get("XDG_RUNTIME_DIR", f"/run/user/{uid}")) / "podman/podman.sock"


def oci_runtime(layout: cgroups.Mounts, installed: frozenset[str]) -> str | None:
    """The OCI runtime that an own service must be told to use; None leaves Podman's default.

    crun refuses hybrid control groups while the unified side lists a controller, so there runc is taken if it is there.
    """
    crun_refuses = layout.layout is cgroups.Layout.HYBRID and bool(layout.v2_controllers)
    return "runc" if crun_refuses and "runc" in installed else None


def command(program: str, options: Mapping[str, str], default_runtime: str | None, systemd: bool) -> list[str]:
    """The argument list of an own service, without its socket."""
    arguments = [program]
    if chosen := options.get("oci_runtime", default_runtime):
        arguments.append(f"--runtime={chosen}")
    for name in ("root", "runroot", "tmpdir", "network_config_dir"):
        if name in options:
            arguments.append(f"--{name.replace('_', '-')}={options[name]}")
    if not systemd:
        arguments += ["--cgroup-manager=cgroupfs", "--events-backend=file"]
    return [*arguments, "system", "service", f"--time={IDLE_SECONDS}"]


async def find(run_dir: Path, options: Mapping[str, str]) -> Path:
    """A service that answers. Raises `Missing` if Podman is not installed, `Unavailable` if none can be had."""
    seconds = float(options.get("ping_seconds", PING_SECONDS))
    if "socket" in options:
        path = Path(options["socket"].removeprefix("unix://"))
        await _require(path, seconds, f"the configured Podman socket {path} does not answer (is its service running?)")
        return path
    theirs = host_socket(os.geteuid(), os.environ)
    if not any(name in options for name in PRIVATE) and _ours_to_trust(theirs) and await _answers(theirs, seconds):
        return theirs
    return await _own(run_dir, options)


async def _own(run_dir: Path, options: Mapping[str, str]) -> Path:
    program = shutil.which("podman")
    if program is None:
        raise Missing("apt-get install podman crun uidmap slirp4netns")
    identity = json.dumps({name: options[name] for name in PRIVATE if name in options}, sort_keys=True)
    path = run_dir / ("podman.sock" if identity == "{}" else f"podman-{zlib.crc32(identity.encode()):08x}.sock")
    run_dir.mkdir(parents=True, exist_ok=True, mode=0o711)
    async with held(run_dir / "locks", f"service {path.name}"):
        if not await _answers(path, PING_SECONDS):
            await _start(program, path, options)
    return path


async def _start(program: str, path: Path, options: Mapping[str, str]) -> None:
    installed = frozenset(name for name in ("crun", "runc") if shutil.which(name))
    systemd = Path("/run/systemd/system").is_dir()
    arguments = command(program, options, oci_runtime(cgroups.mounts(), installed), systemd)
    log = path.with_suffix(".log")
    path.unlink(missing_ok=True)
    with log.open("wb") as output:
        process = await asyncio.to_thread(
            subprocess.Popen,
            [*arguments, f"unix://{path}"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd="/",
            env=_environment(path),
        )
    deadline = asyncio.get_running_loop().time() + START_SECONDS
    while not await _answers(path, PING_SECONDS):
        if process.poll() is not None or asyncio.get_running_loop().time() > deadline:
            process.kill()
            process.wait()
            raise Unavailable(f"podman's service did not start: {_last_lines(log)}")
        await asyncio.sleep(0.02)
    process.returncode = 0  # it is meant to outlive us: no warning when this object goes


def _environment(path: Path) -> dict[str, str]:
    """Our environment, and a containers.conf of ours where the administrator or the user has written none."""
    environment = dict(os.environ)
    home = Path(environment.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    theirs = [Path("/etc/containers/containers.conf"), home / "containers/containers.conf"]
    if "CONTAINERS_CONF" in environment or any(conf.exists() for conf in theirs):
        return environment
    lines = ["[containers]", 'base_hosts_file = "none"', "[engine]", "exit_command_delay = 1"]
    if shutil.which("netavark", path="/usr/lib/podman:/usr/libexec/podman:/usr/local/libexec/podman"):
        lines += ["[network]", 'network_backend = "netavark"']
    written = path.with_suffix(".conf")
    written.write_text("\n".join(lines) + "\n")
    return environment | {"CONTAINERS_CONF": str(written)}


def _last_lines(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return "; ".join(lines[-3:])[-300:] if lines else "it said nothing"


def _ours_to_trust(path: Path) -> bool:
    try:
        found = path.stat()
    except OSError:
        return False
    return stat.S_ISSOCK(found.st_mode) and found.st_uid in (0, os.geteuid())


async def _answers(path: Path, seconds: float) -> bool:
    if not listening(path):
        return False
    engine = PodmanEngine(path, workers=1)
    try:
        return (await engine.call("GET", "/_ping", seconds=seconds)).status == 200
    except Unavailable:
        return False
    finally:
        engine.close()


async def _require(path: Path, seconds: float, complaint: str) -> None:
    if not await _answers(path, seconds):
        raise Unavailable(complaint)
