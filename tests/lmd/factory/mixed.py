"""A factory that runs containers of two engines and virtual machines, and is killed and upgraded under them; then its
history, machine by machine, beside what the engines and the machines themselves have reported.
"""

import json
import shutil
import signal
import sqlite3
import statistics
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from factory_ground import Lmd
from witnesses import CREATED, ENDED, STARTED, Life, Lives

from lmd.factory.rows import ROW, Row

PACKAGES = ("lmd", "runtimes", "cvmfs", "images")
SCRIPT = """#!/bin/sh
echo '##user_data_manager_version##' >"$JOBOUTPUTS/made-by"
finish() { echo "$1" >"$JOBOUTPUTS/code"; exit "$1"; }
trap 'finish 9' TERM
set -- $(od -An -N2 -tu1 /dev/urandom)
sleep $((1 + $1 / 24)) & wait $!
finish $(($2 % 4))
"""
"""A machine that lives for 1 to 11 s, ends with 0 to 3, or with 9 when it is asked to, and says so by itself."""
TYPE = """
[machinetypes.{runtime}]
runtime = "{runtime}"
root_image = "{image}"
{more}
network = "none"
target_share = 1.0
backoff_seconds = 0
fizzle_seconds = 0
mb_per_processor = 128
user_data = {script}
"""


def configuration(images: Mapping[str, str], options: Mapping[str, Mapping[str, str]], script: Path) -> str:
    """A factory of six processors, two for each of the types."""
    script.write_text(SCRIPT)
    lines = ["[settings]", 'factory_name = "wn1"', "total_processors = 6", "overload_per_processor = 1000.0"]
    for name, words in options.items():
        lines += [f"[runtimes.{name}]", *(f"{key} = {json.dumps(value)}" for key, value in words.items())]
    for name, image in images.items():
        more = 'isolation = "vm"' if name == "kvm" else 'pull = "never"'
        lines.append(TYPE.format(runtime=name, image=image, more=more, script=json.dumps(str(script))))
    return "\n".join(lines)


class Releases:
    """Copies of the code, each with a version of its own; the one before is removed when the next is installed."""

    def __init__(self, directory: Path, checkout: Path) -> None:
        self._directory, self._checkout, self._number = directory, checkout, 0

    @property
    def current(self) -> Path:
        return self._directory / f"release{self._number}"

    def install(self) -> Path:
        """The directory of the next release, which is all that is left."""
        shutil.rmtree(self.current, ignore_errors=True)
        self._number += 1
        for name in PACKAGES:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(self._checkout / name, self.current / name, ignore=ignored)
        words = self.current / "lmd-0.dist-info/METADATA"
        words.parent.mkdir()
        words.write_text(f"Metadata-Version: 2.1\nName: lmd\nVersion: 9.{self._number}\n")
        return self.current


def lived(lmd: Lmd, releases: Releases, seconds: float, blows: int) -> Counter[str]:
    """Let the factory live for so long; so many times it is struck: killed, upgraded, killed and upgraded, …"""
    done: Counter[str] = Counter()
    began = time.monotonic()
    for number in range(blows + 1):
        time.sleep(max(0.0, began + seconds * (number + 1) / (blows + 1) - time.monotonic()))
        if number == blows:
            break
        word = ("killed", "upgraded", "killed and upgraded")[number % 3]
        assert lmd.end(signal.SIGTERM if word == "upgraded" else signal.SIGKILL) in (0, -signal.SIGKILL)
        if "upgraded" in word:
            lmd.environment["PYTHONPATH"] = str(releases.install())
        lmd.start()
        done[word] += 1
        assert lmd.daemon.get("/v1/factory")["version"] == f"9.{releases.current.name.removeprefix('release')}"
    return done


def history(lmd: Lmd) -> tuple[dict[str, Row], Counter[tuple[str, str]]]:
    """The machines in the database, and how many events of each kind there are of each."""
    with sqlite3.connect(lmd.home / "state/factory.sqlite") as db:
        rows = {name: ROW.validate_json(body) for name, body in db.execute("SELECT id, body FROM machine")}
        events = Counter(db.execute("SELECT machine, kind FROM event").fetchall())
    db.close()
    return rows, events


def disagreements(lmd: Lmd, lives: Lives, tolerance: float) -> tuple[list[str], dict[str, Any]]:
    """A line for each thing in which history, engines and machines differ; and figures."""
    rows, events = history(lmd)
    wrong = [f"machine {name} of {life.runtime} is in no history" for name, life in lives.items() if name not in rows]
    apart: dict[str, list[float]] = {}
    for name, row in rows.items():
        own = lmd.home / "state/machines" / name / "joboutputs/code"
        wrong += [f"machine {name}: {text}" for text in _differs(row, lives.get(name), own, apart, tolerance)]
        for kind in ("machine-preparing", "machine-starting", "machine-running", "machine-finished"):
            if events[name, kind] > 1 or not events[name, "machine-finished"]:
                wrong.append(f"machine {name}: {events[name, kind]} events {kind}")
    made = [row for row in rows.values() if row.id in lives]
    return wrong, {
        "machines": dict(Counter(row.runtime for row in made)),
        "never made": len(rows) - len(made),
        "outcomes": dict(Counter(str((row.outcome or {}).get("message")) for row in made)),
        "exit codes": dict(Counter(str((row.outcome or {}).get("exit_code")) for row in made)),
        "seconds apart (median, most)": {
            what: (round(statistics.median(found), 3), round(max(found), 3)) for what, found in sorted(apart.items())
        },
    }


def _differs(row: Row, life: Life | None, own: Path, apart: dict[str, list[float]], tolerance: float) -> list[str]:
    outcome = row.outcome or {}
    if row.live or not row.cleaned:
        return [f"is {row.phase} in the history"]
    if life is None:
        return [f"{row.runtime} never had it, history has {outcome}"] if outcome.get("reason") else []
    counts = {what: len(life.times[what]) for what in (CREATED, STARTED, ENDED)}
    if counts != {CREATED: 1, STARTED: 1, ENDED: 1}:
        return [f"{row.runtime} says {counts}, history has {outcome}"]
    wrong = []
    if life.runtime != row.runtime:
        wrong.append(f"ran on {life.runtime}, history has {row.runtime}")
    said = int(own.read_text()) if own.exists() else None
    for who, code in (("its engine", life.code), ("the machine", said)):
        if code is not None and code != outcome.get("exit_code"):
            wrong.append(f"{who} says {code}, history has {outcome}")
    for what, ours in (("start", row.started), ("end", outcome["at"])):
        first, last = _told(life, what)
        between = max(0.0, first - ours, ours - last) if ours else float("inf")
        apart.setdefault(f"{row.runtime} {what}", []).append(between)
        if between > tolerance:
            wrong.append(f"{what}: its engine says {first:.3f} to {last:.3f}, history has {ours}")
    return wrong


def _told(life: Life, what: str) -> tuple[float, float]:
    """Between which times an engine says that a machine started or ended: libvirt tells of a start when QEMU has done
    much of it already."""
    moment = life.times[STARTED if what == "start" else ENDED][0]
    return (life.times[CREATED][0] if life.runtime == "kvm" and what == "start" else moment), moment
