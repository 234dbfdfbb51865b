"""What CernVM-FS costs a machine: its start with three repositories beside the same without, and reading inside.

    python bench/cvmfs_machines.py [--rounds N] [--big MB] [--work DIR]

Publishes three repositories, serves them with nginx on loopback, and runs machines by `lm run` on this host's Podman,
with a configuration and directories of its own. Variants take turns; what is printed are medians and differences.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "cvmfs"))

from cvmfs_figures import NGINX, big_file, small_tree
from cvmfs_publisher import Publisher

PORT = 18481
NAMES = ("one.example.org", "two.example.org", "three.example.org")
LM = [sys.executable, "-c", "from lmd.cli.main import main; main()"]
READ = "dd if=/cvmfs/one.example.org/big of=/dev/null bs=1048576"
VARIANTS = {"without": None, "factory": "factory", "machine": "machine"}


def write_types(work: Path, key: Path) -> None:
    """The configuration, and a type for each variant; a payload says when it began, and reads if it is told to."""
    lines = ["[cvmfs]", 'provider = "embedded"', f'server_url = ["http://127.0.0.1:{PORT}/@fqrn@"]']
    lines += [f'public_key = ["{key}"]', "idle_seconds = 600"]
    for name, where in VARIANTS.items():
        for kind, script in (("start", "date +%s.%N"), ("read", f"{READ} 2>/dev/null; time -p {READ}")):
            lines += [f"[machinetypes.{kind}-{name}]", 'root_image = "lmd:busybox"', "mb_per_processor = 1000"]
            lines += [f"entrypoint = {json.dumps(['/bin/sh', '-c', script])}", 'network = "none"', "max_processors = 1"]
            if where:
                lines += [f"cvmfs_repositories = {json.dumps(list(NAMES))}", f'cvmfs.where = "{where}"']
    (work / "config").mkdir()
    (work / "config/lmd.toml").write_text("\n".join(lines) + "\n")


def run(work: Path, name: str) -> tuple[float, str]:
    """Seconds from the call of `lm run` until its end, and what the machine said."""
    names = {"LMD_CONFIG_DIR": "config", "LMD_STATE_DIR": "state", "LMD_RUN_DIR": "run"}
    environment = os.environ | {key: str(work / part) for key, part in names.items()}
    outputs = work / "outputs"
    began = time.perf_counter()
    done = subprocess.run(
        [*LM, "run", name, "--outputs", str(outputs)], env=environment, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - began
    shutil.rmtree(outputs, ignore_errors=True)
    if done.returncode:
        raise SystemExit(f"lm run {name}: {done.stderr}")
    return seconds, done.stdout


def starts(work: Path, rounds: int) -> None:
    found: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for number in range(rounds + 1):
        for name, values in found.items():
            seconds, _ = run(work, f"start-{name}")
            if number:  # the first round warms caches and mounts
                values.append(seconds)
    base = statistics.median(found["without"])
    for name, values in found.items():
        middle = statistics.median(values)
        print(f"lm run, {name:8} {middle:8.3f} s  {1000 * (middle - base):+7.0f} ms  (best {min(values):.3f} s)")


def reads(work: Path, megabytes: int) -> None:
    for where in ("factory", "machine"):
        _, said = run(work, f"read-{where}")
        words = said.split()
        seconds = float(words[words.index("real") + 1]) or 0.01
        print(f"{megabytes} MB read a second time inside, {where:8} {megabytes / seconds:8.0f} MB/s")
    outside = work / "outside"
    outside.mkdir()
    words = [
        "--server",
        f"http://127.0.0.1:{PORT}/one.example.org",
        "--proxy",
        "DIRECT",
        "--cache",
        str(work / "cache"),
    ]
    mount = [sys.executable, "-m", "cvmfs", "mount", "one.example.org", str(outside), "--key", str(work / "big.pub")]
    subprocess.run([*mount, *words], check=True)
    try:
        seconds = []
        for _ in range(2):
            began = time.perf_counter()
            subprocess.run(["dd", f"if={outside}/big", "of=/dev/null", "bs=1M"], check=True, capture_output=True)
            seconds.append(time.perf_counter() - began)
        print(f"{megabytes} MB read a second time outside {'':11} {megabytes / seconds[1]:8.0f} MB/s")
    finally:
        subprocess.run(["fusermount3", "-u", str(outside)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--big", type=int, default=256)
    parser.add_argument("--work", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work, prefix="lmd-bench.") as folder:
        work = Path(folder)
        work.chmod(0o711)
        for name in NAMES:
            publisher = Publisher(work / name, name)
            publisher.publish({"/big": big_file(options.big)} if name == NAMES[0] else small_tree())
        shutil.copy(publisher.key_file, work / "big.pub")
        write_types(work, work / "big.pub")
        (work / "nginx.conf").write_text(
            NGINX.format(work=work, port=PORT).replace("worker_processes", "user root; worker_processes")
        )
        subprocess.run(["nginx", "-c", str(work / "nginx.conf")], check=True)
        try:
            starts(work, options.rounds)
            reads(work, options.big)
        finally:
            subprocess.run(
                ["nginx", "-c", str(work / "nginx.conf"), "-s", "stop"], check=True, stderr=subprocess.DEVNULL
            )
            for mount in sorted((work / "run/cvmfs/mnt").glob("*")):
                subprocess.run(["fusermount3", "-u", "-z", str(mount)], check=False)
            time.sleep(1)
            subprocess.run(["umount", "-l", str(work / "run/cvmfs/mnt")], check=False, capture_output=True)


if __name__ == "__main__":
    main()
